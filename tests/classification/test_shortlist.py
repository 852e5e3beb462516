from __future__ import annotations

import random

import pytest

from app.classification.shortlist import ShortlistIndex, grams_of, words_of

PRODUCTS = (
    "Maslinovo ulje extra djevičansko 1 l",
    "Suncokretovo ulje 1 l",
    "Kokosova voda 330 ml",
    "Čokolada s lješnjacima 100 g",
    "Tenisice za trčanje muške 42",
    "Bežične slušalice BT-500 crne",
    "Green Tea 20 bags",
    'Laptop 14" i5 16GB',
    "Powerbank 10000 mAh",
    "Jogurt prirodni 2,8% 1 kg",
)


@pytest.fixture(scope="module")
def long_catalog() -> list[str]:
    """Two thousand products: made-up ones around those above."""
    rng = random.Random(3)
    syllables = ["ba", "ko", "ri", "mel", "tas", "ven", "dor", "pu", "li", "zan", "fer", "ok"]

    def word() -> str:
        return "".join(rng.choices(syllables, k=rng.randint(2, 4)))

    made = [
        f"{word().title()} {word()} {rng.choice([50, 100, 330, 500])} {rng.choice(['ml', 'g'])}"
        for _ in range(1990)
    ]
    catalog = [*made, *PRODUCTS]
    rng.shuffle(catalog)
    return catalog


@pytest.mark.parametrize(
    ("message", "meant"),
    [
        ("dodaj dvije boce maslinovog ulja", "Maslinovo ulje extra djevičansko 1 l"),
        ("ima li suncokretovih ulja", "Suncokretovo ulje 1 l"),
        ("tri kokosove vode molim", "Kokosova voda 330 ml"),
        ("cokoladu s ljesnjacima", "Čokolada s lješnjacima 100 g"),
        ("makni čokolade s lješnjakom", "Čokolada s lješnjacima 100 g"),
        ("tenisicama za trcanje broj 42", "Tenisice za trčanje muške 42"),
        ("one slušalice bt500", "Bežične slušalice BT-500 crne"),
        ("two boxes of gren teas pls", "Green Tea 20 bags"),
        ("the LAPTOP with 16 gb", 'Laptop 14" i5 16GB'),
        ("powerbanke od 10000", "Powerbank 10000 mAh"),
        ("bez jogurta", "Jogurt prirodni 2,8% 1 kg"),
    ],
)
def test_an_inflected_or_misspelt_mention_finds_its_product(
    long_catalog: list[str], message: str, meant: str
):
    """Among two thousand products the one that is meant stands at the top."""
    index = ShortlistIndex(long_catalog)
    best = [long_catalog[place] for place in index.ranking(message)[:8]]
    assert meant in best


def test_each_of_several_wishes_has_its_place():
    """A word with many near products does not crowd out another wish."""
    catalog = [f"Jogurt voćni {number}" for number in range(500)] + ["Gumene čizme žute"]
    index = ShortlistIndex(catalog)
    best = list(index.ranking("dva voćna jogurta, jogurt 7 i čizme")[:40])
    assert 500 in best
    assert 7 in best


def test_a_wish_after_a_long_story_is_found():
    """People who tell a story first say last what they want."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    story = " ".join(
        f"{word}{letter}" for word in ("woof", "meow", "quack", "moo") for letter in letters
    )
    catalog = [f"Green tea {number}" for number in range(200)] + ["Basmati Rice 1 kg"]
    assert ShortlistIndex(catalog).ranking(f"{story} so please add basmati rice")[0] == 200


def test_what_matches_nothing_keeps_the_catalogs_order():
    """Alike products, also those without a word in them, stay as they were given."""
    catalog = ["§§§", "tea", "oil", "☕"]
    assert list(ShortlistIndex(catalog).ranking("что-то другое")) == [0, 1, 2, 3]
    assert list(ShortlistIndex(catalog).ranking("oil")) == [2, 0, 1, 3]
    assert list(ShortlistIndex(["☕", "§"]).ranking("tea")) == [0, 1]


def test_every_product_is_ranked_once(long_catalog: list[str]):
    """A ranking is a permutation, for a message of any length."""
    message = " ".join(long_catalog[:300])
    assert sorted(ShortlistIndex(long_catalog).ranking(message)) == list(range(2000))


def test_numbers_stand_apart_from_letters():
    """And are compared whole: 10 is no part of 100."""
    assert words_of("BT-500 Čaj 250ml") == ["bt", "500", "caj", "250", "ml"]
    assert grams_of("100") == {" 100 "}
    assert grams_of("ml") == {" ml "}
    assert grams_of("caj") == {" ca", "caj", " caj"}
