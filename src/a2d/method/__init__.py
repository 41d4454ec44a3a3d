"""Distillation methods: Align-to-Distill, and the methods that it is compared with."""
