"""The machine that a process runs on, as far as measurements name it."""

from __future__ import annotations

import platform
import re
import sys
from pathlib import Path


def cpu_name() -> str:
    """Name the CPU as the system does; virtual machines shorten the name."""
    try:
        fields = dict(re.findall(r"(.+?)\s*: (.*)", Path("/proc/cpuinfo").read_text()))
        return f"{fields['model name']}, family {fields['cpu family']}, model {fields['model']}"
    except (OSError, KeyError):
        return platform.processor() or platform.machine()


def peak_memory() -> int:
    """Largest memory of this process so far, in bytes."""
    try:  # Linux: `getrusage` would begin with the parent's memory
        lines = Path("/proc/self/status").read_text().splitlines()
        (peak,) = (line.split()[1] for line in lines if line.startswith("VmHWM"))
        return int(peak) * 1024
    except (OSError, ValueError):
        import resource  # not on every system

        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
