"""Kills, full disks and damaged files do not change the results of a run."""

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from itertools import product

import pytest
from campaign import FULL, ends_in_sentence
from corruption import CORRUPTIONS, corrupt
from test_pipeline import command, corpus, outputs, run  # noqa: F401

METHODS = [
    "methods=[kd, {method: seqkd, student_start: teacher}, a2d]",
    "teacher.cache=true",
    "export.quantizations=[int8]",
]

MOMENTS = [
    "corpus*",
    "vocabulary*",
    "tokens*",
    "models/teacher.partial",
    "models/teacher.partial/checkpoints/checkpoint-*",
    "models/teacher",
    "yardstick*",
    "distilled.partial",
    "cache/*.partial",
    "starts/*",
    "models/kd*.partial",
    "models/kd*.partial/checkpoints/*",
    "models/seqkd*.partial/checkpoints/*",
    "models/a2d*.partial/checkpoints/*",
    "translations/test/*",
    "exports/*",
    "speed/test/*",
]
"""Moments of a run: the first file that matches the pattern exists."""

FREE_BYTES = [0, 4096, 600_000]
"""Free space on the full disk."""

BATCH = 6
"""Number of files that are damaged before a run is repeated."""

SIGNALS = {signal.SIGKILL: -9, signal.SIGINT: 130, signal.SIGTERM: 143}
"""Signals and the exit codes that they cause."""


@pytest.fixture(scope="module")
def finished(corpus, tmp_path_factory):  # noqa: F811
    """The folder of an undisturbed run."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    run(corpus, folder, *METHODS)
    return folder


@pytest.fixture(scope="module")
def expected(finished):
    return outputs(finished)


def start(corpus, folder, *overrides):  # noqa: F811
    """Start a run in a new process group."""
    arguments = [*command(corpus, folder), *METHODS, *overrides]
    pipes = dict.fromkeys(("stdout", "stderr"), subprocess.PIPE)
    return subprocess.Popen(arguments, text=True, start_new_session=True, **pipes)


def wait_for(moment, folder, process):
    """Wait until a run reaches a moment or ends."""
    deadline = time.monotonic() + 300
    assert process.stdout.readline().startswith("Log:") or process.poll() is not None
    while not any(folder.glob(moment)) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.03)


def has_ended(group):
    """Check that all processes of a group end within five seconds."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.02)
    return False


@pytest.mark.skipif(not FULL, reason="FAULTS=full: it interrupts a run at every moment")
def test_kills_and_signals(corpus, expected, tmp_path, rng, ledger):  # noqa: F811
    """One run is interrupted at every moment, each time after a random delay."""
    folder, interruptions = tmp_path / "run", []
    for moment in MOMENTS:
        for number in SIGNALS:
            process = start(corpus, folder, f"compute.parallel={rng.choice([1, 2])}")
            wait_for(moment, folder, process)
            time.sleep(rng.random() * 0.5)
            send = rng.choice([os.kill, os.killpg])  # to the run alone, or as a terminal does
            with suppress(ProcessLookupError):  # the run has ended meanwhile
                send(process.pid, number)
            errors = process.communicate(timeout=60)[1]
            fault = f"{send.__name__} {number.name} at {moment}: {process.returncode} {errors}"
            if not has_ended(process.pid):
                ledger.record("kills and signals", "no end", fault)
            if process.returncode not in (0, SIGNALS[number]) or "Traceback" in errors:
                ledger.record("kills and signals", "traceback", fault)
            if process.returncode:  # the run had not ended before the signal
                interruptions.append(fault)
    run(corpus, folder, *METHODS)
    outcome = "as undisturbed" if outputs(folder) == expected else "results changed"
    assert interruptions
    for fault in interruptions:
        ledger.record("kills and signals", outcome, fault)


@pytest.fixture
def disk(tmp_path):
    """A small file system."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=200m", "none", str(folder)]
    if sys.platform != "linux" or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a disk is not allowed here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(disk, free):
    """Fill a disk up to a number of free bytes, as another program would."""
    with (disk / "filler").open("ab") as file:
        while True:
            available = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
            try:
                return os.posix_fallocate(file.fileno(), 0, max(1, available - free))
            except OSError:  # the run has just written something
                continue


@pytest.mark.slow
@pytest.mark.skipif(not FULL, reason="FAULTS=full: it repeats a run for every disk")
def test_full_disks(corpus, expected, disk, ledger):  # noqa: F811
    folder = disk / "run"
    for moment, free in product(MOMENTS, FREE_BYTES):
        shutil.rmtree(folder, ignore_errors=True)
        process = start(corpus, folder)
        wait_for(moment, folder, process)
        fill(disk, free)
        errors = process.communicate(timeout=300)[1]
        fault = f"{free} free bytes at {moment}: {process.returncode} {errors}"
        if process.returncode and not (process.returncode == 2 and ends_in_sentence(errors)):
            ledger.record("full disks", "traceback", fault)
        (disk / "filler").unlink()
        run(corpus, folder, *METHODS)
        outcome = "refused in a sentence" if process.returncode else "as undisturbed"
        equal = outputs(folder) == expected
        ledger.record("full disks", outcome if equal else "results changed", fault)


def files(folder):
    """List all files of a run: the first file of every stage, then the second, and so on."""
    stages = {path.parent for path in folder.rglob("manifest.json")}
    stages |= {folder / "results", folder / "plots", folder / "tensorboard"}
    paths = [sorted(p for p in stage.rglob("*") if p.is_file()) for stage in sorted(stages)]
    paths.append([folder / "corpus.json"])
    assert all(paths)
    longest = max(map(len, paths))
    return [row[i] for i in range(longest) for row in paths if i < len(row)]


@pytest.mark.slow
def test_damaged_files(finished, expected, corpus, tmp_path, rng, ledger):  # noqa: F811
    paths, folder = files(finished), tmp_path / "run"
    assert len(paths) > 80
    if not FULL:
        paths = rng.sample(paths, BATCH)
    for first in range(0, len(paths), BATCH):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(finished, folder)
        corrupted = []
        for file in paths[first : first + BATCH]:
            path, kind = folder / file.relative_to(finished), rng.choice(CORRUPTIONS)
            if path.stat().st_size:
                corrupt(path, kind, rng)
                corrupted.append((path, kind))
        output = run(corpus, folder, *METHODS).replace("\n", "")
        for damaged in folder.rglob("*.damaged"):
            shutil.rmtree(damaged)
        equal = outputs(folder) == expected
        for path, kind in corrupted:
            warned = any(f"{stage}: " in output for stage in path.parents if stage != folder)
            outcome = "done again" if warned else "as undisturbed"
            fault = f"{kind.__name__} of {path.relative_to(folder)}"
            ledger.record("damaged files", outcome if equal else "results changed", fault)
