"""Formulas of attention transfer: how student maps are combined and compared with the teacher's.

`FORMULAS` holds one object per formula; `register_formula` adds one from outside the package.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from a2d.errors import UserError
from a2d.method.alignment import combine
from a2d.method.losses import EPSILON, attention_transfer, official_attention_transfer
from a2d.method.maps import AttentionMaps
from a2d.plugin_errors import check_call, defined_at, may_use
from a2d.plugins import Registry, check_entry


def check_tensor(value: Any, shape: tuple[int, ...], what: str, code: Any) -> None:
    """Check what a method or formula returns.

    Args:
        value: what it returns.
        shape: shape of the real tensor that it must return; () for a scalar.
        what: words before the name of the code in the message.
        code: class or function that returns the value.

    Raises:
        UserError: it is something else.
    """
    if isinstance(value, Tensor) and value.shape == shape and not value.is_complex():
        return
    kind = type(value).__name__
    if isinstance(value, Tensor):
        kind += f" of shape {tuple(value.shape)} and {value.dtype}"
    needed = f"real tensor of shape {tuple(shape)}" if shape else "real scalar tensor"
    raise UserError(f"{what} {defined_at(code)} returns a {kind}: it must return a {needed}.")


@dataclass(frozen=True)
class Formula:
    """Rule by which attention transfer combines the student's maps and compares them.

    A subclass defines `divergence`; autograd derives the gradient. It may also define `combine`, or
    replace the whole `loss` to save memory; `loss` then calls neither of the two.

    Attributes:
        name: name in configurations and recipes.
        summary: one-line description of what is computed.
        source: paper and section, or code.
        uniform_start: initial weight on corresponding heads with the alignment start `uniform`.
        complete_maps: `loss` needs complete maps, so that the forward pass stores them.
        mixes_teacher: replace the teacher's maps by random, fixed mixtures of them.
        released_normalisation: normalise all losses as in the authors' released code
            (`a2d.method.objective`).
    """

    name: str
    summary: str
    source: str = ""
    uniform_start: float = 5.0
    complete_maps: bool = True
    mixes_teacher: bool = False
    released_normalisation: bool = False

    def combine(self, connections: Tensor, maps: Tensor) -> Tensor:
        """Combine student maps into intermediate maps, one for each teacher map.

        Args:
            connections: weights of the alignment (C_T, C_S).
            maps: the student's maps (B, C_S, Q, K).

        Returns:
            Intermediate maps (B, C_T, Q, K).
        """
        return combine(connections, maps)

    def divergence(
        self, student_maps: Tensor, teacher_maps: Tensor, keys: Tensor, rows: Tensor
    ) -> Tensor:
        """Compare intermediate maps with the teacher's.

        Args:
            student_maps: intermediate maps (B, C_T, Q, K), from `combine`.
            teacher_maps: probabilities (B, C_T, Q, K), without gradients.
            keys: True where a query may attend to a key, broadcastable to (B, Q, K).
            rows: True at valid query positions, (B, Q).

        Returns:
            A scalar, summed over valid query rows; the trainer divides it by their number.
        """
        raise NotImplementedError

    def intermediate(self, connections: Tensor, maps: Tensor, keys: Tensor) -> Tensor:
        """Compute the probabilities that are compared with the teacher's maps, for display.

        Args:
            connections: weights of the alignment (C_T, C_S).
            maps: the student's maps of one sentence (1, C_S, Q, K).
            keys: True where a query may attend to a key, (Q, K).

        Returns:
            Maps (1, C_T, Q, K).
        """
        return self.combine(connections, maps).masked_fill(~keys, -torch.inf).softmax(-1)

    def loss(
        self,
        student: AttentionMaps,
        teacher: AttentionMaps,
        keys: Tensor,
        rows: Tensor,
        connections: Tensor,
    ) -> Tensor:
        """Combine the student's maps and compare them with the teacher's.

        Args:
            student: maps (B, C_S, Q, K).
            teacher: maps (B, C_T, Q, K); no gradient flows to them.
            keys, rows: as in `divergence`.
            connections: weights of the alignment (C_T, C_S).

        Returns:
            A scalar, summed over valid query rows.
        """
        with torch.autocast(keys.device.type, enabled=False):  # bfloat16 is too coarse for maps
            combined, target = self.combine(connections, student.stacked()), teacher.stacked()
            check_tensor(combined, target.shape, "combine of", type(self))
            return self.divergence(combined, target.detach(), keys, rows)


@dataclass(frozen=True)
class RowWise(Formula):
    """KL divergence between attention rows, computed block by block with its gradient.

    Attributes:
        log_maps: combine the logarithms of the student's maps.
    """

    complete_maps: bool = False
    log_maps: bool = False

    def intermediate(self, connections: Tensor, maps: Tensor, keys: Tensor) -> Tensor:
        """Combine the maps, or their logarithms; a softmax makes each row sum to one."""
        logs = (maps + EPSILON).log() if self.log_maps else maps
        return super().intermediate(connections, logs, keys)

    def loss(
        self,
        student: AttentionMaps,
        teacher: AttentionMaps,
        keys: Tensor,
        rows: Tensor,
        connections: Tensor,
    ) -> Tensor:
        """Compute KL(teacher row ‖ intermediate row), averaged over teacher maps."""
        return attention_transfer(
            student,
            teacher,
            keys,
            rows,
            weight=connections,
            log_maps=self.log_maps,
        )


@dataclass(frozen=True)
class WholeMaps(Formula):
    """KL divergence between softmaxes over whole maps, as in the authors' released code."""

    released_normalisation: bool = True

    def intermediate(self, connections: Tensor, maps: Tensor, keys: Tensor) -> Tensor:
        """Combine the maps; a softmax makes each whole map sum to one."""
        combined = self.combine(connections, maps)
        return combined.flatten(2).softmax(-1).view_as(combined)

    def divergence(
        self, student_maps: Tensor, teacher_maps: Tensor, keys: Tensor, rows: Tensor
    ) -> Tensor:
        """Compute the KL divergence, summed over maps, with padding and future positions."""
        return official_attention_transfer(student_maps, teacher_maps)


