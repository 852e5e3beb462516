"""Wishes for each listed product of a kind: said as people say them, and meant as they are said."""

from __future__ import annotations

import random
from dataclasses import asdict

import pytest

from training.cart import each, generation
from training.cart.catalogs import draw_catalog
from training.cart.drawing import Draw, DrawAgain
from training.cart.each import each_of
from training.cart.grammar import read_phrase
from training.cart.validation import check_row
from training.examples import LANGUAGES


def said(language: str, noun: str, number: int, kinds: int) -> set[str]:
    phrase, rng = read_phrase(language, noun, noun), random.Random(1)
    return {each_of(language, phrase, number, kinds, rng) for _ in range(400)}


def test_what_is_said_agrees_in_english():
    assert {"2 of each tea", "two of every tea"} <= said("en", "tea", 2, 3)
    assert {"both teas", "one of each tea"} <= said("en", "tea", 1, 2)
    assert "all three teas" in said("en", "tea", 1, 3)
    assert not any("both" in way for way in said("en", "tea", 1, 3) | said("en", "tea", 2, 2))


def test_what_is_said_agrees_in_spanish():
    assert {"dos de cada té", "2 de cada uno de los tés"} <= said("es", "m:{té}", 2, 3)
    assert {"las dos sopas", "ambas sopas", "una de cada sopa"} <= said("es", "f:{sopa}", 1, 2)
    assert {"los tres tés", "todos los tés"} <= said("es", "m:{té}", 1, 3)


def test_what_is_said_agrees_in_croatian():
    soup = "f:{juha|juhu|juhe|juha}"
    assert {"po dvije od svake juhe", "od svake juhe po 2"} <= said("hr", soup, 2, 3)
    assert {"obje juhe", "po jednu od svake juhe"} <= said("hr", soup, 1, 2)
    tea = "m:{čaj|čaja|čajeva}"
    assert {"oba čaja", "po jedan od svih čajeva"} <= said("hr", tea, 1, 2)
    assert {"sva tri čaja", "sva 3 čaja"} <= said("hr", tea, 1, 3)
    assert not any("sva" in way.split() for way in said("hr", tea, 1, 5)), each.__doc__


@pytest.mark.parametrize("language", LANGUAGES)
def test_each_product_that_bears_the_name_is_meant(language):
    rng, alone, listed = random.Random(6), 0, 0
    while alone < 15 or listed < 15:
        catalog = draw_catalog(language, "train", rng)
        try:
            row = generation._each(Draw(language, "train", rng, catalog))
        except DrawAgain:
            continue
        if check_row(asdict(row), "train"):
            continue
        families = {product.name: product.family for product in catalog.products}
        wanted = [action["product"] for action in row.actions]
        (crowded,) = {
            f
            for f in map(families.get, wanted)
            if list(families.values()).count(f) > 1
            and all(n in wanted for n, g in families.items() if g == f)
        }
        of_each = [a for a in row.actions if families[a["product"]] == crowded]
        assert len(of_each) == list(families.values()).count(crowded) >= 2
        assert len({a["quantity"] for a in of_each}) == 1
        assert len({a["action"] for a in row.actions}) == 1
        assert len(set(wanted)) == len(wanted) <= 6
        alone += len(of_each) == len(wanted)
        listed += len(of_each) < len(wanted)


def test_measured_rows_have_none():
    """Dev and test stay what they were."""
    rng = random.Random(2)
    for _ in range(60):
        rows = list(generation.generate_together("en", "dev", rng, 8))
        assert not [row for row in rows if row.family.startswith("each:")]
