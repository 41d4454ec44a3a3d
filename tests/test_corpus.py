"""Reading of valid and invalid corpora in every form."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import re
import unicodedata
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from a2d import corpora
from a2d.errors import UserError
from a2d.text.corpus import read_corpus
from a2d.text.files import lines
from a2d.text.held_out import overlap
from a2d.text.pairs import Pair

PAIRS = [Pair("Guten Tag", "Dobry źeń"), Pair("ja", "jo")]
TABLE = "".join(f"{source}\t{target}\n" for source, target in PAIRS)


def zstandard(data: bytes) -> bytes:
    compressed: bytes = pyarrow.compress(data, "zstd", asbytes=True)
    return compressed


PACK = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zstandard}


def write(path: Path, content: str | bytes) -> Path:
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(PACK.get(path.suffix, bytes)(data))
    return path


def fails(spec: Any, *words: object) -> None:
    """Expect one error sentence that starts with the corpus's name and contains all `words`."""
    with pytest.raises(UserError) as caught:
        read_corpus(spec, "valid")
    message = str(caught.value)
    assert message.startswith("valid: ")
    assert "\n" not in message
    for word in words:
        assert str(word) in message


class TestPackaged:
    @pytest.mark.parametrize(("part", "count"), [("train", 16120), ("valid", 1001), ("test", 1502)])
    def test_counts(self, part: str, count: int) -> None:
        pairs = read_corpus(f"builtin:de-dsb/{part}")
        assert len(pairs) == len(set(pairs)) == count
        assert all(side and side == unicodedata.normalize("NFC", side) for p in pairs for side in p)

    def test_no_leakage(self) -> None:
        parts = {}
        for name in corpora.names():
            source, target = name.partition("/")[0].split("-")
            parts[name] = read_corpus(f"builtin:{name}", languages=(source, target))
        for heldout in ("de-dsb/valid", "de-dsb/test", "en-pt/valid", "en-pt/test"):
            corpus = heldout.partition("/")[0]
            others = [name for name in parts if name.startswith(corpus) and name != heldout]
            assert len(others) == 2
            assert all(overlap(parts[other], parts[heldout]) == 0 for other in others)

    def test_licence_and_provenance_come_along(self) -> None:
        with corpora.locate("de-dsb/train") as path:
            assert "Mozilla Public License" in (path.parent / "LICENSE").read_text("utf-8")
            assert "MPL-2.0" in (path.parent / "README.md").read_text("utf-8")

    def test_unknown(self) -> None:
        fails("builtin:de-dsb/tset", "no packaged corpus 'de-dsb/tset'", "mean 'de-dsb/test'?")
        fails("builtin:xx", "de-dsb/test, de-dsb/train, de-dsb/valid")
        with pytest.raises(KeyError):
            corpora.locate("../de-dsb/train")


PLAIN = st.characters(
    codec="utf-8", exclude_categories=["Cc", "Cs"], exclude_characters="\u200b\u2060\ufeff"
)
"""Characters that stay in texts: test_reading.py has the others."""


