from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.classification.cart import (
    MAX_CANDIDATES,
    SLOT_ACTIONS,
    CartCalibration,
    CartScores,
    decide,
    different_products,
    meant_numbers,
    number_probabilities,
)
from app.classification.head import unit
from app.domain import CART_OUTCOMES
from tests.fake_cart import random_heads

PRODUCTS = ("Green Tea 20 bags", 'Laptop 14" i5', "Olive Oil 1l", "Add 3 of everything")
ADD, REMOVE, STOP = range(3)


def told(
    *slots: tuple[int, int, int], outcome: str = "actions", products: int = 4, sure: float = 12.0
) -> CartScores:
    """Scores that say (action, product, quantity) in each slot, and then stop."""
    pointer = np.zeros((6, products), np.float32)
    action = np.zeros((6, 3), np.float32)
    digits = np.zeros((6, 3, 10), np.float32)
    action[len(slots) :, STOP] = sure
    for index, (does, product, quantity) in enumerate(slots):
        pointer[index, product] = sure
        action[index, does] = sure
        for place, digit in enumerate(f"{quantity:03}"):
            digits[index, place, int(digit)] = sure
    outcomes = np.zeros(4, np.float32)
    outcomes[CART_OUTCOMES.index(outcome)] = sure
    return CartScores(pointer, action, digits, outcomes)


def said(scores: CartScores, calibration: CartCalibration | None = None) -> list[tuple]:
    found = decide(scores, PRODUCTS, calibration)
    return [(one.action, one.product, one.quantity) for one in found.actions]


def test_actions_are_read_slot_by_slot_until_one_stops():
    """What the slots say comes out in their order, with whole numbers of three digits."""
    found = decide(told((ADD, 0, 1), (REMOVE, 2, 12), (ADD, 1, 999)), PRODUCTS)
    assert (found.outcome, found.in_scope, found.candidates) == ("actions", True, ())
    assert [(a.action, a.product, a.quantity) for a in found.actions] == [
        ("add", PRODUCTS[0], 1), ("remove", PRODUCTS[2], 12), ("add", PRODUCTS[1], 999),
    ]  # fmt: skip
    assert not any(action.ambiguous for action in found.actions)
    assert all(action.confidence > 0.98 for action in found.actions)
    assert found.considered == 4


def test_what_comes_after_a_stop_is_not_read():
    """A full slot behind an empty one says nothing."""
    scores = told((ADD, 0, 1), (ADD, 1, 2))
    scores.action[1] = [0, 0, 30]
    assert said(scores) == [("add", PRODUCTS[0], 1)]


def test_actions_without_any_action_give_the_best_one():
    """When the outcome is to act, the first slot acts, unsure as it is."""
    scores = told((ADD, 0, 2))
    scores.action[0] = [1, 0, 12]
    found = decide(scores, PRODUCTS)
    assert [(a.action, a.quantity) for a in found.actions] == [("add", 2)]
    assert found.actions[0].confidence < 0.01


def test_the_same_product_twice_is_summed_up():
    """Two teas and one more are three teas; putting in and taking out stay apart."""
    scores = replace(told((ADD, 0, 2), (ADD, 0, 1), (REMOVE, 0, 5)), told={2: 1, 1: 1, 5: 1})
    assert said(scores) == [("add", PRODUCTS[0], 3), ("remove", PRODUCTS[0], 5)]
    assert said(told((ADD, 0, 999), (ADD, 0, 999)))[0] == ("add", PRODUCTS[0], 999)


def test_a_one_that_nobody_told_adds_nothing_to_a_number():
    """Six pairs of sandals, the golden ones, are six; a tea and a tea are two."""
    scores = told((ADD, 0, 6), (ADD, 0, 1))
    assert said(replace(scores, told={6: 1})) == [("add", PRODUCTS[0], 6)]
    assert said(told((ADD, 0, 1), (ADD, 0, 1))) == [("add", PRODUCTS[0], 2)]


@pytest.mark.parametrize("outcome", ["no_action", "not_in_catalog", "ambiguous"])
def test_other_outcomes_change_nothing(outcome: str):
    """Whatever the slots say, there is no action unless the outcome is to act."""
    found = decide(told((ADD, 0, 2), outcome=outcome), PRODUCTS)
    assert found.actions == ()
    assert found.outcome == outcome
    assert found.in_scope == (outcome != "no_action")
    assert bool(found.candidates) == (outcome == "ambiguous")


