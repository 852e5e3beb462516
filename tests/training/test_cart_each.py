"""Wishes for each listed product of a kind: said as people say them, and meant as they are said."""

from __future__ import annotations

import random
from dataclasses import asdict

import pytest

from training.cart import generation
from training.cart.catalogs import draw_catalog
from training.cart.drawing import CartRow, Draw, DrawAgain
from training.cart.each import as_listed, each_of
from training.cart.grammar import read_phrase
from training.cart.numerals import number_words
from training.cart.validation import check_row
from training.examples import LANGUAGES

TRIES = 4000


def said(language: str, noun: str, number: int, kinds: int, *, counted: bool = False) -> set[str]:
    phrase, rng = read_phrase(language, noun, noun), random.Random(1)
    return {each_of(language, phrase, number, kinds, rng, counted=counted) for _ in range(400)}


def test_what_is_said_agrees_in_english():
    assert {"2 of each tea", "two of every tea"} <= said("en", "tea", 2, 3)
    assert {"both teas", "one of each tea"} <= said("en", "tea", 1, 2)
    assert "all three teas" in said("en", "tea", 1, 3)
    assert not any("both" in way for way in said("en", "tea", 1, 3) | said("en", "tea", 2, 2))
    assert said("en", "{tuna|tuna}", 1, 2) == {
        "1 of each tuna", "one of each tuna", "1 of every tuna", "one of every tuna",
    }  # fmt: skip


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


@pytest.mark.parametrize(
    ("language", "noun"), [("en", "tea"), ("es", "m:{té}"), ("hr", "m:{čaj|čaja|čajeva}")]
)
def test_what_is_taken_out_is_counted(language: str, noun: str):
    """To take "both teas" out may mean all that there are of both."""
    one = {"1", number_words(language, 1, "m"), number_words(language, 1, "m", standing=True)}
    for kinds in (2, 3):
        ways = said(language, noun, 1, kinds, counted=True)
        assert all(one & set(way.split()) for way in ways)
        assert len(ways) < len(said(language, noun, 1, kinds))


def rows_of_each(language: str, count: int) -> list[tuple[CartRow, Draw, str]]:
    """Rows, what they were drawn from, and what they say of the name."""
    rng, found = random.Random(6), []
    spoken: list[str] = []
    original = generation.each_of
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            generation, "each_of", lambda *a, **k: spoken.append(original(*a, **k)) or spoken[-1]
        )
        for _ in range(TRIES):
            draw = Draw(language, "train", rng, draw_catalog(language, "train", rng))
            try:
                found.append((generation._each(draw), draw, spoken[-1]))
            except DrawAgain:
                continue
            if len(found) == count:
                return found
    raise AssertionError(f"{len(found)} of {count} rows in {TRIES} catalogs")


@pytest.mark.parametrize("language", LANGUAGES)
def test_each_product_that_bears_the_name_is_meant(language: str):
    """As often as is told, all of them, and what else is listed once more; sound in every case."""
    alone = listed = 0
    for row, draw, spoken in rows_of_each(language, 40):
        assert check_row(asdict(row), "train") == []
        families = {product.name: product.family for product in draw.catalog.products}
        *others, last = [action["product"] for action in row.actions]
        crowded = [name for name, family in families.items() if family == families[last]]
        assert [*others, last][-len(crowded) :] == crowded
        assert len(crowded) > 1
        (quantity,) = {a["quantity"] for a in row.actions[-len(crowded) :]}
        told = [int(word) for word in spoken.split() if word.isdigit()]
        assert not told or quantity in told or (quantity == 1 and told == [len(crowded)])
        (action,) = {a["action"] for a in row.actions}
        assert (action == "remove") == any(use in row.family for use in (":remove", ":rseveral"))
        alone += len(row.actions) == len(crowded)
        listed += len(row.actions) > len(crowded)
    assert alone > 8
    assert listed > 8


def test_training_has_some_of_them():
    rng = random.Random(2)
    rows = [
        row
        for _ in range(250)
        for row in generation.generate_together(rng.choice(LANGUAGES), "train", rng, 8)
    ]
    several = [row for row in rows if row.kind == "several"]
    assert 0.02 < sum(row.family.startswith("each:") for row in several) / len(several) < 0.15


CARDS = ["Card Birthday", "Mug", "Card Wedding", "Card Get Well"]


def meant(language: str, text: str, catalog: list[str], *wishes: tuple[str, int]) -> list[str]:
    actions = [{"action": "add", "product": name, "quantity": n} for name, n in wishes]
    row = {"language": language, "text": text, "catalog": catalog, "actions": actions}
    return [action["product"] for action in as_listed(row)]


def test_all_of_a_kind_come_as_they_are_listed():
    kinds = ("Card Get Well", 2), ("Card Birthday", 2), ("Card Wedding", 2)
    listed = ["Card Birthday", "Card Wedding", "Card Get Well"]
    assert meant("en", "a mug and two of every card", CARDS, ("Mug", 1), *kinds) == ["Mug", *listed]
    assert meant("es", "dos tarjetas de cada clase", CARDS, *kinds) == listed
    assert meant("hr", "od svake čestitke po dvije", CARDS, *kinds) == listed


@pytest.mark.parametrize(
    "text",
    ["two cards for a wedding and two for a birthday each", "two cards, wedding and birthday"],
)
def test_what_is_told_one_by_one_stays_in_its_order(text: str):
    wishes = ("Card Wedding", 2), ("Card Birthday", 2)
    assert meant("en", text, CARDS, *wishes) == ["Card Wedding", "Card Birthday"]


def test_things_of_unlike_names_stay_in_their_order():
    catalog = ["Filter Tips", "Lighter Mini", "Rolling Papers"]
    wishes = ("Lighter Mini", 1), ("Rolling Papers", 1), ("Filter Tips", 1)
    assert meant("en", "something to light it, skins and roaches, one each", catalog, *wishes) == [
        "Lighter Mini", "Rolling Papers", "Filter Tips",
    ]  # fmt: skip