class TestTable:
    @pytest.mark.parametrize("file", ["x.tsv", "x.txt", "x.TSV", *(f"x.tsv{e}" for e in PACK)])
    def test_reads(self, tmp_path: Path, file: str) -> None:
        path = write(tmp_path / file, TABLE)
        assert read_corpus(path) == read_corpus(str(path)) == read_corpus({"path": path}) == PAIRS

    def test_accepts_bom_crlf_empty_lines_and_no_final_line_end(self, tmp_path: Path) -> None:
        content = "\ufeff" + TABLE.replace("\n", "\r\n\r\n").rstrip()
        assert read_corpus(write(tmp_path / "x.tsv", content)) == PAIRS

    def test_breaks_lines_at_line_feeds_only(self, tmp_path: Path) -> None:
        odd = "a\u2028b\x0bc\x85d\re"
        assert read_corpus(write(tmp_path / "x.tsv", f"{odd}\tf\n")) == [Pair(odd, "f")]

    def test_composes_and_strips(self, tmp_path: Path) -> None:
        path = write(tmp_path / "x.tsv", " u\u0308ber  uns \t z\u0301 \n")
        assert read_corpus(path) == [Pair("über  uns", "ź")]

    @pytest.mark.parametrize(("line", "count"), [("one", 1), ("one\ttwo\tthree", 3)])
    def test_columns(
        self, tmp_path: Path, line: str, count: int, caplog: pytest.LogCaptureFixture
    ) -> None:
        path = write(tmp_path / "x.tsv", TABLE + line)
        assert read_corpus(path, "valid") == PAIRS
        (record,) = caplog.records
        assert record.getMessage().startswith(
            f"valid: 1 of 3 entries are malformed and were skipped: {path}, line 3 has {count} "
            "column(s) instead of 2"
        )
        path = write(tmp_path / "y.tsv", TABLE + f"{line}\n" * 2)
        reason = f"line 3 has {count} column(s) instead of 2"
        fails(path, path, "2 of 4 entries are malformed, for example: ", reason, "one tab")

    def test_shows_the_first_entry_of_every_problem(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        malformed = "".join("\t".join("x" * count) + "\n" for count in (1, 1, 3, 4, 5, 1, 3))
        path = write(tmp_path / "x.tsv", TABLE * 9 + malformed)
        assert read_corpus(path) == PAIRS * 9
        message = caplog.records[0].getMessage()
        reported = re.findall(r"line (\d+) has (\d) column.*?(\(and \d more\))?[;.] ?", message)
        assert [(line, columns) for line, columns, _ in reported] == [
            ("19", "1"),
            ("21", "3"),
            ("22", "4"),
        ]
        assert re.findall(r"\(and (\d) more\)", message) == ["2", "1"]
        assert message.endswith("…")

    def test_standard_input(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with write(tmp_path / "x", TABLE).open() as file:
            monkeypatch.setattr("sys.stdin", file)
            assert read_corpus("-") == PAIRS

    @pytest.mark.parametrize("content", ["", "\ufeff", "\n\n"])
    @pytest.mark.parametrize("file", ["x.tsv", "x.tsv.gz", "x.tsv.zst", "x.jsonl"])
    def test_empty(self, tmp_path: Path, file: str, content: str) -> None:
        path = write(tmp_path / file, content)
        fails(path, path, "is empty")
        fails({"path": path}, path, "is empty")

    def test_not_utf8(self, tmp_path: Path) -> None:
        bad = "für\tza\n".encode("latin-1")
        path = write(tmp_path / "x.tsv", TABLE.encode() + bad)
        assert read_corpus(path) == PAIRS
        path = write(tmp_path / "x.tsv", bad + bad)
        fails(path, path, "line 1 is not valid UTF-8", "convert", "2 of 2 entries")
        texts = (b"a\n\xff\nc\n", b"d\ne\nf\n")
        sides = [write(tmp_path / f"x.{n}", text) for n, text in enumerate(texts)]
        assert read_corpus(sides) == [Pair("a", "d"), Pair("c", "f")]
        places = [line.where for line in [*lines(write(tmp_path / "y", b"\xff\nb\n\xff\n"))][::2]]
        assert places == [f"{tmp_path / 'y'}, line {number}" for number in (1, 3)]

    @pytest.mark.parametrize("ending", PACK)
    def test_damaged(self, tmp_path: Path, ending: str) -> None:
        path = write(tmp_path / f"x.tsv{ending}", TABLE * 1000)
        data = path.read_bytes()
        middle = len(data) // 2
        flipped = data[:middle] + bytes([data[middle] ^ 255]) + data[middle + 1 :]
        unchecked = ending == ".zst"  # pyarrow writes no checksum
        for damaged in (TABLE.encode(), data[:-5], data[:middle], *[flipped] * (not unchecked)):
            path.write_bytes(damaged)
            fails(path, path, f"a damaged {ending[1:]} file", "again")

    def test_zstd_in_several_frames(self, tmp_path: Path) -> None:
        path = write(tmp_path / "x.tsv.zst", TABLE)
        path.write_bytes(path.read_bytes() * 2)
        assert read_corpus(path) == PAIRS * 2

    def test_split_is_refused(self, tmp_path: Path) -> None:
        path = write(tmp_path / "x.tsv", TABLE)
        fails({"path": path, "split": "train"}, path, "remove 'split'")

    @settings(deadline=None)  # the machine may be busy
    @given(st.lists(st.tuples(*[st.text(PLAIN)] * 2), min_size=1))
    def test_round_trip(
        self, tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]
    ) -> None:
        table = "".join(f"{a}\t{b}\n" for a, b in rows)
        path = write(tmp_path_factory.getbasetemp() / "round-trip.tsv", table)
        want = [tuple(unicodedata.normalize("NFC", side).strip() for side in row) for row in rows]
        assert read_corpus(path) == want


class TestAlignedFiles:
    @pytest.mark.parametrize("ending", ["", ".gz"])
    def test_reads(self, tmp_path: Path, ending: str) -> None:
        source = write(tmp_path / f"x.de{ending}", "\ufeffGuten Tag\r\n\r\nja")
        target = write(tmp_path / f"x.dsb{ending}", "Dobry źeń\n\njo\n")
        want = [PAIRS[0], Pair("", ""), PAIRS[1]]
        assert read_corpus([source, str(target)]) == read_corpus((source, target)) == want

    def test_unequal(self, tmp_path: Path) -> None:
        source = write(tmp_path / "x.de", "a\nb\nc\n")
        target = write(tmp_path / "x.dsb", "a\n")
        fails([source, target], f"{source} has 3 lines, but {target} has 1", "align")
        fails([target, source], f"{target} has 1 lines, but {source} has 3")

    def test_empty_or_missing(self, tmp_path: Path) -> None:
        source, target = write(tmp_path / "x.de", ""), write(tmp_path / "x.dsb", "")
        fails([source, target], source, target, "empty")
        fails([source, tmp_path / "none.dsb"], "there is no", "none.dsb")

    def test_wrong_files(self, tmp_path: Path) -> None:
        table = write(tmp_path / "x.tsv", TABLE)
        other = write(tmp_path / "x.txt", "b\n")
        fails([[table, table]], table, "not plain text", "holds both sides")
        for name in ("x.tmx", "x.xliff.gz", "x.po", "x.ftl", "x.parquet"):
            one = write(tmp_path / name, "a\n")
            words = (
                ("have different types",) if name in ("x.po", "x.ftl") else ("not plain text", one)
            )
            fails([[one, other]], *words)
        fails([[table]], "1 files", "list two")
        fails([table, [other, 1]], "is not a corpus")


class TestJsonLines:
    @pytest.mark.parametrize("file", ["x.jsonl", "x.json", "x.jsonl.gz"])
    @pytest.mark.parametrize("nested", [False, True])
    def test_reads(self, tmp_path: Path, file: str, nested: bool) -> None:
        records: list[dict[str, Any]] = [
            {"translation": {"de": a, "dsb": b}} if nested else {"id": 1, "source": a, "target": b}
            for a, b in PAIRS
        ]
        path = write(tmp_path / file, "\n\n".join(map(json.dumps, records)))
        assert read_corpus(path) == PAIRS

    def test_languages_keep_the_first_lines_order(self, tmp_path: Path) -> None:
        lines = [
            '{"translation": {"de": "a", "dsb": "b"}}',
            '{"translation": {"dsb": "d", "de": "c"}}',
        ]
        assert read_corpus(write(tmp_path / "x.jsonl", "\n".join(lines)))[1] == Pair("c", "d")

    @pytest.mark.parametrize(
        ("texts", "expected"),
        [
            ({"dsb": "b", "de": "a"}, Pair("a", "b")),
            ({"de_DE": "a", "dsb": "b"}, Pair("a", "b")),
            ({"other": "b", "de": "a"}, Pair("a", "b")),  # one language determines both sides
            ({"dsb": "b", "deu_Latn": "a"}, Pair("a", "b")),
            ({"x": "a", "y": "b"}, Pair("a", "b")),
            ({"en": "c", "dsb": "b", "fr": "d", "de": "a"}, Pair("a", "b")),
        ],
    )
    @pytest.mark.parametrize("kind", ["jsonl", "parquet", "folder"])
    def test_languages_choose_source_and_target(
        self, tmp_path: Path, texts: dict[str, str], expected: Pair, kind: str
    ) -> None:
        path, record = tmp_path / f"x.{kind}", {"translation": texts}
        if kind == "jsonl":
            path.write_text(json.dumps(record))
        elif kind == "parquet":
            parquet.write_table(pyarrow.Table.from_pylist([record]), path)
        else:
            datasets = pytest.importorskip("datasets")
            datasets.Dataset.from_list([record]).save_to_disk(str(path))
        assert read_corpus(path, languages=("de", "dsb")) == [expected]

    def test_parquet_with_invalid_utf8(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        columns = {}
        for name, texts in {
            "source": (b"a", b"f\xfcr", b"c"),
            "target": (b"d", b"e", b"f"),
        }.items():
            buffers = pyarrow.array(texts).buffers()
            columns[name] = pyarrow.Array.from_buffers(pyarrow.string(), 3, buffers)
        parquet.write_table(pyarrow.table(columns), tmp_path / "x.parquet")
        assert read_corpus(tmp_path / "x.parquet") == [Pair("a", "d"), Pair("c", "f")]
        assert "row 1 is not valid UTF-8" in caplog.records[0].getMessage()

    def test_columns_by_language(self, tmp_path: Path) -> None:
        record = {"id": 1, "dsb": "b", "de": "a"}
        path = write(tmp_path / "x.jsonl", json.dumps(record))
        assert read_corpus(path, languages=("de", "dsb")) == [Pair("a", "b")]
        fails(path, "'id', 'dsb', 'de' instead of 'source' and 'target'")

    def test_chosen_keys(self, tmp_path: Path) -> None:
        record = {"id": 1, "flat.key": "x", "translation": {"de": "a", "dsb": "b", "en": "c"}}
        path = write(tmp_path / "x.jsonl", json.dumps(record))
        keys = {"source": "translation.dsb", "target": "flat.key"}
        assert read_corpus({"path": str(path), **keys}) == [Pair("b", "x")]

    @pytest.mark.parametrize(
        ("line", "words"),
        [
            ('{"source": "a"', "not valid JSON"),
            ("[" * 100_000, "not valid JSON"),
            ('["a", "b"]', "not a JSON object"),
            ('{"source": "a"}', "no 'target' ('source' instead of 'target')"),
            ('{"source": "a", "target": 1}', "has 1 under 'target'"),
            (r'{"source": "a", "target": "\ud83d"}', "half a character under 'target'"),
        ],
    )
    def test_malformed(self, tmp_path: Path, line: str, words: str) -> None:
        path = write(tmp_path / "x.jsonl", '{"source": "a", "target": "b"}\n' + line)
        fails(path, f"{path}, line 2", words)

    def test_missing_keys(self, tmp_path: Path) -> None:
        path = write(tmp_path / "x.jsonl", '{"de": "a", "dsb": {"x": "b"}}')
        fails(path, "line 1", "'de', 'dsb'", "{path: x.jsonl, source: de, target: dsb}")
        fails(
            {"path": path, "source": "de.x", "target": "dsb.x"}, "no 'de.x'", "'a' instead of 'x'"
        )
        fails({"path": path, "source": "de", "target": "dsb.y"}, "no 'dsb.y'", "'x' instead of 'y'")


class TestDatasets:
    def save(self, path: Path, splits: bool = False) -> str:
        datasets = pytest.importorskip("datasets")
        data = datasets.Dataset.from_list([{"translation": {"de": a, "dsb": b}} for a, b in PAIRS])
        (datasets.DatasetDict({"valid": data}) if splits else data).save_to_disk(str(path))
        return str(path)

    def test_folder(self, tmp_path: Path) -> None:
        path = self.save(tmp_path / "data")
        keys = {"source": "translation.dsb", "target": "translation.de"}
        assert read_corpus(path) == read_corpus({"dataset": path}) == PAIRS
        assert read_corpus({"path": path, **keys})[1] == Pair("jo", "ja")
        fails({"path": path, "source": "de", "target": "dsb"}, "row 0", "no 'de'", "'translation'")
        fails({"dataset": path, "config": "de-dsb"}, "remove 'config'")

    def test_folder_of_splits(self, tmp_path: Path) -> None:
        path = self.save(tmp_path / "data", splits=True)
        assert read_corpus(path, "valid") == PAIRS
        assert read_corpus({"dataset": path, "split": "valid"}, "train") == PAIRS
        assert read_corpus({"path": path, "split": "valid"}, "train") == PAIRS
        fails({"path": path, "split": "test"}, "no split 'test'", "'valid'")

    def test_other_folder(self, tmp_path: Path) -> None:
        fails(tmp_path, tmp_path, "not a folder written by datasets.save_to_disk")

    def test_by_name(self, monkeypatch: pytest.MonkeyPatch) -> None:
        datasets = pytest.importorskip("datasets")
        calls: list[Any] = []

        def load(*args: object, **kwargs: object) -> object:
            calls.append((args, kwargs))
            return datasets.Dataset.from_list([pair._asdict() for pair in PAIRS])

        monkeypatch.setattr(datasets, "load_dataset", load)
        assert read_corpus({"dataset": "some/set", "config": "de-dsb"}, "train") == PAIRS
        assert read_corpus({"dataset": "some/set", "split": "test"}, "valid") == PAIRS
        assert calls == [
            (("some/set", "de-dsb"), {"split": "train"}),
            (("some/set", None), {"split": "test"}),
        ]

    def test_failing_download(self, monkeypatch: pytest.MonkeyPatch) -> None:
        datasets = pytest.importorskip("datasets")

        def load(*args: object, **kwargs: object) -> object:
            raise ConnectionError("Couldn't reach the Hub.\nLong story")

        monkeypatch.setattr(datasets, "load_dataset", load)
        fails({"dataset": "some/set"}, "'some/set', split 'valid'", "(Couldn't reach the Hub)")


class TestParquet:
    def test_reads(self, tmp_path: Path) -> None:
        for names in (("source", "target"), ("de", "dsb")):
            columns = {name: [pair[n] for pair in PAIRS] for n, name in enumerate(names)}
            parquet.write_table(pyarrow.table(columns), tmp_path / "x.parquet")
            keys = {} if "source" in names else {"source": "de", "target": "dsb"}
            assert read_corpus({"path": tmp_path / "x.parquet", **keys}) == PAIRS
        fails(tmp_path / "x.parquet", "row 0 has 'de', 'dsb' instead of 'source' and 'target'")

    def test_damaged(self, tmp_path: Path) -> None:
        fails(write(tmp_path / "x.parquet", "nothing"), "x.parquet is not a valid Parquet file")


class TestSacreBleu:
    def test_reads_what_is_cached(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        paths = {
            name: write(tmp_path / name, "".join(f"{pair[n]}\n" for pair in PAIRS))
            for n, name in enumerate(("source", "reference"))
        }
        requests = []

        def find(name: str) -> Any:
            return lambda *args: requests.append(args) or paths[name]

        monkeypatch.setattr("sacrebleu.utils.get_source_file", find("source"))
        monkeypatch.setattr(
            "sacrebleu.utils.get_reference_files", lambda *args: [find("reference")(*args)]
        )
        assert read_corpus("sacrebleu:wmt22", languages=("de", "en")) == PAIRS
        assert requests == [("wmt22", "de-en")] * 2

    def test_unknown_test_set(self) -> None:
        with pytest.raises(UserError, match=r"no de-dsb test set 'wmt99'.*No such test set wmt99"):
            read_corpus("sacrebleu:wmt99", languages=("de", "dsb"))
        fails("sacrebleu:wmt22", "name source and target")


class TestSpec:
    def test_missing(self, tmp_path: Path) -> None:
        for file in ("none.tsv", "none.jsonl.gz", "none"):
            fails(tmp_path / file, f"there is no {tmp_path / file}", "check the path")

    def test_unknown_type(self, tmp_path: Path) -> None:
        fails(
            write(tmp_path / "x.docx", "a"), "x.docx", ".tsv", ".jsonl", "save_to_disk", "builtin:"
        )

    def test_unreadable(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*args: object) -> None:
            raise PermissionError(13, "Permission denied")

        path = write(tmp_path / "x.tsv", TABLE)
        monkeypatch.setattr(Path, "open", refuse)
        fails(path, path, "cannot be read: Permission denied")

    @pytest.mark.parametrize(
        ("spec", "words"),
        [
            (7, "7 is not a corpus"),
            ([1, 2], "1 is not a corpus"),
            ([], "[] is not a corpus"),
            ({}, "either 'path' or 'dataset'"),
            ({"path": "x.tsv", "dataset": "x"}, "either 'path' or 'dataset'"),
            (
                {"path": "x.tsv", "config": "de"},
                "unknown key 'config': valid are path, split, source",
            ),
            ({"dataset": "x", "trust_remote_code": True}, "unknown key 'trust_remote_code'"),
            ({"dataset": "x", "split": 1}, "'split' is 1"),
            ({"path": ["x.de", "x.dsb"]}, "'path' is ['x.de', 'x.dsb']"),
            ({"path": "x.jsonl", "source": "de"}, "both 'source' and 'target'"),
        ],
    )
    def test_wrong(self, spec: Any, words: str) -> None:
        fails(spec, words)