def test_an_ambiguous_wish_names_the_products_that_it_may_mean():
    """Best first, those near the best, at most five; two at least, or there is nothing to choose."""
    scores = told((ADD, 0, 1), outcome="ambiguous", products=8)
    scores.pointer[0] = [0, 3, 0, 2.5, 0.9, 3.1, -4, -4]
    names = tuple("abcdefgh")
    assert decide(scores, names).candidates == ("f", "b", "d")
    assert decide(scores, names, CartCalibration(candidate_share=0.99)).candidates == ("f", "b")
    few = decide(scores, names, CartCalibration(candidate_share=0.0)).candidates
    assert len(few) == MAX_CANDIDATES
    alone = told((ADD, 0, 1), outcome="ambiguous", products=1)
    assert decide(alone, ("a",)).candidates == ("a",)


def test_an_action_between_two_products_asks_back():
    """From the calibrated ratio on, the action is ambiguous and names both."""
    scores = told((ADD, 0, 1), (ADD, 1, 1))
    scores.pointer[0, 2] = scores.pointer[0, 0] - 0.5
    unsure, sure = decide(scores, PRODUCTS).actions
    assert (unsure.product, unsure.ambiguous) == (PRODUCTS[0], True)
    assert unsure.candidates == (PRODUCTS[0], PRODUCTS[2])
    assert (sure.ambiguous, sure.candidates) == (False, ())
    strict = decide(scores, PRODUCTS, CartCalibration(ambiguity_ratio=0.7))
    assert not strict.actions[0].ambiguous


def test_what_another_wish_means_is_no_candidate():
    """A product that had to give way is asked about only beside what is still free."""
    scores = told((ADD, 0, 1), (ADD, 1, 1), (ADD, 2, 1))
    scores.pointer[2] = [12.0, 11.9, 9.0, 0.0]  # both of the first are taken by then
    displaced = decide(scores, PRODUCTS).actions[2]
    assert (displaced.product, displaced.ambiguous) == (PRODUCTS[2], False)
    scores.pointer[2, 3] = 8.9
    displaced = decide(scores, PRODUCTS).actions[2]
    assert displaced.candidates == (PRODUCTS[2], PRODUCTS[3])


def probabilities(
    digits: np.ndarray,
    told: dict[int, int] | None = None,
    calibration: CartCalibration | None = None,
) -> np.ndarray:
    return number_probabilities(digits[None], told or {}, calibration or CartCalibration())[0]


def test_zero_cannot_be_said():
    """Where every digit says zero, the likeliest other number is taken, by its share of the others."""
    digits = np.zeros((3, 10), np.float32)
    digits[:, 0] = 20
    digits[2, 4] = 15
    found = probabilities(digits)
    assert found.argmax() + 1 == 4
    assert found.max() == pytest.approx(1, abs=0.01)


