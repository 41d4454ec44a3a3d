"""Feature transfer: comparison of attention maps and hidden states of student and teacher.

`A2D` is the method of this package. `a2d.method.hidden_states` adds hidden states to it;
`a2d.method.mappings` defines the methods that it is compared with.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from a2d.errors import UserError
from a2d.families import Geometry
from a2d.method.alignment import FILE_NAME, AttentionAlignment
from a2d.method.attention import GROUPS, Features
from a2d.method.formulas import Formula, check_tensor
from a2d.method.maps import StackedMaps
from a2d.plugin_errors import defined_at

STARTS = ("random", "uniform")
"""Kinds of initial weights of an alignment."""

Masks = Mapping[str, tuple[Tensor, Tensor]]
"""Group → True at keys that queries may attend to, (B, 1 or Q, K), and at valid rows, (B, Q)."""


class Transfer(nn.Module):
    """Comparison of the student's features with the teacher's, group by group.

    Its parameters are trained together with the student.

    Args:
        groups: compared groups, those of the objective.

    Attributes:
        complete_maps: the comparison needs complete maps, so that the forward pass stores them,
            even for long sentences.
    """

    complete_maps: bool = True

    def __init__(self, groups: tuple[str, ...]) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, student: Features, teacher: Features, masks: Masks) -> dict[str, Tensor]:
        """Compare all groups; return group → scalar, summed over query rows.

        Raises:
            UserError: `compare` returns something else than a scalar.
        """
        terms = {
            group: self.compare(group, student, teacher, *masks[group]) for group in self.groups
        }
        for value in terms.values():
            check_tensor(value, (), "compare of", type(self))
        return terms

    def compare(
        self, group: str, student: Features, teacher: Features, keys: Tensor, rows: Tensor
    ) -> Tensor:
        """Compare one group.

        Args:
            group: name of the group.
            student, teacher: features of the models.
            keys: True where a query may attend to a key, broadcastable to (B, Q, K).
            rows: True at valid query positions, (B, Q).

        Returns:
            A scalar, summed over query rows.
        """
        raise UserError(f"{defined_at(type(self))} compares nothing: define compare.")

    def save(self, folder: Path) -> None:
        """Write the parameters and buffers, if any, to a file in `folder`."""
        state = {
            name: value.detach().contiguous().clone() for name, value in self.state_dict().items()
        }
        if state:
            save_file(state, folder / "transfer.safetensors")

    def load(self, folder: Path) -> None:
        """Read what `save` wrote.

        Raises:
            UserError: the file is missing or damaged.
        """
        if self.state_dict():
            try:
                self.load_state_dict(load_file(folder / "transfer.safetensors"))
            except (OSError, SafetensorError, RuntimeError) as error:
                raise UserError(
                    f"{folder} is not a checkpoint of this method: choose another output_dir, or "
                    "delete it."
                ) from error


class A2D(Transfer):
    """Attention transfer through a learned alignment (Jin et al. 2024, section 3.2).

    Each teacher map is compared with a combination of all student maps of its group.

    Args:
        student, teacher: layers and heads of the models.
        formula: rule by which maps are combined and compared.
        groups: compared groups.
        start: initial weights of the alignment: `random` or `uniform`
            (`AttentionAlignment.start_uniform`).

    Attributes:
        alignment: weights that combine the student's maps.
        mixture: fixed weights that mix the teacher's maps; None for most formulas.
    """

    def __init__(
        self,
        student: Geometry,
        teacher: Geometry,
        formula: Formula,
        groups: tuple[str, ...],
        start: str,
    ) -> None:
        super().__init__(groups)
        self.formula = formula
        self.complete_maps = formula.complete_maps
        self.alignment = AttentionAlignment(student, teacher)
        self.mixture: AttentionAlignment | None = None
        if start == "uniform":
            self.alignment.start_uniform(formula.uniform_start)
        for group in set(GROUPS) - set(groups):
            nn.init.zeros_(self.alignment.weights[group])  # they are not trained
        if formula.mixes_teacher:
            self.mixture = AttentionAlignment(teacher, teacher)
            self.mixture.requires_grad_(False)

    def compare(
        self, group: str, student: Features, teacher: Features, keys: Tensor, rows: Tensor
    ) -> Tensor:
        """Compute the divergence between the teacher's maps and the intermediate maps."""
        teacher_maps = teacher.maps[group]
        if self.mixture is not None:
            teacher_maps = StackedMaps(self.mixture(teacher_maps.stacked(), group))
        connections = self.alignment.weights[group]
        value = self.formula.loss(student.maps[group], teacher_maps, keys, rows, connections)
        check_tensor(value, (), "the formula", type(self.formula))
        return value

    def save(self, folder: Path) -> None:
        """Write the alignment and, if a subclass has more parameters, all in a second file."""
        self.alignment.save(folder / FILE_NAME)
        if self._has_more:
            super().save(folder)

    def load(self, folder: Path) -> None:
        """Read what `save` wrote."""
        if self._has_more:
            super().load(folder)
            return
        alignment = AttentionAlignment.load(folder / FILE_NAME)
        self.alignment.load_state_dict(alignment.state_dict())

    @property
    def _has_more(self) -> bool:
        """Check for parameters and buffers of a subclass; the mixture depends on the seed alone."""
        return any(name.split(".")[0] not in ("alignment", "mixture") for name in self.state_dict())
