"""Cart heads for tests: random ones, and such that decide sensibly on the fake backend's states."""

from __future__ import annotations

from zlib import crc32

import numpy as np

from app.artifacts.manifest import CartGolden, CartGoldenAction, CartSpec
from app.classification.cart import CartCalibration, CartHeads, CartModel, WordingHeads
from app.classification.wording import FEATURES

SHOP = (
    "Green Tea 20 bags",
    "Coconut Water 330ml",
    "Olive Oil 500 ml",
    'Laptop 14" i5',
    "Yoga Mat purple",
    "Čokolada s lješnjacima 100 g",
)
HIDDEN = 256
"""As in :mod:`tests.fake_artifact`."""


def random_heads(
    hidden: int, dimensions: int = 8, seed: int = 0, *, wording: bool = True
) -> CartHeads:
    rng = np.random.default_rng(seed)

    def matrix(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    return CartHeads(
        query=matrix(dimensions, hidden),
        key=matrix(dimensions, hidden),
        action_rows=matrix(3, hidden),
        action_bias=matrix(3),
        digit_rows=matrix(30, hidden),
        digit_bias=matrix(30),
        outcome_rows=matrix(4, hidden),
        outcome_bias=matrix(4),
        wording=WordingHeads(
            gate_rows=matrix(len(FEATURES), hidden),
            gate_bias=matrix(len(FEATURES)),
            outcome_rows=matrix(4, 2 * len(FEATURES)),
        )
        if wording
        else None,
    )


def fake_cart() -> CartModel:
    """With :func:`fake_heads`, and golden carts of its own."""
    golden = (
        CartGolden(
            text="two green teas please",
            catalog=SHOP,
            outcome="actions",
            actions=(CartGoldenAction(action="add", product=SHOP[0], quantity=2),),
        ),
        CartGolden(text="is the olive oil fresh?", catalog=SHOP, outcome="no_action"),
    )
    return CartModel(CartSpec(golden=golden), fake_heads(HIDDEN), CartCalibration())


def fake_heads(hidden: int) -> CartHeads:
    """Reads one action from the fake backend's trigrams.

    The product is the one that shares most trigrams with the message. "remove" removes, "two" and
    "three" count; a message that ends in a question mark asks for no change, "helicopter" is not in
    any catalog and "whatever" is ambiguous.
    """
    key = np.eye(hidden, dtype=np.float32) * 2
    query = key.copy()
    query[:, _row(hidden, "  message: ") > 0] = 0  # the prompt's own words are no product
    action = [_row(hidden), _row(hidden, "remove"), np.zeros(hidden, np.float32)]
    action[2][_bucket("12 ", hidden)] = 40  # the end of the second slot
    digits = np.zeros((3, 10, hidden), np.float32)
    digits[2, 2], digits[2, 3] = _row(hidden, " two "), _row(hidden, " three ")
    digit_bias = np.zeros((3, 10), np.float32)
    digit_bias[:2, 0] = digit_bias[2, 1] = 20
    digit_bias[2, 2:4] = 7
    outcome = np.stack(
        [_row(hidden), _row(hidden), _row(hidden, "helicopter"), _row(hidden, "whatever")]
    )
    outcome[1, _bucket("?\n1", hidden)] = 20
    return CartHeads(
        query=query,
        key=key,
        action_rows=np.stack(action),
        action_bias=np.array([10, 0, 0], np.float32),
        digit_rows=digits.reshape(30, hidden),
        digit_bias=digit_bias.reshape(30),
        outcome_rows=outcome,
        outcome_bias=np.array([14, 0, 0, 0], np.float32),
    )


def _row(hidden: int, word: str = "") -> np.ndarray:
    row = np.zeros(hidden, np.float32)
    for start in range(len(word) - 2):
        row[_bucket(word[start : start + 3], hidden)] = 2
    return row


def _bucket(trigram: str, hidden: int) -> int:
    return crc32(trigram.encode()) % hidden
