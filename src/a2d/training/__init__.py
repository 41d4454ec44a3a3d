"""Distillation with transformers' `Trainer`."""
