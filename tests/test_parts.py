"""Large corpora are worked on in parts by several processes, with the same results."""

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter

import numpy as np
import pytest
from datasets import load_from_disk
from hypothesis import given
from hypothesis import strategies as st
from part_tasks import count_pairs, die, first_and_process, refuse

from a2d.errors import UserError
from a2d.models.tokenizer import train_tokenizer
from a2d.text import parts, storage, token_files
from a2d.text.batching import tokenise
from a2d.text.cleaning import clean
from a2d.text.corpus import read_corpus
from a2d.text.gists import gist, hash_gists, hash_texts
from a2d.text.held_out import hold_out, overlap
from a2d.text.pairs import Pair
from a2d.text.parts import kept_processes, map_parts, usable_cores
from a2d.text.rarity import rarest_words
from a2d.text.storage import StoredPairs, Texts, sample_evenly
from a2d.text.token_files import save_tokens

PAIRS = read_corpus("builtin:de-dsb/train")[:1500]


@pytest.fixture
def small_parts(monkeypatch):
    """Several processes work on corpora of a few hundred pairs."""
    monkeypatch.setattr(storage, "PART", 100)
    monkeypatch.setattr(parts, "MIN_PAIRS", 100)


@pytest.mark.slow
@pytest.mark.usefixtures("small_parts")
class TestProcesses:
    def test_results_come_in_order(self):
        results = list(map_parts(first_and_process, StoredPairs(PAIRS), 2))
        assert [result[:2] for result in results] == [(pair, 100) for pair in PAIRS[::100]]
        processes = {process for _, _, process in results}
        assert 1 <= len(processes) <= 2
        assert os.getpid() not in processes

    def test_all_steps_give_the_same(self):
        stored = StoredPairs(PAIRS)
        rules = {"max_words": 6, "consistent": True, "deduplicate": "near"}
        (one, report), (two, report_of_two) = (
            clean(stored, **rules, processes=count) for count in (1, 2)
        )
        assert (list(one), report) == (list(two), report_of_two) == clean_list(rules)
        held_out, rest = hold_out(one, 40)
        assert (held_out, list(rest)) == tuple(map(list, hold_out(two, 40, 2)))
        assert overlap(StoredPairs(PAIRS), PAIRS[:70], 2) == 70
        tokenizer = train_tokenizer(Texts(stored), 600)
        assert tokenise(stored, tokenizer)[:] == tokenise(stored, tokenizer, 2)[:]

    def test_files_of_tokens_do_not_depend_on_the_processes(self, tmp_path, monkeypatch):
        monkeypatch.setattr(token_files, "PARTS", 4)
        stored = StoredPairs(PAIRS)
        tokenizer = train_tokenizer(Texts(stored), 600)
        for count in (1, 2):
            save_tokens(tmp_path / str(count), {"train": stored}, tokenizer, count)
            saved = load_from_disk(str(tmp_path / str(count)))["train"]
            assert saved[:] == tokenise(PAIRS, tokenizer)[:]
        files, others = (sorted((tmp_path / str(count)).rglob("*.arrow")) for count in (1, 2))
        assert len(files) == 4
        assert [f.read_bytes() for f in files] == [f.read_bytes() for f in others]

    def test_steps_can_use_the_same_processes(self):
        stored, others = StoredPairs(PAIRS), multiprocessing.active_children()
        with kept_processes():
            steps = [list(map_parts(first_and_process, stored, 2)) for _ in range(3)]
            with kept_processes():
                steps.append(list(map_parts(count_pairs, stored, 2)))
            assert steps[3] == [100] * 15
            children = {child.pid for child in multiprocessing.active_children()}
        for step in steps[:3]:
            assert [result[:2] for result in step] == [(pair, 100) for pair in PAIRS[::100]]
            assert {process for _, _, process in step} <= children
        assert multiprocessing.active_children() == others

    def test_an_error_ends_kept_processes(self):
        others = multiprocessing.active_children()

        def count_and_refuse():
            with kept_processes():
                assert len(list(map_parts(count_pairs, StoredPairs(PAIRS), 2))) == 15
                list(map_parts(refuse, StoredPairs(PAIRS), 2))

        with pytest.raises(UserError, match="100 pairs are refused"):
            count_and_refuse()
        assert multiprocessing.active_children() == others
        assert list(map_parts(count_pairs, StoredPairs(PAIRS), 2)) == [100] * 15

    def test_errors_reach_the_caller(self):
        with pytest.raises(UserError, match="100 pairs are refused"):
            list(map_parts(refuse, StoredPairs(PAIRS), 2))

    def test_a_killed_process_is_an_error_with_advice(self):
        with pytest.raises(UserError, match=r"memory ran out: repeat .* OMP_NUM_THREADS=1"):
            list(map_parts(die, StoredPairs(PAIRS), 2))


