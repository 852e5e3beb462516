"""Cart heads calibrated and measured on states that are given."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest

from app.classification.cart import CartCalibration, CartHeads, WordingHeads
from app.classification.numbers import numbers_in
from app.classification.shortlist import ShortlistIndex
from app.classification.wording import wording
from tests.fake_cart import random_heads
from training.cart.making import draw_rows
from training.cart.measuring import calibrate_carts, is_right, measure_carts
from training.cart.reading import ReadRow

HIDDEN = 32


def read_rows(split: str, count: int) -> list[ReadRow]:
    """Rows whose states say nothing of products: only names can tell."""
    rng = np.random.default_rng(3)
    rows = []
    for row in draw_rows(split, count, seed=5):
        products = rng.normal(size=(len(row["catalog"]), HIDDEN)).astype(np.float16)
        slots = rng.normal(size=(6, HIDDEN)).astype(np.float16)
        names = wording(ShortlistIndex(row["catalog"]), row["text"])
        rows.append(
            ReadRow(row, tuple(row["catalog"]), slots, products, names, numbers_in(row["text"]))
        )
    return rows


def blind_heads() -> CartHeads:
    """Heads that look at names, which count for nothing."""
    heads = random_heads(HIDDEN)
    assert heads.wording is not None
    names = {f.name: np.zeros_like(getattr(heads.wording, f.name)) for f in fields(heads.wording)}
    return replace(heads, wording=WordingHeads(**names))


def test_temperatures_undo_a_scale():
    """Logits that are ten times too sure are cooled by ten times as much."""
    rows = read_rows("dev", 120)
    heads = blind_heads()
    hot = replace(heads, outcome_rows=heads.outcome_rows * 10, outcome_bias=heads.outcome_bias * 10)
    once, ten = calibrate_carts(heads, rows), calibrate_carts(hot, rows)
    assert ten.outcome_temperature == pytest.approx(
        min(20.0, 10 * once.outcome_temperature), rel=0.05
    )


def test_measures_count_by_kind_and_language():
    """Every row counts in its kind, its language and the whole."""
    rows = read_rows("dev", 120)
    measure = measure_carts(blind_heads(), rows, CartCalibration())
    assert measure.exact["all"].n == 120
    by_kind = {key: found.n for key, found in measure.exact.items() if key.count("/") == 0}
    assert sum(n for key, n in by_kind.items() if key != "all") == 120
    by_both = {key: found.n for key, found in measure.exact.items() if "/" in key}
    assert sum(n for key, n in by_both.items() if not key.startswith("all/")) == 120
    assert sum(n for key, n in by_both.items() if key.startswith("all/")) == 120


def test_rows_share_catalogs_and_are_of_their_split():
    """Several messages about a catalog; families of one split only; the same seed, the same rows."""
    rows = draw_rows("train", 60, seed=5)
    assert rows == draw_rows("train", 60, seed=5)
    assert len({tuple(row["catalog"]) for row in rows}) < 40
    assert {row["language"] for row in rows} == {"en", "hr", "es"}
    assert not any(row["heldout"] for row in rows)


def test_right_means_every_part():
    """Product, quantity and direction of every action, in any order; asking back where asked to."""
    from app.domain import CartAction, CartDecision

    row = {
        "kind": "several",
        "actions": [
            {"action": "add", "product": "tea", "quantity": 2},
            {"action": "remove", "product": "oil", "quantity": 1},
        ],
    }
    tea, oil = CartAction("add", "tea", 2, 0.9), CartAction("remove", "oil", 1, 0.9)
    assert is_right(row, CartDecision("actions", 0.9, (oil, tea)))
    assert not is_right(row, CartDecision("actions", 0.9, (tea,)))
    assert not is_right(row, CartDecision("actions", 0.9, (oil, replace(tea, quantity=3))))
    asked = {"kind": "ambiguous", "actions": []}
    assert is_right(asked, CartDecision("ambiguous", 0.9))
    assert not is_right(asked, CartDecision("no_action", 0.9))
