"""Hostile and damaged corpora are read or refused in one sentence, in bounded time and memory."""

import gzip
import json
import logging
import os
import resource
import signal
import sys
from pathlib import Path

import lxml.etree  # noqa: F401, loaded here: its memory must not count in `explode`
import pyarrow
import pytest
from campaign import FULL
from corpora import MB, PAIRS, hostile_files, mutate, tsv, valid_files
from datasets import Dataset
from hostile import NoEnd, limited

from a2d.cli_data import _escape_controls
from a2d.errors import UserError
from a2d.text.cleaning import clean
from a2d.text.corpus import iterate_corpus
from a2d.text.monolingual import iterate_text
from a2d.text.storage import StoredPairs

KIND = "hostile corpora"
LANGUAGES = ("de", "en")
FUZZED = 200
"""Number of mutated files; `FULL` has twenty times as many."""


@pytest.fixture(scope="session")
def valid(tmp_path_factory):
    """Corpora of every format, as `valid_files` returns them."""
    return valid_files(tmp_path_factory.mktemp("stored"))


def write(folder, files):
    """Write a corpus; return its specification."""
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    if any(name.startswith("saved/") for name in files):
        return str(folder / "saved")
    paths = [str(folder / name) for name in files]
    return paths if len(paths) > 1 else paths[0]


# Outcomes of reading


