"""Energy that a machine uses, from its own counters; nothing is estimated from specifications.

Processors count by RAPL (`/sys/class/powercap`, often readable by root only), NVIDIA GPUs by NVML,
if the package nvidia-ml-py is installed. The counters are those of the whole machine.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, Self

POWERCAP = Path("/sys/class/powercap")
_PERIOD = 60.0
"""Seconds between two readings: a counter of processors must not wrap around twice meanwhile."""
_JOULES_PER_WATT_HOUR = 3600.0


class Counter(NamedTuple):
    """A counter of energy.

    Attributes:
        read: function that returns joules since some moment.
        limit: joules at which the counter begins at zero again.
    """

    read: Callable[[], float]
    limit: float


class EnergyMeter:
    """Meter of the energy that the machine uses in a `with` block.

    Example:
        >>> with EnergyMeter([]) as meter:
        ...     pass
        >>> print(meter.watt_hours)
        None
    """

    def __init__(self, counters: list[Counter] | None = None) -> None:
        """Prepare the meter.

        Args:
            counters: counters to read; None: all that this process can read.
        """
        self._counters = find_counters() if counters is None else counters
        self._joules = [0.0 for _ in self._counters]
        self._last: list[float] = []
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        """Begin to count."""
        self._began = time.monotonic()
        self._last = [counter.read() for counter in self._counters]
        if self._counters:
            self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Stop counting."""
        self._end.set()
        self.update()

    @property
    def seconds(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._began

    @property
    def watt_hours(self) -> float | None:
        """Energy used so far, in watt-hours; None without counters."""
        if not self._counters:
            return None
        self.update()
        return sum(self._joules) / _JOULES_PER_WATT_HOUR

    def update(self) -> None:
        """Read all counters and add what they have counted since the last reading."""
        with self._lock:
            for place, counter in enumerate(self._counters):
                with suppress(Exception):  # a GPU may fall off; what it used before still counts
                    value = counter.read()
                    used = value - self._last[place]
                    self._joules[place] += used if used >= 0 else used + counter.limit
                    self._last[place] = value

    def _watch(self) -> None:
        while not self._end.wait(_PERIOD):
            self.update()


def total_energy(meter: EnergyMeter, record: Path) -> dict[str, float] | None:
    """Add the energy of this command to that of earlier ones of the same run.

    Commands that were interrupted are not counted.

    Args:
        meter: meter of this command.
        record: file with the sum of the earlier commands, if there were any.

    Returns:
        `watt_hours` and the `seconds` of these commands; None where nothing can be measured.
    """
    if meter.watt_hours is None:
        return None
    total = {"watt_hours": meter.watt_hours, "seconds": meter.seconds}
    try:
        earlier = json.loads(record.read_text("utf-8"))
        return {name: value + earlier[name] for name, value in total.items()}
    except (OSError, ValueError, KeyError, TypeError):  # none, damaged, or not measured
        return total


def find_counters(powercap: Path = POWERCAP) -> list[Counter]:
    """Find the counters of energy that this process can read.

    Args:
        powercap: folder of the kernel's power capping framework.
    """
    return [*_processor_counters(powercap), *_gpu_counters()]


def _processor_counters(powercap: Path) -> list[Counter]:
    """Find the counters of processors; those of their parts (`intel-rapl:0:0`) are left out."""
    counters = []
    for folder in sorted(powercap.glob("intel-rapl:*")):
        path = folder / "energy_uj"
        with suppress(OSError, ValueError):
            if folder.name.count(":") == 1 and int(path.read_text()) >= 0:
                limit = int((folder / "max_energy_range_uj").read_text()) / 1e6
                counters.append(Counter(lambda path=path: int(path.read_text()) / 1e6, limit))  # type: ignore[misc]
    return counters


def _gpu_counters() -> list[Counter]:
    with suppress(Exception):  # no NVML, no driver, or an old GPU
        import pynvml

        pynvml.nvmlInit()
        handles = [
            pynvml.nvmlDeviceGetHandleByIndex(number)
            for number in range(pynvml.nvmlDeviceGetCount())
        ]
        return [_gpu_counter(pynvml, handle) for handle in handles]
    return []


def _gpu_counter(nvml: Any, handle: Any) -> Counter:
    nvml.nvmlDeviceGetTotalEnergyConsumption(handle)  # fails here on GPUs without the counter
    return Counter(lambda: nvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3, 2.0**64 / 1e3)
