"""Runs that are killed, whose disk fills, or whose files are damaged: the results stay the same."""

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from campaign import FULL, sentence
from spoil import SPOILS, spoil
from test_pipeline import command, corpus, outputs, run  # noqa: F401

METHODS = ["methods=[kd, seqkd, a2d]", "teacher.cache=true"]

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
    "models/kd*.partial",
    "models/kd*.partial/checkpoints/*",
    "models/seqkd*.partial/checkpoints/*",
    "models/a2d*.partial/checkpoints/*",
    "translations/test/*",
    "speed/test/*",
]
"""A run has come to where something matches."""

LEFT = [0, 4096, 600_000]
"""Bytes that another program leaves."""

AT_ONCE = 6
"""Damaged files, of as many stages where there are such, in one attempt."""

SIGNALS = {signal.SIGKILL: -9, signal.SIGINT: 130, signal.SIGTERM: 143}
"""And what a command's exit code is then."""


@pytest.fixture(scope="module")
def finished(corpus, tmp_path_factory):  # noqa: F811
    """The folder of an undisturbed run."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    run(corpus, folder, *METHODS)
    return folder


@pytest.fixture(scope="module")
def expected(finished):
    return outputs(finished)


def start(corpus, folder, *more):  # noqa: F811
    """A run in a process and a group of its own."""
    arguments = [*command(corpus, folder), *METHODS, *more]
    pipes = dict.fromkeys(("stdout", "stderr"), subprocess.PIPE)
    return subprocess.Popen(arguments, text=True, start_new_session=True, **pipes)


def wait_for(moment, folder, process):
    """Wait until the process is at work, and has come so far."""
    deadline = time.monotonic() + 300
    assert process.stdout.readline().startswith("Log:") or process.poll() is not None
    while not any(folder.glob(moment)) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def gone(group):
    """Whether no process of a group is left, after five seconds at most."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.02)
    return False


@pytest.mark.slow
def test_kills_and_signals(corpus, expected, tmp_path, chance, ledger):  # noqa: F811
    """At every moment, one after the other, and at times by chance."""
    folder, told = tmp_path / "run", []
    for moment in MOMENTS if FULL else sorted(chance.sample(MOMENTS, 3), key=MOMENTS.index):
        for number in SIGNALS if FULL else [chance.choice([*SIGNALS])]:
            process = start(corpus, folder, f"compute.parallel={chance.choice([1, 2])}")
            wait_for(moment, folder, process)
            time.sleep(chance.random() * 0.5)
            send = chance.choice([os.kill, os.killpg])  # to the run alone, or as a terminal does
            send(process.pid, number)
            errors = process.communicate(timeout=60)[1]
            what = f"{send.__name__} {number.name} at {moment}: {process.returncode} {errors}"
            if not gone(process.pid):
                ledger.record("kills and signals", "no end", what)
            if process.returncode not in (0, SIGNALS[number]) or "Traceback" in errors:
                ledger.record("kills and signals", "traceback", what)
            if process.returncode:  # it had not ended before
                told.append(what)
    run(corpus, folder, *METHODS)
    same = outputs(folder) == expected
    assert told
    for what in told:
        ledger.record("kills and signals", "as undisturbed" if same else "results changed", what)


@pytest.fixture
def disk(tmp_path):
    """A small disk of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=200m", "none", str(place)]
    if sys.platform != "linux" or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a disk is not allowed here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def fill(disk, left):
    """Leave so many bytes, as another program that takes the rest would."""
    with (disk / "filler").open("ab") as file:
        while True:
            free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
            try:
                return os.posix_fallocate(file.fileno(), 0, max(1, free - left))
            except OSError:  # the run has just written something
                continue


@pytest.mark.slow
def test_full_disks(corpus, expected, disk, chance, ledger):  # noqa: F811
    folder = disk / "run"
    moments = MOMENTS if FULL else [chance.choice(MOMENTS)]
    for moment, left in [(m, n) for m in moments for n in (LEFT if FULL else LEFT[:1])]:
        shutil.rmtree(folder, ignore_errors=True)
        process = start(corpus, folder)
        wait_for(moment, folder, process)
        fill(disk, left)
        errors = process.communicate(timeout=300)[1]
        what = f"{left} bytes left at {moment}: {process.returncode} {errors}"
        if process.returncode and not (process.returncode == 2 and sentence(errors)):
            ledger.record("full disks", "traceback", what)
        (disk / "filler").unlink()
        run(corpus, folder, *METHODS)
        outcome = "refused in a sentence" if process.returncode else "as undisturbed"
        same = outputs(folder) == expected
        ledger.record("full disks", outcome if same else "results changed", what)


def files(folder):
    """All files, in an order that takes one of every stage, then another of every stage."""
    places = {path.parent for path in folder.rglob("manifest.json")}
    places |= {folder / "results", folder / "plots", folder / "tensorboard"}
    listed = [sorted(p for p in place.rglob("*") if p.is_file()) for place in sorted(places)]
    listed.append([folder / "corpus.json"])
    assert all(listed)
    longest = max(map(len, listed))
    return [row[i] for i in range(longest) for row in listed if i < len(row)]


@pytest.mark.slow
def test_damaged_files(finished, expected, corpus, tmp_path, chance, ledger):  # noqa: F811
    everything, folder = files(finished), tmp_path / "run"
    assert len(everything) > 80
    if not FULL:
        everything = chance.sample(everything, AT_ONCE)
    for first in range(0, len(everything), AT_ONCE):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(finished, folder)
        spoiled = []
        for file in everything[first : first + AT_ONCE]:
            path, kind = folder / file.relative_to(finished), chance.choice(SPOILS)
            if path.stat().st_size:
                spoil(path, kind, chance)
                spoiled.append((path, kind))
        told = run(corpus, folder, *METHODS).replace("\n", "")
        for place in folder.rglob("*.damaged"):
            shutil.rmtree(place)
        same = outputs(folder) == expected
        for path, kind in spoiled:
            named = any(f"{stage}: " in told for stage in path.parents if stage != folder)
            outcome = "made again" if named else "as undisturbed"
            what = f"{kind.__name__} of {path.relative_to(folder)}"
            ledger.record("damaged files", outcome if same else "results changed", what)
