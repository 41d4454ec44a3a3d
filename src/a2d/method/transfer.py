"""Feature transfer: what a method compares inside student and teacher, beyond their outputs.

`A2D` here is the method of this package. `a2d.method.hidden_states` has what may be compared
besides, `a2d.method.mappings` the methods that it is compared with.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from a2d.errors import UserError
from a2d.method import losses
from a2d.method.alignment import FILE_NAME, AttentionAlignment
from a2d.method.attention import GROUPS, Features

FORMULAS = ("paper", "geometric", "convex", "official", "official-mixture")

STARTS = ("random", "uniform")
"""How an alignment may start."""

Masks = Mapping[str, tuple[Tensor, Tensor]]
"""Group → keys that queries may attend to, (B, 1 or Q, K), and query rows that count, (B, Q)."""


class Transfer(nn.Module):
    """Compares the student's features with the teacher's, group by group.

    Args:
        groups: the groups compared; the others' terms do not exist.
    """

    hidden_states: ClassVar[bool] = False
    """Whether `forward` reads the layers' outputs."""

    stacked: bool = True
    """Whether `forward` reads maps as tensors, however long sentences are."""

    def __init__(self, groups: tuple[str, ...]) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, student: Features, teacher: Features, masks: Masks) -> dict[str, Tensor]:
        """Per group a scalar, summed over query rows."""
        return {
            group: self.compare(group, student, teacher, *masks[group]) for group in self.groups
        }

    def compare(
        self, group: str, student: Features, teacher: Features, keys: Tensor, rows: Tensor
    ) -> Tensor:
        """One group's sum over query rows; `keys` and `rows` as in `losses`."""
        raise NotImplementedError

    def save(self, folder: Path) -> None:
        """Write what was learned, if anything, to a file in `folder`."""
        if list(self.parameters()):
            save_file(self.state_dict(), folder / "transfer.safetensors")

    def load(self, folder: Path) -> None:
        """Read what `save` wrote.

        Raises:
            UserError: the file is missing or damaged.
        """
        if list(self.parameters()):
            try:
                self.load_state_dict(load_file(folder / "transfer.safetensors"))
            except (OSError, SafetensorError, RuntimeError) as error:
                raise UserError(
                    f"{folder} is no checkpoint of this method: choose another output_dir, or "
                    "delete it."
                ) from error


class A2D(Transfer):
    """Attention transfer through a learned alignment (Jin et al. 2024, section 3.2).

    Every teacher map is compared with a combination of all the student's maps of its group. With W
    the alignment and S the student's maps, `formula` says which:

    - `paper`: softmax(W·S), row by row over the valid keys (Eq. 9 and 10).
    - `geometric`: softmax(W·log S): the same of log-probabilities, a weighted geometric mean. A
      single weight of one reproduces a student's map, which the paper's form cannot.
    - `convex`: V·S, with V the softmax of W over the student's channels: a weighted mean.
    - `official`: what the released code computes, a softmax over whole maps on both sides.
    - `official-mixture`: the same with the teacher's maps replaced by random mixtures of them, as
      the released code does (its teacher has an alignment of its own, which nothing ever trains).

    Args:
        alignment: the student's alignment.
        formula: one of `FORMULAS`.
        groups: the groups compared.
        start: of the alignment, `random` or `uniform` (`AttentionAlignment.start_uniform`).
    """

    def __init__(
        self, alignment: AttentionAlignment, formula: str, groups: tuple[str, ...], start: str
    ) -> None:
        super().__init__(groups)
        self.formula = formula
        self.stacked = formula.startswith("official")
        self.alignment = alignment
        self.alignment.convex = formula == "convex"
        self.mixture: AttentionAlignment | None = None
        if start == "uniform":
            alignment.start_uniform({"geometric": 1.0, "convex": 4.0}.get(formula, 5.0))
        for group in set(GROUPS) - set(groups):
            nn.init.zeros_(alignment.weight(group))  # nothing will ever train it
        if formula == "official-mixture":
            self.mixture = AttentionAlignment(alignment.teacher, alignment.teacher)
            self.mixture.requires_grad_(False)

    def compare(
        self, group: str, student: Features, teacher: Features, keys: Tensor, rows: Tensor
    ) -> Tensor:
        """KL of the teacher's maps from the intermediate ones."""
        maps, wanted = student.maps[group], teacher.maps[group]
        if self.formula in ("official", "official-mixture"):
            if self.mixture is not None:
                wanted = self.mixture(wanted, group)
            return losses.official_attention_transfer(self.alignment(maps, group), wanted)
        weight = self.alignment.connections(group)
        return losses.attention_transfer(
            maps, wanted, keys, rows, weight=weight, formula=self.formula
        )

    def save(self, folder: Path) -> None:
        """Write the alignment."""
        self.alignment.save(folder / FILE_NAME)

    def load(self, folder: Path) -> None:
        """Read the alignment."""
        saved = AttentionAlignment.load(folder / FILE_NAME)
        self.alignment.load_state_dict(saved.state_dict())
