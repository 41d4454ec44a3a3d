"""Loops in texts of all scripts."""

import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from a2d.text.loops import find_loops

LOOPS = [
    "wir ihn morgen am Bahnhof wir ihn morgen am Bahnhof wir ihn morgen am Bahnhof",
    "ich weiß nicht was ich tun soll, " * 3,
    "eins zwei drei vier fünf sechs sieben acht neun zehn " * 3,
    "Wir treffen uns morgen am Bahnhof. Wir treffen uns morgen am Bahnhof.",
    "Ja! Wir treffen uns am Bahnhof: Wir treffen uns am Bahnhof. Gut.",
    "wir treffen uns am Bahnhof wir treffen uns am Bahnhof und gehen",
    "edit selected link's edit selected link's edit selected link's",
    "Strict-Transport-Security gab Strict-Transport-Security gab Strict-Transport-Security gab",
    "Der Elefantantantantant ist groß",
    "Der Elelelelel ist groß",
    "Der Elefanttttttttt ist groß",
    "Der Elefant - - - - - - - -",
    "………………",
    "Der Elefant..................",
    "Sponsors & & & &",
    "你好你好你好你好",
    "我们我们我们我们明天",
    "我们明天在车站见见见见见见",
    "请保存当前文件请保存当前文件请保存当前文件",
    "请保存当前的文件。请保存当前的文件。",
    "駅で駅で駅で駅で会いましょう",
    "พรุ่งนี้พรุ่งนี้พรุ่งนี้เราจะพบกัน",
    "역에서 역에서 역에서",
    "किताब किताब किताब",
]
NO_LOOPS = [
    "1000000 and 1000 and 00000000",
    "Press F or F11. Press F or F11 again to leave.",
    "Remove the old cells: The old cells are removed.",
    "Mississippi, Barbar, Lalala, ananas",
    "no no, zzz, ...",
    "* * *",
    "我们……明天…",
    "天天开心，慢慢来，哈哈哈",
    "ドキドキ",
    "काका चाचा दादा पापा",
    "من من",
    "_______",
    "",
    "The 2023-2023-2024 report",
]


@pytest.mark.parametrize("text", LOOPS)
def test_loops(text):
    loops = find_loops(text)
    assert loops.exist
    assert loops.exceed(find_loops("Ein Satz ohne Schleifen."))
    assert not loops.exceed(loops)


@pytest.mark.parametrize("text", NO_LOOPS)
def test_no_loops(text):
    assert not find_loops(text).exist


def naive_loop(text):
    words = text.split()
    best = 1
    for size in range(1, 8):
        for start in range(len(words)):
            count = 1
            part = words[start : start + size]
            while part and words[start + count * size :][:size] == part and len(part) == size:
                count += 1
            best = max(best, count)
    return best


@given(st.lists(st.sampled_from("ab"), max_size=14).map(" ".join))
def test_repeats_are_counted_as_by_a_naive_search(text):
    assert find_loops(text).words == naive_loop(text)


@given(st.lists(st.sampled_from("我们你"), max_size=12).map("".join), st.sampled_from("车站"))
def test_characters_need_more_repeats_than_words(text, end):
    spaced = naive_loop(" ".join(text))
    assert max(1, spaced - 2) <= find_loops(text + end).words <= spaced


def test_long_texts_take_bounded_time():
    words = random.Random(0).choices(["alpha", "beta", "gamma", "of"], k=20_000)
    texts = [
        "a" * 100_000,
        "ab" * 50_000,
        ". " * 50_000,
        " ".join(words),
        "".join(words),
        "我们" * 50_000,
    ]
    started = time.process_time()
    for text in texts:
        find_loops(text)
    assert time.process_time() - started < 30  # seconds
