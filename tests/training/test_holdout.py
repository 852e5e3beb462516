from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from app.domain import OUT_OF_SCOPE
from training.examples import Example
from training.holdout import DROPPED_SHARE, hold_out

SIZES = st.lists(st.integers(1, 12), min_size=1, max_size=12)


def rows(sizes: list[int]) -> list[Example]:
    return [
        Example(f"{intent} {i}", f"intent{intent}")
        for intent, size in enumerate(sizes)
        for i in range(size)
    ]


@given(SIZES, st.integers(0, 99))
def test_every_row_stands_on_one_side(sizes: list[int], seed: int):
    """Nothing is lost, doubled or on both sides."""
    examples = rows(sizes)
    found = hold_out(examples, seed)
    texts = [example.text for example in (*found.fit, *found.held)]
    assert sorted(texts) == sorted(example.text for example in examples)


@given(SIZES, st.integers(0, 99))
def test_kept_intents_can_be_learned(sizes: list[int], seed: int):
    """What is held out under an intent has rows of it to be learned from."""
    found = hold_out(rows(sizes), seed)
    fitted = {example.intent for example in found.fit}
    assert {example.intent for example in found.held} - {OUT_OF_SCOPE} <= fitted
    assert len(fitted) >= min(3, len(sizes))


@given(SIZES, st.integers(0, 99))
def test_dropped_intents_become_negatives(sizes: list[int], seed: int):
    """An intent is left out whole, and about 15% of the rows at most."""
    examples = rows(sizes)
    found = hold_out(examples, seed)
    negatives = [example for example in found.held if example.intent == OUT_OF_SCOPE]
    dropped = {example.text.split()[0] for example in negatives}
    assert not dropped & {example.text.split()[0] for example in found.fit}
    assert len(negatives) <= DROPPED_SHARE * len(examples)


def test_about_a_fifth_is_held_out():
    """Of many intents of ten rows each."""
    found = hold_out(rows([10] * 40), seed=1)
    kept = Counter(example.intent for example in found.held)
    kept.pop(OUT_OF_SCOPE)
    assert 1.6 < sum(kept.values()) / len(kept) < 2.4


def test_a_seed_repeats_it():
    """The same rehearsal again."""
    assert hold_out(rows([10] * 6), 4) == hold_out(rows([10] * 6), 4)


@given(st.integers(0, 99), st.sampled_from([[2, *[1] * 9], [2, *[1] * 19], [3, 2, *[1] * 9]]))
def test_something_is_held_out_under_its_intent(seed: int, sizes: list[int]):
    """Of a shop with next to no repetition, too: fusion is fitted on such messages."""
    assert {example.intent for example in hold_out(rows(sizes), seed).held} - {OUT_OF_SCOPE}
