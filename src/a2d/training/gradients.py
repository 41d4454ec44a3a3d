"""Gradients that come from a method or formula of a plugin."""

from __future__ import annotations

from torch import Tensor

from a2d.method.attention import Features
from a2d.method.transfer import Transfer


class GradientRecord:
    """Record of whether the gradients that a comparison of features returns are finite.

    It tells whether a gradient of the student that is not finite comes from the comparison or from
    the student itself. It does not wait for the device.

    Args:
        transfer: the comparison. The gradients of its parameters are recorded, too.
    """

    def __init__(self, transfer: Transfer) -> None:
        self._infinite: Tensor | None = None
        for parameter in transfer.parameters():
            if parameter.requires_grad:
                parameter.register_hook(self._add)

    def watch(self, student: Features) -> Features:
        """Return the same features; the gradients that the comparison gives them are recorded."""
        return Features(
            {
                group: maps.with_inputs(*map(self._watched, maps.inputs))
                for group, maps in student.maps.items()
            },
            {group: self._watched(values) for group, values in student.values.items()},
            {stack: list(map(self._watched, layers)) for stack, layers in student.hidden.items()},
        )

    def take(self) -> Tensor | None:
        """Return True if a gradient since the last call was infinite or NaN; None without any."""
        infinite, self._infinite = self._infinite, None
        return infinite

    def _watched(self, tensor: Tensor) -> Tensor:
        if not tensor.requires_grad:
            return tensor
        view = tensor.view_as(tensor)  # its gradient comes from the comparison alone
        view.register_hook(self._add)
        return view

    def _add(self, gradient: Tensor) -> None:
        infinite = ~gradient.isfinite().all()
        self._infinite = infinite if self._infinite is None else self._infinite | infinite