def clean_list(rules):
    remaining, report = clean(PAIRS, **rules)
    return remaining, report


PROGRAM = """
import time
from a2d.interruptions import Interrupted, interruptible
from a2d.text.parts import in_processes, kept_processes
if __name__ == "__main__":
    try:
        with interruptible():
            print("started", flush=True)
            with kept_processes():
                list(in_processes(abs, [1], 2))
                list(in_processes(time.sleep, [60] * 4, 2))
    except Interrupted:
        print("interrupted", flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.1, 1, 4])
def test_an_interrupt_ends_all_processes_at_once(tmp_path, delay):
    """Ctrl-C comes while the processes start, and while they work."""
    (tmp_path / "program.py").write_text(PROGRAM)
    command = [sys.executable, str(tmp_path / "program.py")]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True, text=True
    )
    assert process.stdout.readline() == "started\n"
    time.sleep(delay)
    os.killpg(process.pid, signal.SIGINT)
    assert process.communicate(timeout=30) == ("interrupted\n", "")
    deadline = time.monotonic() + 10
    while exists(process.pid):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def exists(group):
    """Check whether a process of a group is alive."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("pairs", [PAIRS, StoredPairs(PAIRS)], ids=["list", "stored"])
def test_small_corpora_need_no_process(pairs):
    results = list(map_parts(first_and_process, pairs, 8))
    assert results == [(PAIRS[0], 1500, os.getpid())]


def test_cores_follow_the_variable_of_pytorch(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert usable_cores() == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "many")
    assert 1 <= usable_cores() <= (os.cpu_count() or 1)


TEXTS = st.text(st.characters(codec="utf-8") | st.sampled_from("aB 1_\0\nßİſ"), max_size=12)


@given(st.lists(TEXTS, max_size=8))
def test_hashes_of_gists_are_those_of_single_texts(texts):
    assert hash_gists(texts).tolist() == hash_texts(map(gist, texts)).tolist()


@given(TEXTS)
def test_a_gist_has_the_words_in_lower_case(text):
    words = re.findall(r"[^\W\d_]+", text.casefold())
    assert gist(text) == (" ".join(words) or text)


@given(st.integers(0, 40), st.integers(1, 40))
def test_samples_are_evenly_spaced(size, count):
    pairs = [Pair(str(number), "x") for number in range(size)]
    sample = [int(source) for source, _ in sample_evenly(pairs, count)]
    assert len(sample) == min(size, count)
    assert sample == sorted(set(sample))
    assert np.ptp(np.diff(sample)) <= 1 if len(sample) > 2 else True


def test_the_rarest_word_counts_whole_words():
    training = [Pair("Das Haus, das alte Haus.", ""), Pair("Ein haus", "")]
    pairs = [Pair("Haus", ""), Pair("das Haus", ""), Pair("hau", ""), Pair("!", "")]
    assert rarest_words(pairs, training) == [3, 2, 0, 0]
    words = Counter(re.findall(r"\w+", "\n".join(p.source.casefold() for p in PAIRS)))
    first = PAIRS[7]
    assert rarest_words([first], PAIRS) == [
        min(words[word] for word in re.findall(r"\w+", first.source.casefold()))
    ]