class Messages(logging.Handler):
    """Collects log messages."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.texts = []

    def emit(self, record):
        self.texts.append(record.getMessage())


def harmless(message):
    return message.isprintable() and len(message) < 2000 and not _longest_run(message) > 400


def _longest_run(message):
    return max(map(len, message.split()), default=0)


def outcome(read):
    """Return the outcome of reading, as in `Ledger.record`, and details."""
    warnings = Messages()
    logger = logging.getLogger("a2d")
    logger.addHandler(warnings)
    try:
        with limited(10):
            texts = [text for entry in read() for text in entry]
    except UserError as error:
        if not harmless(str(error)):
            return "traceback", f"message {str(error)!r}"
        result = "refused in a sentence", str(error)
    except NoEnd:
        return "no end", ""
    except MemoryError:
        return "memory", ""
    except BaseException as error:
        return "traceback", repr(error)
    else:
        result = "accepted", texts
        for text in texts:
            if not isinstance(text, str) or "\0" in text:
                return "traceback", f"text {text!r}"
            text.encode()
    finally:
        logger.removeHandler(warnings)
    if not all(map(harmless, warnings.texts)):
        return "traceback", f"warnings {warnings.texts!r}"
    return result


def read_as_command(spec):
    return lambda: iterate_corpus(spec, "train", LANGUAGES)


@pytest.fixture
def check(ledger):
    """Function that reads a corpus and records the outcome."""

    def record(read, fault):
        result, details = outcome(read)
        ledger.record(KIND, result, f"{fault}: {str(details)[:500]}")
        return result, details

    return record


def test_valid_files_are_read(valid, tmp_path):
    for number, files in enumerate(valid):
        folder = tmp_path / str(number)
        folder.mkdir()
        spec = write(folder, files)
        result, details = outcome(read_as_command(spec))
        assert result == "accepted", (spec, details)
        assert sum("2 ist größer" in text for text in details) == 1, (spec, details)


# Hostile files


def test_hostile_files(check, tmp_path):
    for number, (fault, files) in enumerate(hostile_files()):
        folder = tmp_path / str(number)
        folder.mkdir()
        check(read_as_command(write(folder, files)), fault)


def test_a_folder_in_no_encoding(check, tmp_path):
    bad = pyarrow.array([b"\xff\xfe", b"a"]).view(pyarrow.string())
    table = pyarrow.table({"source": bad, "target": bad})
    Dataset(table).save_to_disk(str(tmp_path / "saved"))
    result, details = check(read_as_command(str(tmp_path / "saved")), "a folder in no encoding")
    assert result == "refused in a sentence"  # one of two rows
    assert "UTF-8" in details


def test_paths(check, tmp_path):
    os.mkfifo(tmp_path / "pipe.tsv")
    devices = [str(tmp_path / "pipe.tsv"), "/dev/zero", "/dev/tty", str(tmp_path)]
    names = ["a\0b.tsv", "\ud800.tsv", "\udcff.tsv", "x" * 300 + ".tsv", "~nobody-here/x.tsv", ""]
    names += ["a\n\x1b[31m.tsv", "/".join(["y"] * 5000), "builtin:\x1b", "x.tsv/y.tsv"]
    for path in devices + names:
        for spec in (path, [path, path], {"path": path}, {"path": path, "split": "x"}):
            check(read_as_command(spec), spec)
        check(lambda path=path: ((text,) for text in iterate_text(path)), path)


def test_names_of_languages(tmp_path):
    (tmp_path / "x.tsv").write_bytes(tsv())
    with pytest.raises(UserError, match="'english' is not a language code: write 'en'"):
        list(iterate_corpus(str(tmp_path / "x.tsv"), "train", ("de", "english")))


def test_lines_around_a_long_one_are_read(tmp_path, caplog):
    path = tmp_path / "x.tsv"
    path.write_bytes(b"a\tb\nc\td\n" + b"x" * (3 * MB) + b"\ty\ne\tf\n")
    assert [*map(tuple, iterate_corpus(path))] == [("a", "b"), ("c", "d"), ("e", "f")]
    assert "line 3 has more than 1 MB" in caplog.text


def test_a_first_line_like_column_names_is_warned_of(tmp_path, caplog):
    (tmp_path / "x.tsv").write_bytes(b"segment_en\tsegment_de\n" + tsv())
    assert len(list(iterate_corpus(str(tmp_path / "x.tsv"), "train", LANGUAGES))) == len(PAIRS) + 1
    assert "'segment_en', 'segment_de'" in caplog.text
    caplog.clear()
    (tmp_path / "y.tsv").write_bytes(b"E-Mail\tEmail\n" + tsv())
    assert len(list(iterate_corpus(str(tmp_path / "y.tsv"), "train", LANGUAGES))) == len(PAIRS) + 1
    assert not caplog.text


# Mutated files


def test_fuzzed_files(check, valid, rng, tmp_path):
    donors = [data for files in valid for data in files.values()]
    for number in range(FUZZED * (20 if FULL else 1)):
        files = dict(valid[number % len(valid)])
        name = rng.choice(list(files))
        files[name] = mutate(files[name], rng, donors)
        folder = tmp_path / str(number)
        folder.mkdir()
        spec = write(folder, files)
        check(read_as_command(spec), f"{spec}: {files[name][:2000]!r}")
        if number % len(valid) == 0:
            check(lambda spec=spec: ((text,) for text in iterate_text(spec)), spec)


# Bombs: small files that decompress to gigabytes; each is read in a process with little memory


def repeated(start, block, count):
    """Compress a start followed by `count` megabytes of a repeated block."""
    return gzip.compress(start) + gzip.compress(block * (MB // len(block)), 1) * count


BOMBS = {
    "x.tsv.gz": (b"a\tb\n", b"a", 1024),
    "wide.tsv.gz": (b"a\tb\n", b"ab\t" * (MB // 3 - 1) + b"\n", 60),
    "long.tsv.gz": (b"", b"a" * (MB // 2 - 9) + b"\t" + b"b" * (MB // 2 - 9) + b"\n", 100),
    "x.csv.gz": (b'"a', b'"",', 100),
    "x.jsonl.gz": (b'{"source": "', b"a", 1024),
    "x.json.gz": (b'[{"source": "', b" ", 1024),
    "deep.json.gz": (b"[", b'{"a": [', 100),
    "x.po.gz": (b"", b"#", 1024),
    "x.mo.gz": (b"\xde\x12\x04\x95", b"\xff", 1024),
    "tag.tmx.gz": (b"<tmx><tu ", b"a", 1024),
    "attribute.tmx.gz": (b'<tmx><tu a="', b"a", 1024),
    "empty.tmx.gz": (b"<tmx><body>", b"<a/>", 60),
    "unit.tmx.gz": (b"<tmx><body><tu>", b"<a/>", 60),
    "wrapped.tmx.gz": (b"<tmx><body>", b"<b><tu/></b>", 15),
    "text.xlf.gz": (b"<xliff><file>", b"a", 1024),
}


EXITS = ("refused in a sentence", "traceback", "no end", "memory")


def explode(name, path):
    """Read a bomb in a child process that may use one more gigabyte; return the outcome."""
    if child := os.fork():
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            return "no end" if os.WTERMSIG(status) == signal.SIGXCPU else "memory"
        return EXITS[os.WEXITSTATUS(status)]
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 1024 * MB,) * 2)
    resource.setrlimit(resource.RLIMIT_CPU, (30, 31))
    code = 1
    try:
        with limited(20):  # ten seconds are enough on an idle machine
            pairs = StoredPairs(iterate_corpus(str(path), "train", LANGUAGES))
            clean(pairs, consistent=True, min_letters=0.1, drop_copies=True, into=StoredPairs)
        code = 0
    except UserError:
        code = 0
    except NoEnd:
        code = 2
    except MemoryError:
        code = 3
    except BaseException as error:
        print(name, repr(error), file=sys.stderr)
    finally:
        os._exit(code)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux's limits and /proc")
def test_bombs(ledger, tmp_path):
    for name in BOMBS if FULL else ("x.tsv.gz", "tag.tmx.gz"):
        start, block, count = BOMBS[name]
        path = tmp_path / name
        path.write_bytes(repeated(start, block, count))
        ledger.record(KIND, explode(name, path), name)


def test_json_for_a_terminal_holds_no_commands():
    text = "\x1b[31m \u202e \x9b \U000e0001 größer"
    plain = _escape_controls(json.dumps({"x": text}, indent=1, ensure_ascii=False))
    assert all(map(str.isprintable, plain.split("\n")))
    assert "größer" in plain
    assert json.loads(plain) == {"x": text}
