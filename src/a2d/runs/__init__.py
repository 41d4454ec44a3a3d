"""Experiments: what a recipe asks for, done in stages that can be interrupted, and shown."""
