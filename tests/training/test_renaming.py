from __future__ import annotations

import random
import re
from dataclasses import asdict
from typing import Any

import pytest

from app.classification.ngrams import without_diacritics
from training.cart.generation import generate
from training.cart.renaming import rename, stems_of
from training.examples import LANGUAGES

STEMS = ("brodov", "kamenj", "planin", "stol", "vjetar", "pijes", "ostrvo", "gumenj")
ROW = {
    "catalog": [
        "Zeleni sapun 20 vrećica",
        "Maslinov krastavac 500 ml",
        "ČAJNIK 2L",
        "Zobeno mlijeko",
    ],
    "text": "Dodaj 3 Zelenog Sapuna i makni maslinova krastavca, ČAJNIK ne diraj",
    "language": "hr",
    "kind": "several",
    "actions": [
        {"action": "add", "product": "Zeleni sapun 20 vrećica", "quantity": 3},
        {"action": "remove", "product": "Maslinov krastavac 500 ml", "quantity": 1},
    ],
    "mentions": ["zelenog sapuna", "maslinova krastavca"],
}
WORD = re.compile(r"[^\W\d_]+")


def renamed(row: dict[str, Any], seed: int = 1) -> dict[str, Any]:
    found = rename(row, STEMS, random.Random(seed))
    assert found is not None
    return found


def test_the_wish_stays_and_the_names_change():
    """Same actions and quantities on the same places of the catalog; no old name is left."""
    found = renamed(ROW)
    for old, new in zip(ROW["actions"], found["actions"], strict=True):
        assert (old["action"], old["quantity"]) == (new["action"], new["quantity"])
        assert ROW["catalog"].index(old["product"]) == found["catalog"].index(new["product"])
        assert old["product"] != new["product"]
    assert "zelen" not in found["text"].casefold()
    assert "maslin" not in found["text"].casefold()
    assert found["text"].startswith("Dodaj 3 ")
    assert " i makni " in found["text"]
    assert (found["language"], found["kind"]) == ("hr", "several")


def test_endings_and_capitals_stay():
    """A form of a product's name becomes the same form of the new name, written as the old one was."""
    found = renamed(ROW)
    green, soap = found["catalog"][0].split()[:2]
    assert green.endswith("ni")
    assert green[0].isupper()
    assert green[1:].islower()
    assert soap.islower()
    # Zeleni sapun, Zelenog Sapuna
    assert f"3 {green.removesuffix('i')}og {soap.capitalize()}a" in found["text"]
    shouted = found["catalog"][2].split()[0]
    assert shouted.isupper()
    assert f", {shouted} ne " in found["text"]


def test_short_words_and_numbers_stay():
    """They are units and sizes, which a message may tell too."""
    found = renamed(ROW)
    assert " 20 " in found["catalog"][0]
    assert found["catalog"][1].endswith(" 500 ml")
    assert found["catalog"][2].endswith(" 2L")


def test_mentions_are_renamed_as_the_text_is():
    """What the message called the product is still what it calls it."""
    found = renamed(ROW)
    for mention in found["mentions"]:
        assert mention in found["text"].casefold()


@pytest.mark.parametrize("mention", ["sejk", "maslinove masti", "3"])
def test_a_synonym_would_mean_nothing_and_is_refused(mention: str):
    """A mention of which any longer word is no form of the product's name."""
    row = ROW | {"text": f"makni {mention}", "actions": ROW["actions"][1:], "mentions": [mention]}
    assert rename(row, STEMS, random.Random(1)) is None


def test_a_name_hidden_by_a_slip_is_refused():
    """The catalog would be renamed and the message not: nobody could find the product then."""
    row = ROW | {"text": "dodaj 3 zleenog sapuna i makni maslinova krastavca"}
    assert rename(row, STEMS, random.Random(1)) is None


def test_fewer_stems_than_names_are_refused():
    """Two products would get one name."""
    assert rename(ROW, STEMS[:3], random.Random(1)) is None


def test_candidates_are_renamed_with_the_catalog():
    """An ambiguous row asks back with products that are listed."""
    row = ROW | {
        "kind": "ambiguous", "text": "jedan krastavac", "actions": [], "mentions": [],
        "candidates": ["Maslinov krastavac 500 ml", "Zobeno mlijeko"],
    }  # fmt: skip
    found = renamed(row)
    assert found["candidates"] == [found["catalog"][1], found["catalog"][3]]


def test_the_row_that_is_given_stays_as_it_is():
    """Renaming makes another row."""
    before = repr(ROW)
    renamed(ROW)
    assert repr(ROW) == before


def test_stems_are_words_without_their_ends():
    """Each once; short words and those with digits or signs make none."""
    assert stems_of(["planina", "planine", "more", "x2000", "sedmoga", "auto-put"]) == [
        "plani",
        "sedmo",
    ]


@pytest.mark.parametrize("language", LANGUAGES)
def test_generated_rows_stay_sound(language: str):
    """Over many rows: products stay distinct and listed, each name of old becomes one new name."""
    rng = random.Random(5)
    words = [
        "".join(
            rng.choice("bdfgklmnprstvz") + rng.choice("aeiou") for _ in range(rng.randint(3, 5))
        )
        for _ in range(900)
    ]
    stems, done, changed = stems_of(words), 0, 0
    for _ in range(200):
        row = asdict(generate(language, "train", rng))
        found = rename(row, stems, rng)
        if found is None:
            continue
        done += 1
        changed += found["catalog"] != list(row["catalog"])
        assert len({n.casefold() for n in found["catalog"]}) == len(row["catalog"])
        assert [a["quantity"] for a in found["actions"]] == [a["quantity"] for a in row["actions"]]
        for old, new in zip(row["actions"], found["actions"], strict=True):
            assert found["catalog"].index(new["product"]) == row["catalog"].index(old["product"])
        plain = without_diacritics(found["text"].casefold())
        for mention in found["mentions"]:
            long = [w.casefold() for w in WORD.findall(mention) if len(w) > 5]
            assert all(without_diacritics(word[:-2]) in plain for word in long)
        pairs = {}
        for old, new in zip(row["catalog"], found["catalog"], strict=True):
            olds, news = WORD.findall(old), WORD.findall(new)
            assert len(olds) == len(news)
            for one, other in zip(olds, news, strict=True):
                assert pairs.setdefault(one.casefold(), other.casefold()) == other.casefold()
    assert done > 50
    assert changed == done
