from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.classification.prompt import normalise
from training.examples import Example
from training.noise import (
    expand,
    missing_space,
    noisy,
    swap_slots,
    typo,
    without_diacritics,
    without_punctuation,
)

SEEDS = [
    Example("add two blue mugs", "cart_add", slots={"product": "blue mugs", "quantity": "two"}),
    Example("any oat milk left", "stock_availability", slots={"product": "oat milk"}),
    Example("stavi kavu u košaricu", "cart_add", "hr", slots={"product": "kavu"}),
]


@given(st.text(max_size=40), st.integers())
def test_a_typo_is_one_slip(text: str, seed: int):
    """At most one letter more or less, and short texts stay as they are."""
    changed = typo(text, random.Random(seed))
    assert abs(len(changed) - len(text)) <= 1
    if sum(c.isalpha() for c in text) < 4:
        assert changed == text


def test_diacritics_go():
    """Croatian and Spanish as typed on a foreign keyboard."""
    assert without_diacritics("Đuro, čežnja, ñandú") == "Duro, ceznja, nandu"


def test_punctuation_goes_but_never_the_whole_message():
    """A message of nothing but marks stays."""
    assert without_punctuation("¿hola, qué tal?") == "hola qué tal"
    assert without_punctuation("???") == "???"


def test_a_space_is_lost_only_where_there_are_several():
    """Two words are never glued to one."""
    assert missing_space("two words", random.Random(1)) == "two words"
    assert missing_space("here are four words", random.Random(1)).count(" ") == 2


@pytest.mark.parametrize("language", ["en", "hr", "es"])
def test_noise_leaves_a_message(language: str):
    """Whatever is changed, something to classify remains."""
    rng = random.Random(3)
    for _ in range(300):
        assert normalise(noisy("hola? 12", language, rng))


def test_slots_are_swapped_within_language_and_kind():
    """A product takes another seed's product of the same language, and nothing else moves."""
    fillers = {("en", "product"): ["oat milk"], ("hr", "product"): ["kavu"]}
    rng = random.Random(0)
    texts = {swap_slots(SEEDS[0], fillers, rng).text for _ in range(40)}
    assert texts == {"add two blue mugs", "add two oat milk"}


def test_expansion_keeps_what_the_split_and_the_label_hang_on():
    """Each seed as it is and its copies, with its intent, language and family."""
    expanded = expand(SEEDS, 3, seed=20)
    assert len(expanded) == 4 * len(SEEDS)
    assert [e for e in expanded if e in SEEDS] == SEEDS
    for place, example in enumerate(expanded):
        seed = SEEDS[place // 4]
        kept = (example.intent, example.language, example.family)
        assert kept == (seed.intent, seed.language, seed.family)


def test_the_same_seed_gives_the_same_expansion():
    """Training can be repeated."""
    assert expand(SEEDS, 5, seed=20) == expand(SEEDS, 5, seed=20)
    assert expand(SEEDS, 5, seed=20) != expand(SEEDS, 5, seed=21)