FORMULAS: Registry[Formula] = Registry()
"""All formulas by name."""


def register_formula(formula: Formula) -> Formula:
    """Add a formula to `FORMULAS`, so that configurations and recipes can name it.

    Raises:
        UserError: it is no formula, another one has its name, or it lacks a method, defines one
            that is never called, or has one that does not take the arguments it is called with.
    """
    check_entry(formula, Formula)
    if formula.name in FORMULAS:
        raise UserError(f"a formula {formula.name!r} exists already: choose another name.")
    _check_methods(formula)
    FORMULAS[formula.name] = formula
    return formula


_CALLS = {
    "loss": ("student", "teacher", "keys", "rows", "connections"),
    "combine": ("connections", "maps"),
    "divergence": ("student_maps", "teacher_maps", "keys", "rows"),
}
"""Methods of a formula, and the arguments that they are called with."""


def _check_methods(formula: Formula) -> None:
    """Refuse a formula whose `divergence` or `combine` is missing or has no effect."""
    kind = type(formula)
    definers = {name: next(c for c in kind.__mro__ if name in vars(c)) for name in _CALLS}
    loss = definers["loss"]
    if loss is Formula is definers["divergence"]:
        raise UserError(
            f"formula {formula.name!r} compares nothing: define divergence in a subclass of "
            "Formula."
        )
    for name, arguments in _CALLS.items():
        overrides = definers[name] is not loss and issubclass(definers[name], loss)
        if overrides and not may_use(vars(loss)["loss"], {name, "loss"}):
            raise UserError(
                f"{name} of {defined_at(kind)} would never be called: the loss of {loss.__name__} "
                "calls neither divergence nor combine. Derive it from Formula, or define loss, too."
            )
        check_call(getattr(formula, name), arguments, f"{name} of {defined_at(kind)}")


_PAPER = "Jin et al. 2024 (arXiv 2403.01479), section 3.2"

register_formula(
    RowWise("paper", "softmax(W·S), row by row over the valid keys", f"{_PAPER}, Eq. 9 and 10")
)
register_formula(
    RowWise(
        "geometric",
        "softmax(W·log S): a weighted geometric mean; a single weight of one reproduces a map, "
        "which the paper's form cannot",
        "ours",
        uniform_start=1.0,
        log_maps=True,
    )
)
register_formula(
    WholeMaps("official", "softmax over whole maps on both sides", f"code released with {_PAPER}")
)
register_formula(
    WholeMaps(
        "official-mixture",
        "as official, with random mixtures of the teacher's maps: the released code's teacher has "
        "an alignment of its own, which nothing trains",
        f"code released with {_PAPER}",
        mixes_teacher=True,
    )
)
