"""Hostile and damaged corpora: they are read right, or refused in one sentence, within bounds."""

import bz2
import gzip
import json
import logging
import lzma
import os
import resource
import signal
import struct
import sys
from contextlib import contextmanager
from pathlib import Path

import lxml.etree  # noqa: F401, the bombs' memory counts without it
import polib
import pyarrow
import pytest
from campaign import FULL
from datasets import Dataset
from pyarrow import parquet

from a2d.cli_data import _harmless
from a2d.errors import UserError
from a2d.text.cleaning import clean
from a2d.text.corpus import iterate_corpus
from a2d.text.monolingual import iterate_text
from a2d.text.storage import StoredPairs

KIND = "hostile corpora"
LANGUAGES = ("de", "en")
MB = 2**20
PAIRS = [(f"Das Haus Nummer {n} ist größer.", f"House number {n} is bigger.") for n in range(4)]
FUZZED = 200
"""Mutated files a day; `FULL` has twenty times as many."""


# Valid files of every format


def tabs(pairs=PAIRS):
    return "".join(f"{a}\t{b}\n" for a, b in pairs).encode()


def commas(pairs=PAIRS):
    rows = "".join(f'"{a}, ""so""",{b}\n' for a, b in pairs)
    return f"source,target\n{rows}".encode()


def objects(pairs=PAIRS):
    return [{"translation": {"de": a, "en": b}, "score": 0.5} for a, b in pairs]


def json_lines():
    return "".join(json.dumps(record) + "\n" for record in objects()).encode()


def json_array():
    return json.dumps(objects(), ensure_ascii=False, indent=1).encode()


def memory():
    units = "".join(
        f'<tu><prop type="s">1</prop><tuv xml:lang="de"><seg>{a} <ph>x</ph>&amp;</seg></tuv>'
        f'<tuv xml:lang="en"><seg>{b}</seg></tuv></tu>\n'
        for a, b in PAIRS
    )
    head = '<?xml version="1.0" encoding="utf-8"?>\n<tmx version="1.4"><header/><body>\n'
    return f"{head}{units}</body></tmx>\n".encode()


def xliff():
    units = "".join(
        f'<trans-unit id="{n}"><source>{a}</source><target>{b}</target></trans-unit>\n'
        for n, (a, b) in enumerate(PAIRS)
    )
    return (
        '<?xml version="1.0"?>\n<xliff version="1.2"><file source-language="de" '
        f'target-language="en"><body>\n{units}</body></file></xliff>\n'
    ).encode()


def catalogue(translations=PAIRS, language="en"):
    made = polib.POFile()
    made.metadata = {"Content-Type": "text/plain; charset=utf-8", "Language": language}
    for number, (a, b) in enumerate(translations):
        made.append(polib.POEntry(msgid=a, msgstr=b, msgctxt="c" if number % 2 else None))
    made.append(polib.POEntry(msgid="ein", msgid_plural="viele", msgstr_plural={0: "1", 1: "n"}))
    return made


def fluent(texts):
    lines = "".join(f"key-{n} = {text} {{ $x }}\n    .title = T\n" for n, text in enumerate(texts))
    return (lines + 'sel = { $n ->\n    [one] eins\n   *[other] { "viele" }\n  }\n').encode()


def columns():
    sink = pyarrow.BufferOutputStream()
    table = pyarrow.table({"source": [a for a, _ in PAIRS], "target": [b for _, b in PAIRS]})
    parquet.write_table(table, sink)
    return sink.getvalue().to_pybytes()


def stored(folder):
    """Files of a folder that `datasets` saves."""
    sides = {"source": [a for a, _ in PAIRS], "target": [b for _, b in PAIRS]}
    Dataset.from_dict(sides).save_to_disk(str(folder))
    return {f"saved/{path.name}": path.read_bytes() for path in folder.iterdir()}


def zstandard(data):
    sink = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


