"""What a report compares: systems that translated one test set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from a2d.errors import UserError

Role = Literal["teacher", "student", "system"]


class Gain(NamedTuple):
    """Lead of a system over another one.

    Attributes:
        bleu: difference in BLEU.
        p_value: its p-value by paired bootstrap resampling.
    """

    bleu: float
    p_value: float


@dataclass(frozen=True)
class System:
    """A system and its translations.

    Attributes:
        name: unique name.
        label: name that systems share if they differ in the seed only.
        hypotheses: translation of each source, one line each.
        role: `teacher`, `student`, or `system` for others.
        shape: short description of a model's sizes.
        parameters: number of parameters; None: unknown.
        speed: sentences per second; None: unknown.
        train_seconds: training time; None: unknown.
        size_bytes: size of the weights on disk; None: unknown.
        original: name of the system that this one is an export of; empty for others.
        refused: why it is not fit for use, for an export; empty for others.
        gains: label of another system → lead over that one, where both are alike but for the
            method.
    """

    name: str
    label: str
    hypotheses: Sequence[str]
    role: Role = "system"
    shape: str = ""
    parameters: int | None = None
    speed: float | None = None
    train_seconds: float | None = None
    size_bytes: int | None = None
    original: str = ""
    refused: str = ""
    gains: Mapping[str, Gain] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """Systems that translated one test set.

    Attributes:
        title: title of the page.
        pair: language codes of source and target; None: unknown.
        sources: the test set's sources, one line each.
        references: a reference of each source.
        systems: the systems; the others are compared with the first one.
        rarest: for each source, how often its rarest word occurs in the training data; None:
            unknown.
        domains: domain of each source, or the file it comes from; None: unknown.

    Raises:
        UserError: a system lacks translations or has too many, or two have the same name.
    """

    title: str
    pair: tuple[str, str] | None
    sources: Sequence[str]
    references: Sequence[str]
    systems: Sequence[System]
    rarest: Sequence[int] | None = None
    domains: Sequence[str] | None = None

    def __post_init__(self) -> None:
        sizes = {"the references": len(self.references)}
        sizes |= {} if self.domains is None else {"the domains": len(self.domains)}
        sizes |= {} if self.rarest is None else {"the counts of words": len(self.rarest)}
        sizes |= {system.name: len(system.hypotheses) for system in self.systems}
        for name, size in sizes.items():
            if size != len(self.sources):
                raise UserError(
                    f"{name}: {size:,} lines for {len(self.sources):,} sources: give a line for "
                    "each source."
                )
        names = [system.name for system in self.systems]
        for name in names:
            if names.count(name) > 1:
                raise UserError(f"two systems are called {name!r}: give them different names.")
        if not names or not self.sources:
            raise UserError("there is nothing to compare: give sources and at least one system.")
