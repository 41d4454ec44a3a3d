"""Several processes read a large file as one process reads it."""

import gzip
import json
import logging
from xml.sax.saxutils import escape

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from a2d.errors import UserError
from a2d.text import bulk, corpus
from a2d.text.bulk import _ranges, read_part
from a2d.text.corpus import iterate_with_places, readers, store_corpus
from a2d.text.files import line_ranges, lines
from a2d.text.reading import Reader, ReadingReport

CELLS = st.sampled_from(
    [
        b"",
        b"ja",
        b"Guten Tag",
        "źěło".encode(),
        b"\xff",
        b"a &amp; b",
        b"x\x07",
        b'"q"',
        b"\r",
        b" ",
    ]
)
TABLES = st.lists(st.lists(CELLS, min_size=1, max_size=3).map(b"\t".join), max_size=12).flatmap(
    lambda rows: st.sampled_from([b"\n".join(rows), b"\n".join([*rows, b""])])
)


@pytest.fixture(autouse=True)
def one_process(monkeypatch):
    """Parts are read one after the other in this process, which does not change them."""
    monkeypatch.setattr(
        bulk, "in_processes", lambda work, items, processes: map(work, items), raising=True
    )


def outcome(read):
    """Pairs and places, warnings and errors of a reading."""
    messages = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    logger = logging.getLogger("a2d")
    logger.addHandler(handler)
    try:
        return read(), messages
    except UserError as error:
        return str(error), messages
    finally:
        logger.removeHandler(handler)


def sequentially(spec):
    located = list(iterate_with_places(spec, "train", ("de", "dsb")))
    starts = []
    for number, (place, _) in enumerate(located):
        if not starts or starts[-1][1] != place:
            starts.append((number, place))
    return [pair for _, pair in located], starts


def in_parts(spec):
    pairs, starts = store_corpus(spec, "train", ("de", "dsb"), 2)
    return list(pairs), starts


@settings(deadline=None, max_examples=150)
@given(TABLES, TABLES, st.integers(1, 5), st.integers(1, 9))
def test_any_table_or_pair_of_files(tmp_path_factory, first, second, size, most_malformed):
    folder = tmp_path_factory.mktemp("tables")
    table, source, target = folder / "x.tsv", folder / "x.de", folder / "x.dsb"
    table.write_bytes(first)
    source.write_bytes(first.replace(b"\t", b" "))
    target.write_bytes(second.replace(b"\t", b" "))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bulk, "LINES", size)
        patch.setattr("a2d.text.reading.MAX_MALFORMED", most_malformed)
        for spec in (table, [[str(source), str(target)]], [[str(source), str(source)]]):
            expected = outcome(lambda spec=spec: sequentially(spec))
            assert outcome(lambda spec=spec: in_parts(spec)) == expected


TEXT = st.sampled_from(["", "ja", "źěło", "a &amp; b"])
RECORDS = st.one_of(
    st.fixed_dictionaries({"source": TEXT, "target": TEXT}),
    st.fixed_dictionaries({"de": TEXT, "dsb": TEXT}, optional={"score": TEXT}),
    st.fixed_dictionaries({"translation": st.fixed_dictionaries({"de": TEXT, "dsb": TEXT})}),
    st.fixed_dictionaries({"source": st.just(None), "target": TEXT}),
    st.dictionaries(TEXT, TEXT, max_size=3),
    st.integers(),
)
OBJECTS = st.one_of(
    RECORDS.map(json.dumps), st.sampled_from(["", " ", "{", "[", "[{}]", "\ufeff{}", "\\"])
)