@pytest.fixture(scope="session")
def valid(tmp_path_factory):
    """Corpora of every format: files by name, of which the first ones are the corpus."""
    sides = [list(side) for side in zip(*PAIRS, strict=True)]
    german, english = ("".join(f"{text}\n" for text in side).encode() for side in sides)
    own = str(catalogue([(f"k{n}", text) for n, text in enumerate(sides[0])], "de")).encode()
    other = str(catalogue([(f"k{n}", text) for n, text in enumerate(sides[1])])).encode()
    return [
        {"x.tsv": tabs()},
        {"x.txt": tabs([("source", "target"), *PAIRS])},
        {"x.tsv": tabs().decode().encode("utf-16")},
        {"x.csv": commas()},
        {"x.jsonl": json_lines()},
        {"x.json": json_array()},
        {"x.json": json_array().decode().encode("utf-16-le")},
        {"x.parquet": columns()},
        {"x.tmx": memory()},
        {"x.tmx": memory().decode().replace("utf-8", "utf-16").encode("utf-16")},
        {"x.xlf": xliff()},
        {"x.po": str(catalogue()).encode()},
        {"x.mo": catalogue().to_binary()},
        {"a.txt": german, "b.txt": english},
        {"a.po": own, "b.po": other},
        {"a.ftl": fluent(sides[0]), "b.ftl": fluent(sides[1])},
        stored(tmp_path_factory.mktemp("stored")),
        {"x.tsv.gz": gzip.compress(tabs())},
        {"x.csv.bz2": bz2.compress(commas())},
        {"x.jsonl.xz": lzma.compress(json_lines())},
        {"x.tmx.zst": zstandard(memory())},
    ]


def write(folder, files):
    """Write a corpus; gives its specification."""
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    if any(name.startswith("saved/") for name in files):
        return str(folder / "saved")
    places = [str(folder / name) for name in files]
    return places if len(places) > 1 else places[0]


# What comes of reading them


@contextmanager
def limited(seconds):
    """Raise `TimeoutError` after some seconds of computing."""

    def stop(*_):
        raise TimeoutError

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


class Messages(logging.Handler):
    """Keeps what is logged."""

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
    """What came of reading, as the ledger calls it, and details."""
    heard = Messages()
    logger = logging.getLogger("a2d")
    logger.addHandler(heard)
    try:
        with limited(10):
            texts = [text for entry in read() for text in entry]
    except UserError as error:
        if not harmless(str(error)):
            return "traceback", f"message {str(error)!r}"
        found = "refused in a sentence", str(error)
    except TimeoutError:
        return "no end", ""
    except MemoryError:
        return "memory", ""
    except BaseException as error:
        return "traceback", repr(error)
    else:
        found = "accepted", texts
        for text in texts:
            if not isinstance(text, str) or "\0" in text:
                return "traceback", f"text {text!r}"
            text.encode()
    finally:
        logger.removeHandler(heard)
    if not all(map(harmless, heard.texts)):
        return "traceback", f"warnings {heard.texts!r}"
    return found


def read_as_command(spec):
    return lambda: iterate_corpus(spec, "train", LANGUAGES)


@pytest.fixture
def check(ledger):
    """Record what came of reading a specification."""

    def record(read, what):
        found, details = outcome(read)
        ledger.record(KIND, found, f"{what}: {str(details)[:500]}")
        return found, details

    return record


def test_valid_files_are_read(valid, tmp_path):
    for number, files in enumerate(valid):
        folder = tmp_path / str(number)
        folder.mkdir()
        spec = write(folder, files)
        found, details = outcome(read_as_command(spec))
        assert found == "accepted", (spec, details)
        assert sum("2 ist größer" in text for text in details) == 1, (spec, details)


# Planted

HEAD = '<tmx version="1.4"><body><tu><tuv xml:lang="de"><seg>ja</seg></tuv><tuv xml:lang="en">'
CODECS = (
    *("hex", "zlib", "rot13", "bz2", "base64", "uu", "quopri", "idna", "punycode", "utf-7"),
    *("unicode_escape", "raw_unicode_escape", "undefined", "mbcs", "klingon", "utf-16", "u" * 300),
)


