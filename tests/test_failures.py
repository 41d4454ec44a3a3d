"""Failures of translations: planted ones are found, and human references are not accused."""

import random
import re
import time
from itertools import pairwise

import pytest

from a2d.text.corpus import read_corpus
from a2d.text.failures import FAILURES, LANGUAGE, failure_kinds, find_failures

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
    for kinds in (failure_kinds(("de", "dsb"), sorbian), failure_kinds(None, REFERENCES)):
        assert kinds[LANGUAGE].title == "wrong script"
        assert LANGUAGE not in found_kinds(("Datei", "dataja", ENGLISH_TEXT), kinds)


def test_what_the_reference_does_is_no_failure():
    segments = [
        ("Firefox Sync", "Firefox Sync", "Firefox Sync"),  # a name
        ("2 files", "dois arquivos", "dois arquivos"),  # a number as a word
        ("no no no no", "não não não não", "não não não não"),
        ("…", "…", "…"),
    ]
    found = find_failures(*map(list, zip(*segments, strict=True)), FAILURES)
    assert not any(found.values())


def found_kinds(segment, kinds=FAILURES):
    found = find_failures(*([text] for text in segment), kinds)
    return {kind for kind, places in found.items() if places}


CHINESE = [
    "请保存当前文件，然后再退出程序。",
    "无法连接到服务器，请检查您的网络设置。",
    "打开火狐。",
] * 5
SAVE = "请保存当前文件后再退出程序"


@pytest.mark.parametrize(
    ("segment", "copied"),
    [
        ((SAVE, "Save the file before leaving", SAVE), True),
        ((SAVE, "Save the file before leaving", SAVE.replace("序", "式")), True),
        ((SAVE, SAVE.replace("序", "式"), SAVE), False),
        ((SAVE, "Save the file before leaving", "Please 保存文件"), False),
        (("文件", "File", "文件"), False),  # may be a name
        (("设置文件夹", "設定", "设置文件夹"), True),
    ],
)
def test_copies_without_spaces_are_compared_by_characters(segment, copied):
    assert ("copied" in found_kinds(segment)) is copied


def test_copies_of_very_long_texts_take_bounded_time():
    text = "".join(random.Random(0).choices("我们明天在车站见面", k=100_000))
    started = time.process_time()
    assert "copied" in found_kinds((text, "kurz", text), {"copied": FAILURES["copied"]})
    assert time.process_time() - started < 20  # seconds


@pytest.mark.parametrize(
    ("references", "segment", "wrong"),
    [
        (REFERENCES[:50], ("File", "Arquivo", "文件"), True),
        (REFERENCES[:50], ("File", "Arquivo", "Файл"), True),
        (REFERENCES[:50], ("File", "Arquivo", "Arquivo (文件)"), False),
        (REFERENCES[:50], ("alpha α", "alfa", "α"), False),
        (REFERENCES[:50], ("5", "5", "5"), False),
        (CHINESE, ("Open Firefox", "打开火狐", "Open Firefox"), True),
        (CHINESE, ("Firefox", "Firefox", "Firefox"), False),
        (CHINESE, ("Firefox", "Firefox 浏览器", "Firefox"), False),
        (CHINESE, ("USB", "通用串行总线", "USB"), False),  # a code
        (CHINESE, ("5 km", "5 千米", "5 km"), False),
        (CHINESE, ("Enter it", "请输入", "入力してください"), True),
        (
            [*CHINESE, "打开 Firefox", "登录 WeChat"],
            ("Open", "打开", "Open"),
            False,
        ),  # both scripts
        (["好"], ("Open it", "好", "Open it"), False),  # too little to know the scripts
    ],
)
def test_texts_in_scripts_that_references_do_not_use(monkeypatch, references, segment, wrong):
    monkeypatch.setattr("a2d.text.failures.is_installed", lambda: False)
    kinds = failure_kinds(("en", "xx"), references)
    assert kinds[LANGUAGE].title == "wrong script"
    assert (LANGUAGE in found_kinds(segment, kinds)) is wrong


def test_scripts_are_judged_beside_the_identifier():
    assert KINDS[LANGUAGE].title == "wrong language"
    assert LANGUAGE in found_kinds(("File", "Arquivo", "文件"), KINDS)


@pytest.mark.parametrize("kind", ["repetition", "fixed_parts"])
def test_what_source_or_reference_does_is_no_failure(kind):
    loop = "ha ha ha ha"
    segments = {
        "repetition": [(loop, "x", loop), ("x", loop, loop), ("x", "x", loop)],
        "fixed_parts": [(":x1", "y", "y"), ("y", ":x1", "y"), (":x1", ":x1", "y")],
    }[kind]
    assert [kind in found_kinds(segment) for segment in segments] == [False, False, True]


def test_source_and_reference_together_explain_loops():
    both = "ha ha ha ha --------"
    assert "repetition" not in found_kinds(("ha ha ha ha", "x --------", both))
    assert "repetition" in found_kinds(("ha ha ha ha", "x", both))
