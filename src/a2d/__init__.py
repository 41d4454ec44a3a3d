"""Align-to-Distill: small, fast translation models out of big ones."""

from a2d.alignment import AttentionAlignment
from a2d.config import A2DConfig
from a2d.errors import UserError
from a2d.trainer import A2DTrainer

__version__ = "0.1.0"

__all__ = ["A2DConfig", "A2DTrainer", "AttentionAlignment", "UserError", "__version__"]
