"""Registry of distillation methods: what a student learns from, and comparisons of features.

`METHODS` holds one entry per method; `register_method` adds one from outside the package.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from a2d.errors import UserError
from a2d.families import Geometry
from a2d.method.attention import GROUPS
from a2d.method.formulas import FORMULAS, Formula
from a2d.method.hidden_states import A2DHidden
from a2d.method.mappings import Combination, LayerMapping, MiniLM, TinyBert
from a2d.method.transfer import A2D, Transfer
from a2d.plugin_errors import check_call
from a2d.plugins import Registry, check_entry

if TYPE_CHECKING:
    from a2d.method.objective import Objective


class ModelSize(NamedTuple):
    """Sizes of a model that a comparison may depend on.

    Attributes:
        geometry: layers and heads.
        width: width of hidden states.
        attention_width: width of a layer's queries, keys and values, all heads together.
    """

    geometry: Geometry
    width: int
    attention_width: int


Build = Callable[[ModelSize, ModelSize, "Objective"], Transfer]
"""Function that builds a comparison of features from the sizes of student and teacher and the
objective. It raises `UserError` if the method does not fit the sizes."""


@dataclass(frozen=True)
class Method:
    """A distillation method.

    Attributes:
        name: name in configurations and recipes.
        summary: one-line description of what the student learns from.
        source: paper and section.
        sequences: train on the teacher's translations of the training source as references.
        references: with `sequences`, train on the corpus's references too: each source occurs
            twice.
        distribution: learn from the teacher's next-token distributions (word-level distillation).
        build: builder of the comparison of features; None if the method compares no features.
        build_settings: settings of the objective that `build` reads, besides those in `settings`
            and `label_smoothing`; other settings cannot be read.
        groups: the groups of attention that it can compare. It compares those of them that the
            setting `groups` names, `Objective.groups`.
        hidden_states: the comparison reads the layers' outputs.
        values: the comparison reads the last layers' value vectors.
    """

    name: str
    summary: str
    source: str = ""
    sequences: bool = False
    references: bool = False
    distribution: bool = False
    build: Build | None = None
    build_settings: tuple[str, ...] = ()
    groups: tuple[str, ...] = GROUPS
    hidden_states: bool = False
    values: bool = False

    @property
    def compares(self) -> bool:
        """Check whether the method compares features."""
        return self.build is not None

    @property
    def uses_outputs(self) -> bool:
        """Check whether training needs the teacher's outputs for each batch, live or cached."""
        return self.distribution or self.compares

    @property
    def uses_teacher(self) -> bool:
        """Check whether the method needs a teacher, for outputs or for translations."""
        return self.sequences or self.uses_outputs

    @property
    def states(self) -> bool:
        """Check whether the teacher's cache must hold hidden states and value vectors."""
        return self.hidden_states or self.values

    @property
    def settings(self) -> frozenset[str]:
        """Names of the settings that results depend on, which are recorded with a trained model.

        Other settings are not recorded, because a change of them must not train a model again.
        """
        names: list[str] = []
        if self.distribution:
            names += ["alpha", "temperature"]
        if self.compares:
            names += ["beta", "decay", "beta_until", "groups", "alignment_learning_rate"]
        return frozenset([*names, *self.build_settings])


METHODS: Registry[Method] = Registry()
"""All methods by name."""


def register_method(method: Method) -> Method:
    """Add a method to `METHODS`, so that configurations and recipes can name it.

    Raises:
        UserError: it is no method, another one has its name, `build` does not take three arguments,
            or `groups` is not a tuple of groups.
    """
    check_entry(method, Method)
    if method.name in METHODS:
        raise UserError(f"a method {method.name!r} exists already: choose another name.")
    if method.build is not None:
        check_call(method.build, ("student", "teacher", "objective"))
    if not method.groups or not set(method.groups) <= set(GROUPS):
        raise UserError(
            f"the groups of method {method.name!r} are {method.groups!r}: give a tuple of some of "
            f"{', '.join(GROUPS)}."
        )
    METHODS[method.name] = method
    return method


def _a2d(student: ModelSize, teacher: ModelSize, objective: Objective) -> Transfer:
    return A2D(student.geometry, teacher.geometry, *_alignment(objective))


def _a2d_hidden(student: ModelSize, teacher: ModelSize, objective: Objective) -> Transfer:
    widths = student.width, teacher.width
    return A2DHidden(student.geometry, teacher.geometry, *_alignment(objective), widths)


def _alignment(objective: Objective) -> tuple[Formula, tuple[str, ...], str]:
    return FORMULAS[objective.formula], objective.groups, objective.alignment_start


_ALIGNMENT = ("formula", "alignment_start")

for _method in (
    Method("baseline", "the references alone"),
    Method(
        "kd",
        "word-level distillation",
        "Hinton et al. 2015; Kim & Rush 2016, section 3.1",
        distribution=True,
    ),
    Method(
        "seqkd",
        "the teacher's translations as references",
        "Kim & Rush 2016, section 3.2",
        sequences=True,
    ),
    Method(
        "seqkd+references",
        "every source twice, with the teacher's translation and with the reference",
        sequences=True,
        references=True,
    ),
    Method(
        "seqkd+kd",
        "the teacher's translations and word-level distillation",
        "Kim & Rush 2016",
        sequences=True,
        distribution=True,
    ),
    Method(
        "last",
        "kd, and attention maps compared with the teacher's last layers",
        "Sun et al. 2019 (PKD-last), for attention maps",
        distribution=True,
        build=lambda s, t, o: LayerMapping("last", s.geometry, t.geometry, o.groups),
    ),
    Method(
        "uniform",
        "kd, and attention maps compared with every k-th teacher layer",
        "Sun et al. 2019 (PKD-skip), for attention maps",
        distribution=True,
        build=lambda s, t, o: LayerMapping("uniform", s.geometry, t.geometry, o.groups),
    ),
    Method(
        "tinybert",
        "kd, attention maps and projected hidden states, uniform mapping",
        "Jiao et al. 2020, Eq. 7 and 8",
        distribution=True,
        build=lambda s, t, o: TinyBert(s.geometry, t.geometry, o.groups, (s.width, t.width)),
        hidden_states=True,
    ),
    Method(
        "minilm",
        "kd, attention maps and value relations of the last layers",
        "Wang et al. 2020, sections 3.1 and 3.2; Wang et al. 2021",
        distribution=True,
        build=lambda s, t, o: MiniLM(s.geometry, t.geometry, o.groups, s.attention_width),
        values=True,
    ),
    Method(
        "ckd",
        "kd, and attention maps compared with learned fusions of teacher layers",
        "Wu et al. 2020, for attention maps",
        distribution=True,
        build=lambda s, t, o: Combination(s.geometry, t.geometry, o.groups),
    ),
    Method(
        "a2d",
        "kd, and attention transfer through a learned alignment",
        "Jin et al. 2024",
        distribution=True,
        build=_a2d,
        build_settings=_ALIGNMENT,
    ),
    Method(
        "a2d+hidden",
        "a2d, and hidden states compared through a learned projection",
        "Jin et al. 2024; hidden states are ours",
        distribution=True,
        build=_a2d_hidden,
        build_settings=_ALIGNMENT,
        hidden_states=True,
    ),
    Method(
        "seqkd+a2d",
        "a2d with the teacher's translations as references",
        "Kim & Rush 2016, section 3.2; Jin et al. 2024",
        sequences=True,
        distribution=True,
        build=_a2d,
        build_settings=_ALIGNMENT,
    ),
):
    register_method(_method)
