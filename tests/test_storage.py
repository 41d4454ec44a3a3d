"""Stored corpora behave like lists, without using memory."""

import os
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from datasets import load_from_disk
from hypothesis import given, settings
from hypothesis import strategies as st

from a2d.models.tokenizer import train_tokenizer
from a2d.runs.splits import text_hash
from a2d.text import held_out, storage
from a2d.text.batching import lengths, tokenise
from a2d.text.cleaning import clean
from a2d.text.corpus import iterate_corpus, read_corpus
from a2d.text.held_out import hold_out, overlap
from a2d.text.pairs import Pair
from a2d.text.storage import StoredPairs, Texts
from a2d.text.token_files import save_tokens

TEXT = st.text(st.characters(codec="utf-8"), max_size=5)
PAIRS = read_corpus("builtin:de-dsb/train")[:1500]


@settings(deadline=None, max_examples=40)
@given(st.lists(st.builds(Pair, TEXT, TEXT), max_size=12), st.slices(12), st.integers(0, 11))
def test_behaves_as_a_list(pairs, part, index):
    stored = StoredPairs(iter(pairs))
    assert len(stored) == len(pairs)
    assert list(stored) == list(stored) == pairs
    assert stored[part] == pairs[part]
    if index < len(pairs):
        assert stored[index] == pairs[index]
    assert sorted(Texts(stored)) == sorted(text for pair in pairs for text in pair)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.builds(Pair, TEXT, TEXT), st.booleans()), max_size=12),
    st.integers(1, 5),
)
def test_has_the_hash_of_a_list(flagged, size):
    pairs, flags = [pair for pair, _ in flagged], np.array([flag for _, flag in flagged], bool)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage, "PART", size)
        stored = StoredPairs(pairs)
    left = [pair for pair, flag in flagged if flag]
    assert text_hash(stored, PAIRS[:2]) == text_hash(pairs, PAIRS[:2])
    assert text_hash(stored.select(flags)) == text_hash(left)
    assert text_hash(StoredPairs.joined([stored, stored])) == text_hash(pairs * 2)


@given(
    st.lists(st.integers(0, 9), max_size=30),
    st.lists(st.integers(0, 9), max_size=5),
)
def test_a_few_numbers_are_found_among_many(many, few):
    many, few = np.array(many, np.uint64), np.array(few, np.uint64)
    assert held_out._are_among(many, few).tolist() == np.isin(many, few).tolist()
    assert held_out._occur(few, many).tolist() == np.isin(few, many).tolist()


def test_holds_more_than_a_batch():
    assert list(StoredPairs(PAIRS)) == PAIRS
    assert StoredPairs(PAIRS)[990:1010] == PAIRS[990:1010]


def test_nothing_can_be_selected_and_cleaned():
    empty = StoredPairs([])
    assert list(empty.select(np.zeros(0, bool))) == []
    assert list(clean(empty)[0]) == []
    assert list(clean(StoredPairs(PAIRS[:3]).select(np.zeros(3, bool)))[0]) == []


def test_leaves_no_file_behind():
    stored = StoredPairs(PAIRS)
    folder = Path(stored._folder.name)
    assert len(list(folder.rglob("*.arrow"))) == 1
    del stored
    assert not folder.exists()


STORE = """
import os, sys
from a2d.text.pairs import Pair
from a2d.text.storage import StoredPairs
stored = StoredPairs([Pair("ja", "jo")])
print(os.path.dirname(stored._folder.name), flush=True)
os.kill(os.getpid(), int(sys.argv[1]))
"""


@pytest.mark.parametrize("number", [0, signal.SIGKILL, signal.SIGTERM])
def test_a_killed_process_leaves_no_file_behind(number, tmp_path):
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    arguments = [sys.executable, "-c", STORE, str(int(number))]
    process = subprocess.run(arguments, env=environment, capture_output=True, text=True)
    assert Path(process.stdout.strip()).parent == tmp_path
    deadline = time.monotonic() + 30
    while list(tmp_path.glob("a2d-*")):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_cleaning_equals_that_of_a_list():
    rules = {"max_words": 6, "consistent": True, "deduplicate": "near"}
    stored_result, report = clean(StoredPairs(PAIRS), **rules)
    expected, expected_report = clean(PAIRS, **rules)
    assert isinstance(stored_result, StoredPairs)
    assert (list(stored_result), report) == (expected, expected_report)
    heldout, training = hold_out(stored_result, 40)
    assert (heldout, list(training)) == hold_out(expected, 40)


def test_tokenisation_equals_that_of_a_list(tmp_path):
    stored = StoredPairs(PAIRS)
    tokenizer = train_tokenizer(Texts(stored), 600)
    texts = [text for pair in PAIRS for text in pair]
    assert tokenizer.get_vocab() == train_tokenizer(iter(texts), 600).get_vocab()
    tokens, expected = tokenise(stored, tokenizer), tokenise(PAIRS, tokenizer)
    assert tokens[:] == expected[:]
    save_tokens(tmp_path / "tokens", {"stored": stored, "list": PAIRS, "none": []}, tokenizer)
    saved = load_from_disk(str(tmp_path / "tokens"))
    assert saved["stored"][:] == saved["list"][:] == expected[:]
    assert len(saved["none"]) == 0
    sizes = [[len(tokens[name][i]) for name in ("input_ids", "labels")] for i in (0, 700, 1499)]
    assert lengths(tokens)[[0, 700, 1499]].tolist() == sizes


@pytest.mark.parametrize("step", ["read", "clean", "hold out"])
def test_memory_does_not_grow_with_the_corpus(tmp_path, step, monkeypatch):
    """A pair takes the memory of a hash (for duplicates), not of its text."""
    monkeypatch.setattr(storage, "PART", 100)
    path = tmp_path / "corpus.tsv"
    with path.open("w") as file:
        for number in range(4_000):
            word = "".join("abcdefghij"[int(digit)] for digit in str(number))
            file.write(f"{word} {'lorem ipsum ' * 80}\t{word} {'dolor sit ' * 80}\n")
    stored = StoredPairs(iterate_corpus(path))
    tracemalloc.start()
    if step == "read":
        again = StoredPairs(iterate_corpus(path))
    elif step == "clean":
        again, _ = clean(stored, deduplicate="near")
    else:
        held, again = hold_out(stored, 100)
        assert overlap(again, held) == 0
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(again) >= 3_900
    assert peak < 0.3 * path.stat().st_size


def test_needs_no_standard_output():
    program = """if True:
        import os
        os.close(1)
        from a2d.text.pairs import Pair
        from a2d.text.storage import StoredPairs
        assert len(StoredPairs([Pair("ja", "jo")])) == 1
    """
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
