"""Features of names: which product a message spells, however inflected."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.classification.shortlist import ShortlistIndex
from app.classification.wording import FEATURES, wording

SHELF = [
    "Maslinovo ulje 500 ml",
    "Suncokretovo ulje 1 l",
    "Zeleni čaj 20 vrećica",
    "Crni čaj 20 vrećica",
]
COLUMN = {name: place for place, name in enumerate(FEATURES)}


def column(name: str, message: str, products: list[str] = SHELF) -> np.ndarray:
    return wording(ShortlistIndex(products), message)[:, COLUMN[name]]


@pytest.mark.parametrize("name", ["share", "said", "covered", "rarest", "most"])
@pytest.mark.parametrize(
    ("message", "place"),
    [
        ("dodaj dva maslinova ulja", 0),
        ("makni zelenog caja", 2),
        ("crni čaj", 3),
        ("SUNCOKRETOVOG ULJA", 1),
    ],
)
def test_the_product_that_is_named_has_the_most(name: str, message: str, place: int):
    """Inflected, without diacritics, in capitals."""
    assert column(name, message).argmax() == place


def test_what_is_in_the_middle_is_placed_there():
    """The place of the word that tells, as a share of the message, is found again from both columns."""
    found = wording(ShortlistIndex(SHELF), "dodaj zeleni čaj i maslinovo ulje")
    place = found[:, COLUMN["place"]] / found[:, COLUMN["rarest"]]
    assert place[2] == pytest.approx(1 / 6)
    assert place[0] == pytest.approx(4 / 6)
    again = found[:, COLUMN["place_squared"]] / found[:, COLUMN["rarest"]]
    np.testing.assert_allclose(again, place**2, rtol=1e-5)


def test_a_message_about_nothing_listed_has_nothing():
    """All but the constant mark of the best, which then is everyone's."""
    found = wording(ShortlistIndex(SHELF), "kwyjibo")
    assert not found[:, [COLUMN[n] for n in FEATURES if n != "most"]].any()


def test_a_word_said_twice_counts_once():
    """Insisting names no product better."""
    once, twice = (
        wording(ShortlistIndex(SHELF), text) for text in ("čaj zeleni", "čaj čaj zeleni")
    )
    np.testing.assert_allclose(once[:, : COLUMN["place"]], twice[:, : COLUMN["place"]], rtol=1e-5)


@given(st.text(), st.lists(st.text(min_size=1), min_size=1, max_size=8))
def test_features_are_finite_whatever_is_written(message: str, products: list[str]):
    """Any Unicode in message and names: a row a product, from 0 up."""
    found = wording(ShortlistIndex(products), message)
    assert found.shape == (len(products), len(FEATURES))
    assert found.dtype == np.float32
    assert np.isfinite(found).all()
    assert (found >= 0).all()
