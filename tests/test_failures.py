"""Failures of translations: planted ones are found, and human references are not accused."""

import random
import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from a2d.text.corpus import read_corpus
from a2d.text.failures import FAILURES, LANGUAGE, failure_kinds, find_failures, longest_loop

MEMORY = read_corpus("builtin:en-pt/memory", languages=("en", "pt"))
PAIRS = [pair for pair in MEMORY[:3000] if len(pair.target) >= 20]
SOURCES = [pair.source for pair in PAIRS]
REFERENCES = [pair.target for pair in PAIRS]
KINDS = failure_kinds(("en", "pt"), REFERENCES)

ENGLISH_TEXT = "The weather was lovely, so that we walked along the river until dawn."
PLANTED = {
    "empty": lambda source, reference: " … ",
    "copied": lambda source, reference: source,
    "repetition": lambda source, reference: f"{reference} mas mas mas mas",
    "fixed_parts": lambda source, reference: re.sub(r"\d", "", reference),
    "long": lambda source, reference: f"{reference} {reference} {reference} E nada além disso.",
    "short": lambda source, reference: reference[: len(reference) // 5],
    LANGUAGE: lambda source, reference: ENGLISH_TEXT,
}


def numbers(text):
    return set(re.findall(r"(?<!\w)\d+(?!\w)", text))


APPLIES = {
    "copied": lambda source, reference: len(set(source.split()) & set(reference.split())) == 0,
    "fixed_parts": lambda source, reference: numbers(source) & numbers(reference),
    "short": lambda source, reference: len(reference) > 40,
}


@pytest.mark.parametrize("kind", PLANTED)
def test_planted_failures_are_found(kind):
    applies = APPLIES.get(kind, lambda source, reference: True)
    places = [i for i, pair in enumerate(PAIRS) if applies(*pair)]
    planted = set(random.Random(1).sample(places, min(50, len(places))))
    assert len(planted) >= 20
    hypotheses = [
        PLANTED[kind](*pair) if i in planted else pair.target for i, pair in enumerate(PAIRS)
    ]
    found = find_failures(SOURCES, REFERENCES, hypotheses, KINDS)[kind]
    assert set(found) == planted


def test_human_references_have_no_failures():
    found = find_failures(SOURCES, REFERENCES, REFERENCES, KINDS)
    assert {kind: len(places) for kind, places in found.items()} == dict.fromkeys(KINDS, 0)


def words(text):
    return re.sub(r"[^\w{}<>%]+", " ", text.casefold()).strip()


def test_few_translations_by_another_human_are_accused():
    """Texts whose sources have the same words, and that were translated differently."""
    by_source = {}
    for pair in read_corpus("builtin:de-dsb/train"):
        by_source.setdefault(words(pair.source), []).append(pair)
    triples = [
        (a.source, a.target, b.target)
        for same in by_source.values()
        for a, b in pairwise(same)
        if words(a.target) != words(b.target)
    ]
    found = find_failures(*map(list, zip(*triples, strict=True)), FAILURES)
    assert len(triples) > 100
    assert len({place for places in found.values() for place in places}) <= 0.02 * len(triples)


def test_the_language_is_not_judged_where_the_identifier_does_not_know_it():
    sorbian = [pair.target for pair in read_corpus("builtin:de-dsb/test")]
    assert LANGUAGE not in failure_kinds(("de", "dsb"), sorbian)
    assert failure_kinds(None, REFERENCES).keys() == FAILURES.keys()


def test_what_the_reference_does_is_no_failure():
    segments = [
        ("Firefox Sync", "Firefox Sync", "Firefox Sync"),  # a name
        ("2 files", "dois arquivos", "dois arquivos"),  # a number as a word
        ("no no no no", "não não não não", "não não não não"),
        ("…", "…", "…"),
    ]
    found = find_failures(*map(list, zip(*segments, strict=True)), FAILURES)
    assert not any(found.values())


def naive_loop(text):
    words = re.findall(r"\w+", text.casefold())
    best = 1
    for size in range(1, 5):
        for start in range(len(words)):
            count = 1
            part = words[start : start + size]
            while part and words[start + count * size :][:size] == part and len(part) == size:
                count += 1
            best = max(best, count)
    return best


@given(st.lists(st.sampled_from("ab"), max_size=14).map(" ".join))
def test_loops_are_counted_as_by_a_naive_search(text):
    assert longest_loop(text) == naive_loop(text)


def test_runs_of_one_character_are_loops():
    assert longest_loop("aaaaaaaaaaaa") == 3
    assert longest_loop("zzz") == 1
