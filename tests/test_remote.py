"""Corpora at addresses: downloaded once, again when they change, refused in one sentence."""

import gzip
import http.server
import threading
from functools import partial

import fsspec
import pytest

from a2d import UserError
from a2d.runs.corpus_record import hash_of_inputs
from a2d.runs.recipe import load_recipe
from a2d.text import remote
from a2d.text.corpus import places, read_corpus
from a2d.text.monolingual import iterate_text
from a2d.text.pairs import Pair
from a2d.text.writing import check_output, write_pairs

PAIRS = [Pair("ein Haus", "a house"), Pair("ein Baum", "a tree")]
TABLE = "".join(f"{source}\t{target}\n" for source, target in PAIRS).encode()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setattr(remote, "HF_HOME", str(folder))
    remote._copy.cache_clear()
    yield folder
    remote._copy.cache_clear()


@pytest.fixture
def server(tmp_path):
    """Address of a web server on this machine, and the folder that it serves."""
    folder = tmp_path / "served"
    folder.mkdir()
    handler = partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", folder
        server.shutdown()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


def put(address, content):
    """Write a file of fsspec's store in memory."""
    with fsspec.open(f"memory://{address}", "wb") as file:
        file.write(content)


def test_a_web_server(server):
    address, folder = server
    (folder / "train corpus.tsv.gz").write_bytes(gzip.compress(TABLE))
    assert read_corpus(f"{address}/train%20corpus.tsv.gz?download=1") == PAIRS


def test_two_sides_and_mappings():
    put("/two/train.de", b"ein Haus\nein Baum\n")
    put("/two/train.en", b"a house\na tree\n")
    put("/two/table.csv", b"german,english\nein Haus,a house\nein Baum,a tree\n")
    files = ["memory://two/train.de", "memory://two/train.en"]
    assert read_corpus(files, languages=("de", "en")) == PAIRS
    spec = {"path": "memory://two/table.csv", "source": "german", "target": "english"}
    assert read_corpus(spec) == PAIRS


def test_a_pattern_stands_for_all_files_that_match():
    for number, content in enumerate([TABLE, b"ein Hund\ta dog\n", b"eine Maus\ta mouse\n"]):
        put(f"/parts/train-{number}.tsv", content)
    put("/parts/test.tsv", b"nichts\tnothing\n")
    others = [Pair("ein Hund", "a dog"), Pair("eine Maus", "a mouse")]
    assert read_corpus("memory://parts/train-*.tsv") == [*PAIRS, *others]
    swapped = {"path": "memory://parts/train-*.tsv", "source": 2, "target": 1}
    assert read_corpus(swapped)[-1] == Pair("a mouse", "eine Maus")
    one = {"path": "memory://parts/*-2.tsv", "source": 2, "target": 1}
    assert read_corpus([one, "memory://parts/te*"])[-1] == Pair("nichts", "nothing")
    assert places(["memory://parts/train-*.tsv"])[2].endswith("parts/train-2.tsv")
    with pytest.raises(UserError, match=r"train: no file matches 'memory://parts/\*\.csv'"):
        read_corpus("memory://parts/*.csv", "train")


def test_a_pattern_of_paths(tmp_path):
    sides = {"b.de": "ein Haus\nein Baum\n", "b.en": "a house\na tree\n"}
    for name, text in sides.items():
        (tmp_path / name).write_text(text)
    assert read_corpus(f"{tmp_path}/b.*", languages=("de", "en")) == PAIRS
    assert list(iterate_text(f"{tmp_path}/*.de")) == ["ein Haus", "ein Baum"]
    (tmp_path / "a*.tsv").write_bytes(TABLE)
    (tmp_path / "ab.tsv").write_text("no table")
    assert read_corpus(tmp_path / "a*.tsv") == PAIRS  # the name of a file
    with pytest.raises(UserError, match="no file matches"):
        read_corpus(f"{tmp_path}/*.jsonl")


