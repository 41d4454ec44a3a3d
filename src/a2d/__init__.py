"""Align-to-Distill: distillation of big translation models into small, fast ones."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from a2d.errors import UserError
    from a2d.method.alignment import AttentionAlignment
    from a2d.training.config import A2DConfig
    from a2d.training.trainer import A2DTrainer

__version__ = "0.1.0"

__all__ = ["A2DConfig", "A2DTrainer", "AttentionAlignment", "UserError", "__version__"]

_HOMES = {
    "A2DConfig": "a2d.training.config",
    "A2DTrainer": "a2d.training.trainer",
    "AttentionAlignment": "a2d.method.alignment",
    "UserError": "a2d.errors",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use, because its modules load PyTorch and transformers."""
    if name not in _HOMES:
        raise AttributeError(f"module 'a2d' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