def tmx_of(segment, encoding="utf-8"):
    head = f'<?xml version="1.0" encoding="{encoding}"?>{HEAD}'
    return f"{head}{segment}</tuv></tu></body></tmx>".encode()


def po_of(charset):
    head = f'msgid ""\nmsgstr "Content-Type: text/plain; charset={charset}\\n"\n\n'
    return f'{head}msgid "größer"\nmsgstr "bigger"\n'.encode()


def mo_of(charset):
    texts = {"": f"Content-Type: text/plain; charset={charset}\n", "größer": "bigger"}
    made = polib.POFile()
    made.metadata = {"Content-Type": texts[""].partition(": ")[2].strip()}
    made.append(polib.POEntry(msgid="größer", msgstr="bigger"))
    return made.to_binary()


def mo_with(count, length):
    """A compiled catalogue of many messages, all of one long text."""
    table = struct.pack("<2I", length, 28 + 8 * count) * count
    head = struct.pack("<7I", 0x950412DE, 0, count, 28, 28, 0, 0)
    return head + table + b"a" * (length + 1)


def planted_files():
    """Names and contents of hostile files that are small."""
    for codec in CODECS:
        yield f"declares {codec[:20]}", {"x.tmx": tmx_of(f"<seg>{codec}</seg>", codec)}
        broken = tmx_of("<seg>a</b></seg>", codec)
        yield f"broken, declares {codec[:20]}", {"x.tmx": broken}
        yield f"broken xliff in {codec[:20]}", {"x.xlf": broken}
        yield f"catalogue in {codec[:20]}", {"x.po": po_of(codec)}
        yield f"compiled catalogue in {codec[:20]}", {"x.mo": mo_of(codec)}
    for depth in (200, 990, 100_000):
        nested = "<seg>" * depth + "yes" + "</seg>" * depth
        yield f"{depth} segments in each other", {"x.tmx": tmx_of(nested)}
        deep = b"key = " + b"{" * depth + b'"x"' + b"}" * depth + b"\nkey2 = y\n"
        yield f"{depth} placeables in each other", {"a.ftl": deep, "b.ftl": deep}
        yield f"{depth} lists", {"x.jsonl": b"[" * depth + b"]" * depth + b"\n"}
        nested = b'{"source": ' + b"[" * depth + b"]" * depth + b', "target": "x"}'
        yield f"{depth} lists in an object", {"x.jsonl": nested}
        yield f"{depth} objects in an array", {"x.json": b"[" + nested + b"]"}
    for escape in (b"\\U110000", b"\\uD800", b"\\U00DFFF", b"\\u0000", b"\\u202e"):
        file = b'key = { "' + escape + b'" }\nkey2 = good\n'
        yield f"Fluent's {escape!r}", {"a.ftl": file, "b.ftl": file}
    for value in (
        "1e999",
        "-1e999",
        "9" * 5000,
        "NaN",
        '"\\ud800"',
        '"\\u0000"',
        "{}",
        '"\\u202e"',
    ):
        for line in (f'{{"source": {value}, "target": "x"}}', f'{{"de": "x", {value!s}: "y"}}'):
            yield f"JSON's {value[:9]}", {"x.jsonl": f"{line}\n".encode() * 3}
            yield f"an array of {value[:9]}", {"x.json": f"[{line}]".encode()}
    keys = json.dumps({f"key {n}": "x" for n in range(4000)}).encode()
    yield "4,000 keys", {"x.jsonl": (keys + b"\n") * 20}
    yield "one column twice", {"x.csv": b"source,source,target\na,b,c\n"}
    yield "one column twice", {"x.tsv": b"source\ttarget\ttarget\na\tb\tc\n"}
    yield "endless marks", {"x.tsv": b"a\tb" + "\u0301\u0323".encode() * 200_000 + b"\n"}
    yield "no width", {"x.tsv": "\u200b \u2060 ".encode() * 100_000 + b"a\tb\n"}
    yield "escaped again and again", {"x.tsv": b"&" + b"amp;" * 200_000 + b"lt;\tb\n"}
    yield "a numeral of a format", {"x.tsv": b"%" + b"0" * 900_000 + b"!\tb\n"}
    yield "a rule of underscores", {"x.tsv": b"_" * 900_000 + b"!\tb\n"}
    yield "many columns", {"x.tsv": b"ab\t" * 300_000 + b"\n", "y.tsv": b""}
    yield "many quoted columns", {"x.csv": (b'"ab",' * 200_000 + b"\n") * 3}
    yield "open quotes", {"x.csv": (b'"a\n' + b'"""",\n' * 99) * 300}
    yield "many open tags", {"x.tmx": b"<tu '\"" * 300_000}
    yield "a long line", {"x.tsv": b"a\tb\n" + b"a" * (2 * MB) + b"\tb\nc\td\n"}
    yield (
        "a long line in UTF-16",
        {"x.tsv": ("a\tb\n" + "a" * (2 * MB) + "\nc\td\n").encode("utf-16")},
    )
    yield "old Mac", {"x.tsv": b"ja\tyes\rnein\tno\r" * 10}
    yield "a carriage return alone", {"x.csv": b"source,target\nj\ra,yes\n" * 3}
    yield "old Mac", {"x.csv": b"ja,yes\rnein,no\r" * 10}
    yield "a terminal's commands", {"x.tsv": b"\x1b]0;x\x07\x1b[31m\xe2\x80\xae red\r\tb\tc\n" * 9}
    yield "a terminal's commands", {"x.jsonl": b'{"\\u001b[31m\\u202e": 1, "b": 2}\n' * 9}
    yield "a terminal's commands", {"x.csv": b"\x1b[31m\xe2\x80\xaex,\x9b31m\n" * 9}
    yield "a terminal's commands", {"x.tmx": '<tmx><\u202ea b="\u202e">'.encode()}
    yield "messages that overlap", {"x.mo": mo_with(50_000, 200_000)}
    yield "messages that overlap", {"x.mo": mo_with(2**32 - 1 >> 16, 1)}
    bad = pyarrow.array([b"\xff\xfe", b"a"]).cast(pyarrow.binary()).view(pyarrow.string())
    table = pyarrow.table({"source": bad, "target": bad})
    sink = pyarrow.BufferOutputStream()
    parquet.write_table(table, sink)
    yield "Parquet in no encoding", {"x.parquet": sink.getvalue().to_pybytes()}
    two = pyarrow.table([bad.slice(1), bad.slice(1)], names=["source", "source"])
    sink = pyarrow.BufferOutputStream()
    parquet.write_table(two, sink)
    yield "Parquet with a column twice", {"x.parquet": sink.getvalue().to_pybytes()}
    wide = pyarrow.table({f"c{n}": ["x"] for n in range(3000)})
    sink = pyarrow.BufferOutputStream()
    parquet.write_table(wide, sink)
    yield "wide Parquet", {"x.parquet": sink.getvalue().to_pybytes()}
    for suffix, data in (
        ("gz", gzip.compress(tabs(PAIRS * 500))),
        ("bz2", bz2.compress(tabs(PAIRS * 500))),
        ("xz", lzma.compress(tabs(PAIRS * 500))),
        ("zst", zstandard(tabs(PAIRS * 500))),
    ):
        yield f"half of .{suffix}", {f"x.tsv.{suffix}": data[: len(data) // 2]}
        yield f"no .{suffix}", {f"x.tsv.{suffix}": b"a\tb\n"}
        yield f"empty .{suffix}", {f"x.tsv.{suffix}": b""}
        middle = len(data) // 2
        damaged = data[:middle] + bytes(b ^ 255 for b in data[middle : middle + 9])
        yield f"damaged .{suffix}", {f"x.tsv.{suffix}": damaged + data[middle + 9 :]}


def test_planted_files(check, tmp_path):
    for number, (what, files) in enumerate(planted_files()):
        folder = tmp_path / str(number)
        folder.mkdir()
        check(read_as_command(write(folder, files)), what)


def test_a_folder_in_no_encoding(check, tmp_path):
    bad = pyarrow.array([b"\xff\xfe", b"a"]).view(pyarrow.string())
    table = pyarrow.table({"source": bad, "target": bad})
    Dataset(table).save_to_disk(str(tmp_path / "saved"))
    found, details = check(read_as_command(str(tmp_path / "saved")), "a folder in no encoding")
    assert found == "refused in a sentence"  # one of two rows
    assert "UTF-8" in details


def test_paths(check, tmp_path):
    os.mkfifo(tmp_path / "pipe.tsv")
    devices = [str(tmp_path / "pipe.tsv"), "/dev/zero", "/dev/tty", str(tmp_path)]
    odd = ["a\0b.tsv", "\ud800.tsv", "\udcff.tsv", "x" * 300 + ".tsv", "~nobody-here/x.tsv", ""]
    odd += ["a\n\x1b[31m.tsv", "/".join(["y"] * 5000), "builtin:\x1b", "x.tsv/y.tsv"]
    for place in devices + odd:
        for spec in (place, [place, place], {"path": place}, {"path": place, "split": "x"}):
            check(read_as_command(spec), spec)
        check(lambda place=place: ((text,) for text in iterate_text(place)), place)


def test_names_of_languages(tmp_path):
    (tmp_path / "x.tsv").write_bytes(tabs())
    with pytest.raises(UserError, match="'english' is no code of a language: did you mean 'en'"):
        list(iterate_corpus(str(tmp_path / "x.tsv"), "train", ("de", "english")))


def test_lines_around_a_long_one_are_read(tmp_path, caplog):
    path = tmp_path / "x.tsv"
    path.write_bytes(b"a\tb\nc\td\n" + b"x" * (3 * MB) + b"\ty\ne\tf\n")
    assert [*map(tuple, iterate_corpus(path))] == [("a", "b"), ("c", "d"), ("e", "f")]
    assert "line 3 has more than 1 MB" in caplog.text


def test_what_looks_like_the_names_of_columns_is_told(tmp_path, caplog):
    (tmp_path / "x.tsv").write_bytes(b"segment_en\tsegment_de\n" + tabs())
    assert len(list(iterate_corpus(str(tmp_path / "x.tsv"), "train", LANGUAGES))) == len(PAIRS) + 1
    assert "'segment_en', 'segment_de'" in caplog.text
    caplog.clear()
    (tmp_path / "y.tsv").write_bytes(b"E-Mail\tEmail\n" + tabs())
    assert len(list(iterate_corpus(str(tmp_path / "y.tsv"), "train", LANGUAGES))) == len(PAIRS) + 1
    assert not caplog.text


# Fuzzed

SNIPPETS = (
    *(b"\0", b"\r", b"\n", b"\t", b'"', b'""', b"\\", b"{", b"}", b"[", b"]", b"<", b">", b"&"),
    *(b"\xff", b"\xfe\xff", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc2"),
    *(b"&#0;", b"&#xd800;", b"&#x110000;", b"&nbsp;", b"<!--", b"]]>", b"<![CDATA[", b"</tu>"),
    *(b"<tu>", b"<seg>", b"</seg>", b"<?xml", b'encoding="hex"', b"<!DOCTYPE a [<!ENTITY b 'c'>]>"),
    *(b"\x1b[31m", b"\x07", b"\xe2\x80\xae", b"\xe2\x80\xa8", b"\xcc\x81" * 40, b"1e999"),
    *(b"\\ud800", b"\\u0000", b"9" * 5000, b"NaN", b"null", b"[" * 2000, b"{" * 2000, b"," * 2000),
    *(b"charset=hex", b"msgid", b'msgstr[9] "x"', b'msgstr "', b"#~ ", b"#| msgid", b"*[", b"->"),
    *(b'{ "\\U110000" }', b"sep=x\n", b"source\ttarget\n", b"\t" * 2000, b"\x00\x00\x00\x00"),
    *(b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"a" * 5000),
)


def mutated(data, chance, donors):
    """A file with one to four faults."""
    for _ in range(chance.choice((1, 1, 2, 4))):
        place = chance.randrange(len(data) + 1)
        end = min(len(data), place + chance.choice((1, 4, 30, 300)))
        way = chance.randrange(7)
        if way == 0 and data:
            flipped = bytearray(data)
            for _ in range(chance.choice((1, 3, 20))):
                flipped[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
            data = bytes(flipped)
        elif way == 1:
            data = data[:place]
        elif way == 2:
            other = chance.choice(donors)
            start = chance.randrange(len(other) + 1)
            data = data[:place] + other[start : start + 200] + data[place:]
        elif way == 3:
            data = data[:place] + data[end:]
        elif way == 4:
            data = data[:place] + data[place:end] * chance.choice((2, 50)) + data[end:]
        elif way == 5:  # of the start, where headers are
            place = chance.randrange(min(len(data), 120) + 1)
            data = data[:place] + chance.choice(SNIPPETS) + data[place + chance.randrange(8) :]
        else:
            data = data[:place] + chance.choice(SNIPPETS) + data[place:]
    return data


def test_fuzzed_files(check, valid, chance, tmp_path):
    donors = [data for files in valid for data in files.values()]
    for number in range(FUZZED * (20 if FULL else 1)):
        files = dict(valid[number % len(valid)])
        name = chance.choice(list(files))
        files[name] = mutated(files[name], chance, donors)
        folder = tmp_path / str(number)
        folder.mkdir()
        spec = write(folder, files)
        check(read_as_command(spec), f"{spec}: {files[name][:2000]!r}")
        if number % len(valid) == 0:
            check(lambda spec=spec: ((text,) for text in iterate_text(spec)), spec)


# Bombs: in a process of their own, with little memory


def repeated(start, block, count):
    """Compressed: the start, and a block of a megabyte again and again."""
    return gzip.compress(start) + gzip.compress(block * (MB // len(block)), 1) * count


BOMBS = {
    "x.tsv.gz": (b"a\tb\n", b"a", 1024),
    "wide.tsv.gz": (b"a\tb\n", b"ab\t" * (MB // 3 - 1) + b"\n", 60),
    "long.tsv.gz": (b"", b"a" * (MB // 2 - 9) + b"\t" + b"b" * (MB // 2 - 9) + b"\n", 200),
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
    "wrapped.tmx.gz": (b"<tmx><body>", b"<b><tu/></b>", 20),
    "text.xlf.gz": (b"<xliff><file>", b"a", 1024),
}


def explode(name, path):
    """Read a bomb in a process that has a gigabyte more than this one; gives its outcome."""
    if child := os.fork():
        _, status = os.waitpid(child, 0)
        return {0: "refused in a sentence", 256: "traceback", 512: "no end", 768: "memory"}.get(
            status, "no end" if os.WIFSIGNALED(status) else "traceback"
        )
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 1024 * MB,) * 2)
    resource.setrlimit(resource.RLIMIT_CPU, (30, 31))
    code = 1
    try:
        with limited(20):  # ten, on a machine that has nothing else to do
            pairs = StoredPairs(iterate_corpus(str(path), "train", LANGUAGES))
            clean(pairs, consistent=True, min_letters=0.1, drop_copies=True, into=StoredPairs)
        code = 0
    except UserError:
        code = 0
    except TimeoutError:
        code = 2
    except MemoryError:
        code = 3
    except BaseException as error:
        print(name, repr(error), file=sys.stderr)
    finally:
        os._exit(code)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits and /proc are Linux's")
def test_bombs(ledger, tmp_path):
    for name in BOMBS if FULL else ("x.tsv.gz", "tag.tmx.gz"):
        start, block, count = BOMBS[name]
        path = tmp_path / name
        path.write_bytes(repeated(start, block, count))
        ledger.record(KIND, explode(name, path), name)


def test_json_for_a_terminal_holds_no_commands():
    text = "\x1b[31m \u202e \x9b \U000e0001 größer"
    plain = _harmless(json.dumps({"x": text}, indent=1, ensure_ascii=False))
    assert all(map(str.isprintable, plain.split("\n")))
    assert "größer" in plain
    assert json.loads(plain) == {"x": text}