@pytest.mark.parametrize("place", ["memory://out", "{tmp_path}"])
def test_numbered_files_are_written_and_replaced(tmp_path, place):
    place = place.format(tmp_path=tmp_path)
    pairs = [Pair(f"Haus {number}", f"house {number}") for number in range(7)]
    name = f"{place}/clean [x]-*.parquet"
    put("/out/clean [x]-note.txt", b"stays")
    check_output(name, overwrite=False)
    assert write_pairs(pairs, name, 3) == 3
    assert read_corpus(name) == pairs
    assert read_corpus(f"{place}/clean [x]-00002.parquet") == pairs[6:]
    with pytest.raises(UserError, match=r"clean \[x\]-00000.parquet exists already"):
        check_output(name, overwrite=False)
    check_output(name, overwrite=True)
    assert write_pairs(pairs[:4], name, 2) == 2
    remote._copy.cache_clear()
    assert read_corpus(name) == pairs[:4]
    assert len(remote.existing(name)) == 2
    own = f"{place}/clean [x]-of mine.parquet"
    write_pairs(pairs, own)
    assert write_pairs([], name) == 1
    assert read_corpus(own) == pairs


def test_a_file_at_an_address_is_written_as_a_whole(tmp_path):
    address = "memory://whole/x.tsv.gz"
    check_output(address, overwrite=False)
    assert write_pairs(PAIRS, address) == 1
    assert read_corpus(address) == PAIRS
    with pytest.raises(UserError, match="exists already"):
        check_output(address, overwrite=False)
    with pytest.raises(UserError, match="cannot be written"):
        write_pairs(PAIRS, "nowhere://x/y.tsv")


@pytest.mark.parametrize("name", ["*/x.tsv", "x-*-*.tsv", "s3://*/x.tsv"])
def test_more_than_one_star_is_refused(name):
    with pytest.raises(UserError, match="'\\*' too many"):
        check_output(name, overwrite=False)


def test_a_new_file_of_a_pattern_is_a_change(tmp_path):
    (tmp_path / "a.tsv").write_bytes(TABLE)
    recipe = load_recipe("methods", [f"corpus.train={tmp_path}/*.tsv"])
    before = hash_of_inputs(recipe)
    assert before == hash_of_inputs(recipe)
    (tmp_path / "b.tsv").write_bytes(TABLE)
    assert before is not None
    assert hash_of_inputs(recipe) not in (before, None)


def test_a_copy_is_used_until_the_file_changes(cache):
    put("/one/train.tsv", TABLE)
    assert read_corpus("memory://one/train.tsv") == PAIRS
    [copy] = cache.rglob("train.tsv")
    written = copy.stat().st_mtime_ns
    remote._copy.cache_clear()
    assert read_corpus("memory://one/train.tsv") == PAIRS
    assert copy.stat().st_mtime_ns == written
    put("/one/train.tsv", TABLE + b"ein Hund\ta dog\n")
    remote._copy.cache_clear()
    assert len(read_corpus("memory://one/train.tsv")) == 3


def test_an_interrupted_download_is_repeated(cache):
    put("/cut/train.tsv", TABLE)
    read_corpus("memory://cut/train.tsv")
    [copy] = cache.rglob("train.tsv")
    copy.write_text("half")
    (copy.parent / ".version").unlink()
    remote._copy.cache_clear()
    assert read_corpus("memory://cut/train.tsv") == PAIRS


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("memory://none/train.tsv", "'memory://none/train.tsv' cannot be downloaded"),
        ("nowhere://x/train.tsv", r"cannot be downloaded \(Protocol not known: nowhere\)"),
        ("s3://bucket/train.tsv", "cannot be downloaded without its library: Install s3fs"),
        ("http://127.0.0.1:1/train.tsv", r"cannot be downloaded \(.*127\.0\.0\.1.*: check"),
    ],
)
def test_refusals(address, message):
    with pytest.raises(UserError, match=message):
        read_corpus(address)
