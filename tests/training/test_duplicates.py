from __future__ import annotations

import random
from pathlib import Path

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from training import data_commands, leaks
from training.duplicates import grams, join_families, near_pairs, near_within, similarity
from training.examples import Example, split_of
from training.leaks import Measured, find_leaks

TEXT = st.text(max_size=30)


def example(text: str, family: str = "") -> Example:
    return Example(text, "x", family=family or text)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Košarica 12", "kosarica 47!"),
        ("preorder iphone 16?", "Preorder iPhone 17"),
        ("ok 👍", "ok"),
    ],
)
def test_dress_does_not_count(one: str, other: str):
    """Case, diacritics, punctuation, emoji and the values of digits are no difference."""
    assert similarity(one, other) == 1


@pytest.mark.parametrize(
    ("one", "other"), [("👍", "🙏"), ("17:30", "10/10"), ("...", "?"), ("card", "cash")]
)
def test_messages_without_letters_stand_for_themselves(one: str, other: str):
    """Two emoji are not alike for having nothing else in common."""
    assert similarity(one, other) == 0


@given(TEXT, TEXT)
def test_similarity_is_a_share_and_goes_both_ways(one: str, other: str):
    """Between 0 and 1, 1 with itself."""
    assert 0 <= similarity(one, other) <= 1
    assert similarity(one, other) == similarity(other, one)
    assert similarity(one, one) == 1
    assert grams(one)


@given(st.lists(TEXT, max_size=12), st.lists(TEXT, max_size=12))
def test_the_fast_search_finds_what_the_plain_one_finds(left: list[str], right: list[str]):
    """The matrix product counts the same intersections."""
    found = near_pairs([example(t) for t in left], [example(t) for t in right], 0.3)
    plain = [similarity(one, other) for one in left for other in right]
    expected = sorted((s for s in plain if s >= 0.3), reverse=True)
    assert [pair.similarity for pair in found] == pytest.approx(expected)


def test_pairs_within_a_list_come_once():
    """Neither a message with itself nor the same two again."""
    rows = [example(t) for t in ("where is order 1", "track it", "where is order 2")]
    (pair,) = near_within(rows, 0.7)
    assert (pair.left, pair.right) == (rows[0], rows[2])


def test_near_seeds_become_one_family():
    """Also over a chain; order does not matter, strangers stay apart."""
    rows = [
        example("where is my order now", "c"),
        example("where is my order", "b"),
        example("so where is my order", "a"),
        example("any discount for students", "d"),
    ]
    joined = join_families(rows, threshold=0.7)
    assert [row.family for row in joined] == ["a", "a", "a", "d"]
    assert [row.text for row in joined] == [row.text for row in rows]
    shuffled = random.Random(1).sample(rows, len(rows))
    assert {row.text: row.family for row in join_families(shuffled, 0.7)} == {
        row.text: row.family for row in joined
    }
    assert len({split_of(row) for row in joined[:3]}) == 1


def family_in(split: str) -> str:
    return next(f"f{i}" for i in range(1000) if split_of(example("", f"f{i}")) == split)


def test_a_leak_is_what_a_fitted_seed_gives_away():
    """From 0.8 on, and in others' sets only where the message is more than a commonplace."""
    seeds = [
        example("who invented the internet", family_in("train")),
        example("good bye", family_in("dev")),
        example("does it float on water", family_in("test")),
    ]
    texts = ["Who invented the internet?", "good bye!", "does it float on water", "nothing alike"]
    (found,) = find_leaks(seeds, [Measured("open", [example(t) for t in texts])])
    assert found.messages == 4
    assert {pair.right.text for pair in found.pairs} == {texts[0], texts[1]}
    assert [pair.right.text for pair in found.leaks] == [texts[0]]


def test_in_our_own_splits_commonplaces_are_leaks_too():
    """There a family should have kept them together."""
    seeds = [example("good bye", family_in("train")), example("who is it", family_in("dev"))]
    (found,) = find_leaks(seeds, [Measured("dev", [example("Good bye")], own=True)])
    assert len(found.leaks) == 1
    (found,) = find_leaks(seeds, [Measured("dev", [example("who is it")], own=True)])
    assert found.pairs == ()


def test_shops_are_fitted_whole():
    """Held against every set, our own splits too; there, what two writers type alike is listed only."""
    shops = [example("is the blue kettle loud"), example("good bye")]
    measured = [example("Is the blue kettle loud?"), example("Good bye")]
    for own in (True, False):
        (found,) = find_leaks([], [Measured("set", measured, own=own)], shops)
        assert len(found.pairs) == 2
        assert [pair.left for pair in found.leaks] == shops[:1]


@pytest.mark.parametrize(("alike", "code"), [(True, 1), (False, None)])
def test_the_command_fails_on_a_leak(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, alike: bool, code: int | None
):
    """Status 1 when a fitted seed is measured on, none otherwise."""

    def sets(_data: Path, seeds: list[Example]) -> list[Measured]:
        fitted = next(s for s in seeds if len(s.text.split()) > 8 and split_of(s) == "train")
        return [Measured("open", [fitted if alike else example("nothing of the kind at all")])]

    monkeypatch.setattr(leaks, "measured_sets", sets)
    if code is None:
        data_commands.check_data(tmp_path)
    else:
        with pytest.raises(typer.Exit) as stop:
            data_commands.check_data(tmp_path, joined=True)
        assert stop.value.exit_code == code
