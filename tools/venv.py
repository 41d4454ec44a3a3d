"""Make `.venv` with this package in it: `python tools/venv.py [EXTRA]`.

PyPI's Linux wheels of PyTorch bring gigabytes of CUDA packages. On a Linux machine without an
NVIDIA GPU, pip therefore searches PyTorch's index of CPU builds, too: "2.13.0+cpu" ranks above
PyPI's "2.13.0". pip skips an index that cannot be reached, with a warning. PyTorch is installed
without its dependencies first, so that a CUDA build is noticed before its packages are downloaded.

Environment: TORCH_INDEX (another index of CPU builds, or empty for none), ALLOW_CUDA=1 (take
whatever build pip chooses).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
CUDA_PACKAGE = re.compile(r"(nvidia|cuda|triton)\b", re.IGNORECASE)


def main() -> None:
    """Create the environment if needed, install into it and look for CUDA packages."""
    if sys.version_info < (3, 11):  # noqa: UP036 - older versions may run this file
        sys.exit("align-to-distill needs Python 3.11 or later: make PYTHON=python3.11 …")
    target = f"{ROOT}[{sys.argv[1]}]" if len(sys.argv) > 1 else str(ROOT)
    use_cpu_build = sys.platform == "linux" and not has_gpu() and not os.environ.get("ALLOW_CUDA")

    if not is_usable():
        log(f"creating {VENV}")
        subprocess.run([sys.executable, "-m", "venv", "--clear", VENV], check=True)
    if use_cpu_build:
        index = os.environ.get("TORCH_INDEX", "https://download.pytorch.org/whl/cpu")
        extra = ["--extra-index-url", index] if index else []
        log("installing PyTorch as a CPU build: no NVIDIA GPU seen (200 MB if not there yet)")
        pip("install", "--no-deps", "--retries", "1", "--timeout", "30", *extra, torch_spec())
        refuse_cuda("torch needs", cuda_requirements())
    log(f"installing {target}")
    pip("install", "--editable", target)
    if use_cpu_build:
        refuse_cuda("the environment holds", [n for n in installed() if CUDA_PACKAGE.match(n)])


def is_usable() -> bool:
    """Check that `.venv` runs and has this interpreter's version."""
    code = "import sys, pip; print(*sys.version_info[:2])"
    if not PYTHON.exists():
        return False
    process = subprocess.run([PYTHON, "-c", code], capture_output=True, text=True, check=False)
    return process.stdout.split() == [str(part) for part in sys.version_info[:2]]


def has_gpu() -> bool:
    """Check whether the NVIDIA driver lists a GPU."""
    tool = shutil.which("nvidia-smi")
    return tool is not None and subprocess.run([tool, "-L"], capture_output=True).returncode == 0


def torch_spec() -> str:
    """Return the requirement on torch that pyproject.toml states."""
    import tomllib  # needs the version that main() checks

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return next(str(spec) for spec in project["dependencies"] if re.match(r"torch\b", spec))


def installed() -> dict[str, list[str]]:
    """Map the distributions in `.venv` to their requirements."""
    sites = [str(path) for path in VENV.glob("lib/python*/site-packages")]
    return {dist.metadata["Name"]: dist.requires or [] for dist in distributions(path=sites)}


def cuda_requirements() -> list[str]:
    """List the CUDA packages that the installed torch requires."""
    return [spec.split(";")[0] for spec in installed()["torch"] if CUDA_PACKAGE.match(spec)]


def refuse_cuda(subject: str, names: list[str]) -> None:
    """Exit if CUDA packages are installed or required."""
    if names:
        sys.exit(
            f"a2d: no NVIDIA GPU here, but {subject} CUDA packages: {', '.join(sorted(names))}.\n"
            "Remove .venv, then either name an index with CPU builds of PyTorch (TORCH_INDEX=URL)\n"
            "or accept the download of several gigabytes (ALLOW_CUDA=1); make takes both:\n"
            "  rm -rf .venv && make demo ALLOW_CUDA=1"
        )


def pip(*args: str) -> None:
    """Run the environment's pip and exit if it fails; pip prints the reason."""
    command = [str(PYTHON), "-m", "pip", "--quiet", "--disable-pip-version-check", *args]
    code = subprocess.run(command, check=False).returncode
    if code:
        sys.exit(code)


def log(text: str) -> None:
    """Print what is being done."""
    print(f"a2d: {text}", flush=True)


if __name__ == "__main__":
    main()
