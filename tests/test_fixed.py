"""Parts that translations keep: lost ones are found, and other ways to write them are accepted."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from a2d.text.fixed import differ, find_numbers, lacks_parts

LOST_NUMBERS = [
    ("Pay 1,00,000 rupees", "1,00,000 Rupien zahlen", "Rupien zahlen"),
    ("Pay 1,00,000 rupees", "100.000 Rupien zahlen", "10.000 Rupien zahlen"),
    ("It costs 1,250,000 francs", "Es kostet 1’250’000 Franken", "Es kostet Franken"),
    ("It costs 1,250,000 francs", "Es kostet 1'250'000 Franken", "Es kostet 1'250 Franken"),
    ("It costs 1,250,000 francs", "Il coûte 1\u2009250\u2009000 francs", "Il coûte 250 francs"),
    ("It costs 1,250,000 francs", "Il coûte 1\u202f250\u202f000 francs", "Il coûte francs"),
    ("It costs 1,250,000 francs", "Il coûte 1\u00a0250\u00a0000 francs", "Il coûte francs"),
    ("You have 35 messages", "لديك ٣٥ رسالة", "لديك رسالة"),
    ("You have 35 messages", "شما ۳۵ پیام دارید", "شما ۳۶ پیام دارید"),
    ("You have 35 messages", "आपके पास ३५ संदेश हैं", "आपके पास संदेश हैं"),
    ("You have 35 messages", "３５件のメッセージ", "件のメッセージ"),
    ("Version 3.5 is here", "Version 3,5 ist da", "Version 35 ist da"),
    ("Version 3.5 is here", "Version 3,5 ist da", "Version 5,3 ist da"),
    ("Version 3.10 is here", "Version 3.10 ist da", "Version 3.1 ist da"),
    ("=F(A1;12;0.5;0)", "=F(A1;12;0,5;0)", "=F(A1;12;1,5;0)"),
    ("It starts at 10:30", "Es beginnt um 10.30 Uhr", "Es beginnt um 10 Uhr"),
    ("It starts at 10:30", "Es beginnt um 10:30 Uhr", "Es beginnt um 1030 Uhr"),
    ("In 2023 100 users came", "2023 kamen 100 Nutzer", "2023 kamen Nutzer"),
    ("In 2023 100 users came", "2023 kamen 100 Nutzer", "2023100 Nutzer"),
    ("5 of 5 files", "5 von 5 Dateien", "5 Dateien"),
    ("Below -40 degrees", "Unter -40 Grad", "Unter 40 Grad"),
    ("Below −40 degrees", "Unter -40 Grad", "Unter 40 Grad"),
]
LOST_PLACEHOLDERS = [
    ("Delete %1 now?", "%1 jetzt löschen?", "1 jetzt löschen?"),
    ("Hello $name here", "Hallo $name hier", "Hallo hier"),
    ("Hello $(NAME) here", "Hallo $(NAME) hier", "Hallo NAME hier"),
    ("Hello :name here", "Hallo :name hier", "Hallo name hier"),
    ("您好:name", "您好:name", "您好"),
    ("Has @count files", "Hat @count Dateien", "Hat @anzahl Dateien"),
    ("Has !count files", "Hat !count Dateien", "Hat Dateien"),
    ("Has [[x]] files", "Hat [[x]] Dateien", "Hat [x] Dateien"),
    ("Has __COUNT__ files", "Hat __COUNT__ Dateien", "Hat COUNT Dateien"),
    ("Has %*d files", "Hat %*d Dateien", "Hat Dateien"),
    ("Has %lld files", "Hat %lld Dateien", "Hat %lu Dateien"),
    ("Hello %NAME_X% here", "Hallo %NAME_X% hier", "Hallo %N hier"),
    ("{n, plural, other {files}}", "{n, plural, other {Dateien}}", "{n, Plural, andere {Dateien}}"),
    ("See https://a.org/b.", "Siehe https://a.org/b.", "Siehe https://a.org/c."),
    ("请见https://a.org/b。", "Siehe https://a.org/b", "Siehe dort"),
    ("Write to me@a.org now", "An me@a.org schreiben", "An mich schreiben"),
]


@pytest.mark.parametrize("segment", LOST_NUMBERS + LOST_PLACEHOLDERS)
def test_lost_parts(segment):
    source, reference, hypothesis = segment
    assert lacks_parts(source, reference, hypothesis)
    assert not lacks_parts(source, reference, reference)


@pytest.mark.parametrize(
    "segment",
    [
        ("On page 5 200 people", "Auf Seite 5 200 Leute", "200 Leute auf Seite 5"),
        ("In 2023 100 users came", "2023 100 Nutzer", "100 Nutzer kamen 2023"),
        ("Use 10000 files", "10000 Dateien", "10.000 Dateien"),
        ("Use 10000 files", "10000 Dateien", "10\u202f000 Dateien"),
        ("Use 10000 files", "10000 Dateien", "10’000 Dateien"),
        ("Use 100000 files", "100000 Dateien", "1,00,000 Dateien"),
        ("3 files", "لديك 3 ملفات", "لديك ٣ ملفات"),
        ("Use 1,234.5 litres", "1.234,5 Liter", "١٬٢٣٤٫٥"),
        ("3 files", "3 ファイル", "３ファイル"),
        ("at 10:30", "um 10:30", "um 10.30 Uhr"),
        ("at 10:30", "à 10:30", "à 10h30"),
        ("at 10:30", "um 10:30", "um 10 Uhr 30"),
        ("1,2,3", "1,2,3", "1, 2, 3"),
        ("1, 2, 3", "1, 2, 3", "1,2,3"),
        ("pages 1-2", "Seiten 1-2", "Seiten 1–2"),
        ("Below -40 degrees", "Unter -40 Grad", "Unter minus 40 Grad"),
        ("Below -40 degrees", "Unter -40 Grad", "Unter –40 Grad"),
        ("Below -40 degrees", "Unter -40 Grad", "Unter - 40 Grad"),
        ("Done :smile: now", "Fertig :smile: jetzt", "Jetzt fertig"),
        ("from 10:30 on", "ab 10:30", "ab 10.30"),
        ("Go, now!all", "Los, jetzt!all", "Los, jetzt! all"),
        ("100%ig 5", "100%ig 5", "100 % 5"),
        ("It costs $5", "Das kostet $5", "Das kostet 5 $"),
        ("See https://a.org/en", "Siehe https://a.org/de", "Siehe https://a.org/de"),
    ],
)
def test_other_ways_to_write_a_part(segment):
    assert not lacks_parts(*segment)


@given(st.integers(0, 10**12), st.sampled_from([",", ".", "'", "’", " ", "\u00a0", "\u2009"]))
def test_groups_do_not_change_a_number(number, separator):
    grouped = f"{number:,}".replace(",", separator)
    assert [n.value for n in find_numbers(f"({grouped})")] == [str(number)]


@given(st.integers(0, 10**9), st.sampled_from("٠०０๐۰"))
def test_digits_of_all_scripts(number, zero):
    written = "".join(chr(ord(zero) + int(digit)) for digit in str(number))
    assert [n.value for n in find_numbers(f"x {written} y")] == [str(number)]


@pytest.mark.parametrize(
    ("source", "target", "different"),
    [
        ("um 10:30 Uhr", "at 10.30", False),
        ("am 1.4.2001", "on 2001-04-01", True),
        ("am 01.04.2001", "on 2001-04-01", False),
        ("1,2,3", "1, 2, 3", False),
        ("35 файлов", "٣٥", False),
        ("3,5", "35", True),
        ("[[x]] und $(Y)", "$(Y) and [[x]]", False),
        ("[[x]]", "[[y]]", True),
        ("%lld Dateien", "%d files", True),
        ("Siehe https://a.org/de", "See https://a.org/en", False),
        ("Schreibe :nicht", "Write :not", False),
        ("no parts", "keine Teile", False),
    ],
)
def test_clean_pairs_agree(source, target, different):
    assert differ(source, target) is different
    assert differ(target, source) is different


LONG = 100_000
PIECES = [
    "a",
    "1",
    "1,",
    "1 000 ",
    "{",
    "{a,",
    "{ ",
    "<a",
    "%a",
    "__a",
    "a.",
    "a@",
    "http://",
    "-1 ",
]


@pytest.mark.parametrize("piece", PIECES)
def test_time_is_linear(piece):
    text = piece * (LONG // len(piece))
    started = time.process_time()
    lacks_parts(text, text, text)
    differ(text, f"{text}x")
    assert time.process_time() - started < 10  # seconds; quadratic expressions take minutes