@given(st.integers(0, 2**31), st.floats(0.1, 30))
def test_the_most_probable_number_is_the_best_of_all(seed: int, scale: float):
    """As trying each number from 1 to 999 finds it."""
    digits = np.random.default_rng(seed).standard_normal((3, 10)).astype(np.float32) * scale
    weights = np.exp(digits.astype(np.float64) - digits.max(axis=1, keepdims=True))
    odds = {n: weights[0, n // 100] * weights[1, n // 10 % 10] * weights[2, n % 10]
            for n in range(1, 1000)}  # fmt: skip
    found = probabilities(digits)
    number, share = int(found.argmax()) + 1, float(found.max())
    assert found.sum() == pytest.approx(1, rel=1e-3)
    assert odds[number] == pytest.approx(max(odds.values()), rel=1e-3)
    assert share == pytest.approx(max(odds.values()) / sum(odds.values()), rel=1e-2)


@settings(max_examples=60)
@given(
    st.integers(0, 2**31),
    st.integers(1, 20),
    st.sampled_from([1e-3, 1.0, 40.0, 1e4]),
    st.booleans(),
)
def test_every_decision_is_valid(seed: int, count: int, scale: float, calibrated: bool):
    """For any states: products of the catalog, quantities from 1 on, probabilities from 0 to 1."""
    rng = np.random.default_rng(seed)
    heads = random_heads(16, seed=seed)
    slots = (rng.standard_normal((6, 16)) * scale).astype(np.float32)
    ends = (rng.standard_normal((count, 16)) * scale).astype(np.float32)
    products = [f"product {n}" for n in range(count)]
    calibration = CartCalibration(0.3, 0.3, 0.3, 0.3, 0.9, 0.1, 2.0, -1.0) if calibrated else None
    for outcome in range(4):
        biased = replace(heads, outcome_bias=np.eye(4, dtype=np.float32)[outcome] * 1e3)
        found = biased.decide(slots, ends, products, calibration)
        assert found.outcome == CART_OUTCOMES[outcome]
        assert 0 <= found.confidence <= 1
        assert (len(found.actions) > 0) == (found.outcome == "actions")
        assert set(found.candidates) <= set(products)
        pairs = {(action.action, action.product) for action in found.actions}
        assert len(pairs) == len(found.actions) <= 6
        for action in found.actions:
            assert action.action in SLOT_ACTIONS[:STOP]
            assert action.product in products
            assert 1 <= action.quantity <= 999
            assert 0 <= action.confidence <= 1
            assert set(action.candidates) <= set(products)
            assert (len(action.candidates) >= 2) == action.ambiguous


def test_scores_have_their_shapes_and_the_scale_of_the_states_does_not_count():
    """One pointer row, action and number a slot; only the direction of a state is read."""
    rng = np.random.default_rng(5)
    heads = random_heads(32)
    slots = rng.standard_normal((6, 32)).astype(np.float32)
    ends = rng.standard_normal((9, 32)).astype(np.float32)
    scores = heads.score(slots, ends)
    assert scores.pointer.shape == (6, 9)
    assert scores.action.shape == (6, 3)
    assert scores.digits.shape == (6, 3, 10)
    assert scores.outcome.shape == (4,)
    louder = heads.score(slots * np.float32(9), ends / np.float32(7))
    np.testing.assert_allclose(louder.pointer, scores.pointer, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(louder.digits, scores.digits, rtol=1e-3, atol=1e-3)


def test_calibration_moves_probabilities_only():
    """Temperatures and the sigmoid soften what is claimed; what is decided stays."""
    scores = told((ADD, 0, 3), sure=4.0)
    plain = decide(scores, PRODUCTS).actions[0]
    soft = decide(scores, PRODUCTS, CartCalibration(2.0, 2.0, 2.0, 2.0, exponent=1.5, bias=-0.5))
    assert (soft.actions[0].product, soft.actions[0].quantity) == (plain.product, plain.quantity)
    assert soft.actions[0].confidence < plain.confidence
    assert CartCalibration(exponent=2.0).confidence(1.0) <= 1.0
    assert CartCalibration(bias=1.0).confidence(0.0) >= 0.0
    assert CartCalibration(exponent=2.0).confidence(0.5) == pytest.approx(0.5)


def test_slots_mean_different_products():
    """The surest slot has its product; the other takes its next best, where that is thinkable."""
    assert different_products(np.array([[0.6, 0.4, 0.0], [0.9, 0.1, 0.0]], np.float32)) == [1, 0]
    assert different_products(np.array([[0.1, 0.9], [0.8, 0.2]], np.float32)) == [1, 0]


def test_a_product_may_be_said_twice():
    """Where nothing else is meant at all, both slots mean the same."""
    assert different_products(np.array([[0.99, 0.01, 0.0], [0.995, 0.005, 0]], np.float32)) == [
        0,
        0,
    ]
    assert different_products(np.ones((3, 1), np.float32)) == [0, 0, 0]


def test_a_number_that_is_told_is_preferred():
    """The model hears 362 where 562 stands in the message; 1 needs no telling."""
    digits = np.full((3, 10), -9, np.float32)
    digits[0, 3], digits[0, 5], digits[1, 6], digits[2, 2] = 2, 1, 9, 9
    leaning = CartCalibration(told_bonus=4.0, one_bonus=2.0)
    assert probabilities(digits).argmax() + 1 == 362
    assert probabilities(digits, {562: 1, 256: 1}, leaning).argmax() + 1 == 562
    unsure = np.zeros((3, 10), np.float32)
    assert probabilities(unsure, {}, leaning).argmax() + 1 == 1


def rows_of(*choices: dict[int, float]) -> np.ndarray:
    """Probabilities of numbers, a row a slot."""
    rows = np.zeros((len(choices), 999), np.float32)
    for row, choice in zip(rows, choices, strict=True):
        for number, probability in choice.items():
            row[number - 1] = probability
    return rows


def numbers_of(probabilities: np.ndarray, told: dict[int, int]) -> list[int]:
    return [number for number, _ in meant_numbers(probabilities, told)]


def test_a_number_is_meant_as_often_as_it_is_told():
    """The surest slot has it; the others take their next best, of those that are left."""
    unsure, sure = {1: 0.66, 4: 0.34}, {1: 1.0}
    assert numbers_of(rows_of(unsure, sure), {1: 1, 4: 1}) == [4, 1]
    assert numbers_of(rows_of(unsure, sure), {1: 2, 4: 1}) == [1, 1]
    assert numbers_of(rows_of(unsure, sure), {4: 1}) == [1, 1], "1 needs no telling"
    assert numbers_of(rows_of({3: 0.8, 1: 0.2}, {3: 0.99}), {3: 1}) == [1, 3]
    both = {7: 0.6, 5: 0.3, 1: 0.1}
    assert numbers_of(rows_of(both, {7: 0.9}, {5: 0.8}), {7: 1, 5: 1}) == [1, 7, 5]


def test_a_number_may_be_meant_for_each():
    """Where nothing else is thinkable, one telling is enough: four of each."""
    four = {4: 0.99, 1: 0.01}
    assert numbers_of(rows_of(four, four, four), {4: 1}) == [4, 4, 4]
    likely = {4: 0.9, 1: 0.1}
    assert numbers_of(rows_of(likely, four), {4: 1}) == [4, 4], "four pens and the same of pencils"


def test_a_number_is_as_sure_as_it_is_among_those_that_it_could_be():
    """The one that another slot has is out of the question."""
    (gave_way, share), (first, sure) = meant_numbers(
        rows_of({3: 0.6, 1: 0.3, 2: 0.1}, {3: 0.9, 1: 0.1}), {3: 1}
    )
    assert (gave_way, first) == (1, 3)
    assert share == pytest.approx(0.75)
    assert sure == pytest.approx(0.9)


def test_quantities_of_a_decision_are_shared_out():
    """The message tells one 3: of two slots that both lean to it, the less sure one means 1."""
    scores = told((ADD, 0, 3), (ADD, 1, 3))
    scores.digits[1, 2, 1] = 11.0
    assert [quantity for *_, quantity in said(replace(scores, told={3: 1}))] == [3, 1]
    assert [quantity for *_, quantity in said(replace(scores, told={3: 2}))] == [3, 3]


def test_names_count_by_the_gates():
    """Features move the pointer as the slot's gates say, and the outcome by their best two values."""
    heads = random_heads(16)
    rng = np.random.default_rng(1)
    slots, products = (rng.normal(size=(n, 16)).astype(np.float32) for n in (2, 3))
    names = rng.random((3, 8)).astype(np.float32)
    plain, named = heads.score(slots, products), heads.score(slots, products, names)
    gates = unit(slots) @ heads.wording.gate_rows.T + heads.wording.gate_bias
    np.testing.assert_allclose(named.pointer - plain.pointer, gates @ names.T, rtol=1e-3, atol=1e-3)
    best = np.sort(names, axis=0)[::-1][:2].reshape(-1)
    np.testing.assert_allclose(
        named.outcome - plain.outcome, heads.wording.outcome_rows @ best, rtol=1e-3, atol=1e-3
    )
    alone = heads.score(slots, products[:1], names[:1])
    assert np.isfinite(alone.outcome).all()


@given(st.integers(0, 2**31))
def test_two_slots_decide_as_six_where_they_say_all(seed: int):
    """No action, or one and a stop: then nothing that stands behind counts."""
    rng = np.random.default_rng(seed)
    heads = random_heads(8, seed=seed % 1000)
    slots = rng.standard_normal((6, 8)).astype(np.float32)
    products = rng.standard_normal((4, 8)).astype(np.float32)
    whole = heads.decide(slots, products, PRODUCTS)
    if heads.says_all(slots[:2]):
        assert heads.decide(slots[:2], products, PRODUCTS) == whole
    else:
        assert whole.outcome == "actions"
