"""The stability index and its window."""

from __future__ import annotations

import math

import pytest

from app.serving.drift import WINDOW, IntentWindow, psi


def fill(window: IntentWindow, shares: dict[str, int], times: int) -> None:
    for _ in range(times):
        for intent, count in shares.items():
            for _ in range(count):
                window.add(intent)


def test_known_value() -> None:
    """By hand: (0.6 - 0.5) ln(0.6 / 0.5) + (0.4 - 0.5) ln(0.4 / 0.5)."""
    by_hand = 0.1 * math.log(1.2) - 0.1 * math.log(0.8)
    assert psi({"a": 0.6, "b": 0.4}, {"a": 0.5, "b": 0.5}) == pytest.approx(by_hand)


def test_equal_is_zero_and_it_is_symmetric() -> None:
    """No distance to itself, the same both ways, finite for what one side never saw."""
    p, q = {"a": 0.9, "b": 0.1}, {"a": 0.2, "c": 0.8}
    assert psi(p, p) == 0
    assert psi(p, q) == pytest.approx(psi(q, p))
    assert 0.25 < psi(p, q) < 20


def test_nothing_is_told_before_there_is_enough() -> None:
    """A handful of messages is chance; without published shares there is nothing to tell."""
    window = IntentWindow({"a": 1.0})
    fill(window, {"a": 1}, 999)
    assert math.isnan(window.against_published())
    fill(window, {"a": 1}, 1)
    assert window.against_published() == 0
    assert math.isnan(window.against_first())
    assert math.isnan(IntentWindow(None).against_published())


def test_a_shop_of_its_own_mix_is_far_from_the_training_but_not_from_itself() -> None:
    """The two references tell two things apart; a later change shows in the second."""
    window = IntentWindow({"order": 0.5, "cart": 0.5})
    fill(window, {"order": 9, "cart": 1}, WINDOW // 10)
    assert window.against_published() > 0.25
    assert window.against_first() == 0
    fill(window, {"order": 1, "cart": 9}, WINDOW // 10)
    assert window.against_first() > 0.25


def test_the_window_slides() -> None:
    """Only the last messages count, and a passing surge is forgotten."""
    window = IntentWindow(None)
    fill(window, {"order": 1, "cart": 1}, WINDOW)
    fill(window, {"surge": 1}, WINDOW // 2)
    assert window.against_first() > 0.25
    fill(window, {"order": 1, "cart": 1}, WINDOW // 2)
    assert window.against_first() == pytest.approx(0)