@settings(deadline=None, max_examples=200)
@given(st.lists(OBJECTS, max_size=10), st.integers(1, 4))
def test_any_json_lines(tmp_path_factory, rows, size):
    path = tmp_path_factory.mktemp("json") / "x.jsonl"
    path.write_text("\n".join(rows), "utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bulk, "LINES", size)
        keys = {"path": str(path), "source": "dsb", "target": "de"}
        for spec in (path, keys):
            expected = outcome(lambda spec=spec: sequentially(spec))
            assert outcome(lambda spec=spec: in_parts(spec)) == expected


@settings(deadline=None)
@given(st.lists(st.sampled_from([b"", b"a", b"bc", b"\xc5\xa1"]), max_size=9), st.integers(1, 4))
def test_ranges_are_the_lines_of_the_file(tmp_path_factory, content, size):
    path = tmp_path_factory.mktemp("ranges") / "x"
    path.write_bytes(b"\n".join(content))
    ranges, count = line_ranges(path, size)
    parts = [list(lines(each)) for each in ranges]
    assert [line for part in parts for line in part] == list(lines(path))
    assert count == sum(map(len, parts))
    assert [each.first for each in ranges] == list(range(1, 1 + size * len(ranges), size))
    assert all(len(part) == size for part in parts[:-1])


def test_a_header_is_read_once_and_names_the_columns_of_all_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(bulk, "LINES", 2)
    path = tmp_path / "x.tsv"
    rows = "".join(f"{number}\tWort {number}\tsłowo {number}\n" for number in range(7))
    path.write_text(f"number\tde\tdsb\n{rows}", "utf-8")
    (pairs, _), _ = outcome(lambda: in_parts(path))
    assert [pair.target for pair in pairs] == [f"słowo {number}" for number in range(7)]


@pytest.mark.parametrize("name", ["x.tsv.gz", "utf16.tsv", "x.json", "x.csv"])
def test_other_files_are_read_as_a_whole(tmp_path, name, monkeypatch):
    monkeypatch.setattr(bulk, "LINES", 2)
    path = tmp_path / name
    text = "ja\tjo\n" * 5 if name != "x.json" else '[\n{"source": "ja", "target": "jo"}\n]\n'
    path.write_text(text, "utf-16" if "16" in name else "utf-8")
    (reader,) = readers(path, "train", None)
    assert not _ranges(reader)


def test_json_lines_are_read_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(bulk, "LINES", 2)
    path = tmp_path / "x.jsonl"
    path.write_text('{"source": "ja", "target": "jo"}\n' * 5, "utf-8")
    (reader,) = readers(path, "train", None)
    assert len(_ranges(reader)) == 3


def test_long_lines_are_skipped_within_their_part(tmp_path, monkeypatch):
    monkeypatch.setattr(bulk, "LINES", 2)
    monkeypatch.setattr("a2d.text.files.MAX_LINE", 10)
    path = tmp_path / "x.tsv"
    path.write_text("a\tb\n" + "x" * 50 + "\ty\nc\td\ne\tf\n" * 2, "utf-8")
    assert outcome(lambda: in_parts(path)) == outcome(lambda: sequentially(path))


def test_a_beginning_of_malformed_lines_alone_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("a2d.text.reading.MAX_MALFORMED", 5)
    monkeypatch.setattr(bulk, "LINES", 3)
    path = tmp_path / "x.tsv"
    path.write_text("one column\n" * 20, "utf-8")
    with pytest.raises(UserError, match=r"train: 5 entries before the first pair are malformed"):
        in_parts(path)
    path.write_text("a\tb\n" * 5 + "one column\n" * 8 + "a\tb\n" * 9, "utf-8")
    assert outcome(lambda: in_parts(path)) == outcome(lambda: sequentially(path))


@pytest.mark.slow
def test_processes(tmp_path, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(bulk, "LINES", 100)
    path = tmp_path / "x.tsv"
    path.write_text("".join(f"Wort {n}\tsłowo {n}\n" for n in range(350)) + "lone\n", "utf-8")
    assert outcome(lambda: in_parts(path)) == outcome(lambda: sequentially(path))


def test_a_part_has_its_own_counts(tmp_path):
    path = tmp_path / "x.tsv"
    path.write_text("a\tb\nlone\nc\td\n", "utf-8")
    ranges, _ = line_ranges(path, 2)
    (reader,) = readers(path, "train", None)
    part = bulk.Part([str(path)], (path,), (ranges[0],), reader.selection, tmp_path / "out")
    report = read_part(part)
    assert isinstance(report, ReadingReport)
    assert (report.pairs, report.malformed) == (1, 1)
    assert corpus.store_corpus(path)[0][:] == [("a", "b"), ("c", "d")]


ROWS = st.lists(
    st.tuples(*[st.sampled_from(["", "ja", "źěło", "a &amp; b", "b\x07"])] * 2), max_size=6
)
NAMES = ("a.tsv", "b.tsv.gz", "c.csv", "d.jsonl", "e.parquet", "f.tmx", "g.tsv")


def write_rows(path, rows):
    """Write pairs into a file of any type."""
    if path.suffix == ".parquet":
        columns = {"source": [row[0] for row in rows], "target": [row[1] for row in rows]}
        pyarrow.parquet.write_table(pyarrow.table(columns), path)
    elif path.suffix == ".tmx":
        units = "".join(
            "<tu>"
            + "".join(
                f'<tuv xml:lang="{code}"><seg>{escape(text.replace(chr(7), ""))}</seg></tuv>'
                for code, text in zip(("de", "dsb"), row, strict=True)
            )
            + "</tu>"
            for row in rows
        )
        path.write_text(f"<tmx><body>{units}</body></tmx>", "utf-8")
    elif path.suffix == ".jsonl":
        keys = [dict(zip(("source", "target"), row, strict=True)) for row in rows]
        path.write_text("".join(f"{json.dumps(each)}\n" for each in keys), "utf-8")
    else:
        comma = "," if path.suffix == ".csv" else "\t"
        text = "".join(f"{comma.join(row)}\n" for row in rows).encode()
        path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.sampled_from(NAMES), ROWS), min_size=1, max_size=5), st.booleans())
def test_any_files(tmp_path_factory, files, damaged):
    folder = tmp_path_factory.mktemp("files")
    spec = []
    for number, (name, rows) in enumerate(files):
        spec.append(str(folder / f"{number}{name}"))
        write_rows(folder / f"{number}{name}", rows)
    if damaged:
        (folder / "last.tsv.gz").write_bytes(gzip.compress(b"ja\tjo\n" * 9)[:-6])
        spec.append(str(folder / "last.tsv.gz"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bulk, "BYTES", 1)
        patch.setattr(bulk, "LINES", 3)
        (found, warnings), expected = (
            outcome(lambda read=read: read(spec)) for read in (in_parts, sequentially)
        )
        assert found == expected[0]
        # A file may be refused before another one is read, whose warnings then do not come.
        assert warnings == expected[1] or (isinstance(found, str) and not warnings)


@pytest.mark.slow
def test_processes_read_whole_files(tmp_path, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(bulk, "BYTES", 1)
    for number in range(3):
        rows = [(f"Wort {number} {n}", f"słowo {n}") for n in range(50)]
        write_rows(tmp_path / f"{number}.tsv.gz", [*rows, ("lone", "")])
    spec = str(tmp_path / "*.tsv.gz")
    assert outcome(lambda: in_parts(spec)) == outcome(lambda: sequentially(spec))
    read = []
    monkeypatch.setattr(Reader, "read", lambda *_: read.append(1) or iter([]))
    store_corpus(spec, "train", ("de", "dsb"), 2)
    assert len(read) == 3  # this process looks at the beginning of each only
