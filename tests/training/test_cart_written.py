"""Cart messages that were written whole: sound, apart from what is measured on, varied without loss."""

from __future__ import annotations

import random

import pytest

from app.classification.prompt import normalise_lines
from tests.training.held_out_nouns import held_out_nouns, words_of
from training.cart import written
from training.cart.catalogs import LARGEST, SMALLEST
from training.cart.named import read_named
from training.cart.numerals import LARGEST_QUANTITY
from training.cart.written import (
    UNREAD_CARTS,
    WILD_CARTS,
    WRITTEN,
    calibration_carts,
    draw_written,
    measured_carts,
    read_written,
)
from training.duplicates import near_pairs
from training.examples import LANGUAGES, Example
from training.leaks import LISTED


@pytest.mark.parametrize("directory", [WRITTEN, WILD_CARTS, UNREAD_CARTS])
def test_every_row_is_sound(directory):
    catalogs = read_written(directory)
    assert {catalog.language for catalog in catalogs} == set(LANGUAGES)
    for catalog in catalogs:
        names = catalog.names
        assert SMALLEST <= len({name.casefold() for name in names}) == len(names) <= LARGEST
        for row in catalog.rows:
            assert row["text"] == normalise_lines(row["text"])
            assert row["kind"] in {"single", "several", "absent", "no_action", "ambiguous"}
            assert bool(row["actions"]) == (row["kind"] in {"single", "several"})
            assert (len(row["candidates"]) > 1) == (row["kind"] == "ambiguous")
            assert len(row["actions"]) == len({a["product"] for a in row["actions"]}) <= 6
            assert {*row["candidates"], *(a["product"] for a in row["actions"])} <= set(names)
            for action in row["actions"]:
                assert action["action"] in {"add", "remove"}
                assert 1 <= action["quantity"] <= LARGEST_QUANTITY


@pytest.mark.parametrize("directory", [WILD_CARTS, UNREAD_CARTS])
def test_what_is_learned_is_not_what_is_measured(directory):
    learned, measured = (
        [Example(row["text"], "", c.language, "") for c in read_written(d) for row in c.rows]
        for d in (WRITTEN, directory)
    )
    assert not near_pairs(learned, measured, LISTED)
    assert len(measured_carts(directory)) == len(measured) > 400


@pytest.mark.parametrize("language", LANGUAGES)
def test_catalogs_that_are_measured_on_are_not_named_ones(language):
    """No named catalog lists what they list: at most a few things that many shops have."""
    learned = [{line.name.casefold() for line in lines} for lines in read_named(language)]
    for catalog in read_written(UNREAD_CARTS):
        names = {name.casefold() for name in catalog.names}
        if catalog.language == language:
            assert max(len(names & lines) for lines in learned) <= len(names) / 4


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_noun_of_a_held_out_product_is_learned(language):
    kept = held_out_nouns(language)
    assert len(kept) > 50
    catalogs = [catalog for catalog in read_written() if catalog.language == language]
    texts = [name for catalog in catalogs for name in catalog.names]
    texts += [row["text"] for catalog in catalogs for row in catalog.rows]
    everything = "".join(map(words_of, texts))
    assert not [noun for noun in kept if noun in everything]


def test_a_drawn_catalog_keeps_what_its_messages_ask_for():
    rng = random.Random(3)
    sizes, texts, joined = set(), set(), set()
    known = {row["text"] for catalog in read_written() for row in catalog.rows}
    for _ in range(300):
        rows = draw_written(rng, 4)
        (names,) = {tuple(row["catalog"]) for row in rows}
        sizes.add(len(names))
        texts |= {row["text"] for row in rows}
        joined |= {row["text"] for row in rows if row["kind"] == "several"}
        for row in rows:
            wanted = {*row["candidates"], *(a["product"] for a in row["actions"])}
            assert wanted <= set(names)
    assert len(sizes) > 10
    assert texts & known
    assert texts - known
    assert any(sum(part in text for part in known) > 1 for text in joined - known)


def test_a_product_that_is_taken_away_is_wished_for_in_vain(monkeypatch):
    """The same message is answered with the product where it is listed."""
    monkeypatch.setattr(written, "_MISSED", 1.0)
    monkeypatch.setattr(written, "_AS_WRITTEN", 1.0)
    monkeypatch.setattr(written, "_JOINED", 0.0)
    every = {
        (c.language, row["text"]): (row, c.names)
        for c in read_written()
        if c.learned
        for row in c.rows
    }
    rng, missed = random.Random(7), 0
    for _ in range(200):
        for row in draw_written(rng, 4):
            before, names = every[row["language"], row["text"]]
            named = {*row["candidates"], *(a["product"] for a in row["actions"])}
            assert named <= set(row["catalog"])
            if row["kind"] == "absent" and before["kind"] == "single":
                (action,) = before["actions"]
                assert (row["actions"], action["product"] in row["catalog"]) == ([], False)
                assert set(row["catalog"]) < set(names)
                missed += 1
            else:
                assert row["kind"] == before["kind"]
                assert by_product(row["actions"]) == by_product(before["actions"])
    assert missed > 50


def by_product(actions):
    """Wishes for all of a kind have an order of their own (tests/training/test_cart_each.py)."""
    return sorted(actions, key=lambda action: action["product"])


def test_a_plain_product_is_not_taken_away_beside_a_richer_one():
    """Without it "a tin of beans" would mean the other beans, not nothing."""
    names = ["Baked beans 400 g", "BAKED BEANS no added sugar 400 g", "Butter beans", "Rice 1 kg"]
    action = {"action": "add", "product": names[0], "quantity": 1}
    row = {"kind": "single", "actions": [action], "candidates": [], "catalog": names}
    other = {**row, "actions": [{**action, "product": names[3]}]}
    for seed in range(5):
        assert written._with_one_missed([row], random.Random(seed)) == ([row], None)
        rows, missed = written._with_one_missed([row, other], random.Random(seed))
        assert (rows[0], rows[1]["kind"], missed) == (row, "absent", names[3])


def test_joined_wishes_of_unlike_kinds_stand_apart(monkeypatch):
    """Joined by "and", "minus the jam" and "two loaves" would be two removals."""
    monkeypatch.setattr(written, "_JOINED", 1.0)
    monkeypatch.setattr(written, "_AS_WRITTEN", 1.0)
    alone = {row["text"].rstrip(".,;") for c in read_written() for row in c.rows}
    rng = random.Random(6)
    mixed = [
        row["text"]
        for _ in range(300)
        for row in draw_written(rng, 4)
        if len({a["action"] for a in row["actions"]}) > 1 and row["text"].rstrip(".,;") not in alone
    ]
    assert mixed
    for text in mixed:
        first = max((part for part in alone if text.startswith(part)), key=len)
        assert text[len(first) :].startswith((". ", "\n"))


def test_calibration_gets_catalogs_that_training_never_draws():
    held = {row["text"] for row in calibration_carts()}
    assert held
    rng = random.Random(4)
    drawn = {row["text"] for _ in range(400) for row in draw_written(rng, 4)}
    assert not held & drawn
