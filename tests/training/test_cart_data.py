"""Cart data: sources, generated rows and their check."""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Callable
from dataclasses import asdict, replace
from itertools import groupby

import pytest

from training.cart import drawing, generation
from training.cart.catalogs import Catalog, draw_catalog
from training.cart.dataset import dataset_counts, source_counts, write_dataset
from training.cart.drawing import Draw
from training.cart.generation import SHARES, generate_kind, generate_together
from training.cart.grammar import read_phrase
from training.cart.making import draw_rows
from training.cart.matching import fit
from training.cart.numerals import LARGEST_QUANTITY
from training.cart.phrasings import SLOT, Phrasing, accepts, read_phrasings
from training.cart.products import DATA, products_of, read_products, relist
from training.cart.quantities import CROATIAN_UNITS
from training.cart.surface import finish
from training.cart.validation import check_row, check_splits
from training.examples import LANGUAGES, read_rows

SOUND = {
    "catalog": ["Green Tea 20 bags", "Green Tea with Mint 20 bags"],
    "text": "two green teas",
    "actions": [{"action": "add", "product": "Green Tea 20 bags", "quantity": 2}],
    "language": "en",
    "kind": "single",
    "family": "add",
    "heldout": False,
    "mentions": ["green tea"],
}


@pytest.mark.parametrize("language", LANGUAGES)
def test_enough_is_written_by_hand(language):
    """In each language 220 products over 12 trades, 100 ways to add, 70 to remove, 50 named catalogs."""
    counts = source_counts()[language]
    assert counts["products"] >= 220
    assert counts["trades"] >= 12
    assert counts["named_catalogs"] >= 50
    assert counts["named_ways"] > 2.5 * counts["named_lines"]
    assert counts["phrasings"]["add"] >= 100
    assert counts["phrasings"]["remove"] >= 70


@pytest.mark.parametrize("language", LANGUAGES)
def test_sources_are_sound(language):
    """No name twice, no family on two sides, every form resolved, every slot and unit known."""
    products = read_products(language)
    assert len({p.name for p in products}) == len(products)
    for product in products:
        if language == "hr":
            assert set(product.units) <= CROATIAN_UNITS.keys(), product.name
        for phrase in (*product.exact, *product.general):
            forms = (phrase.nominative, phrase.accusative, phrase.few, phrase.many, phrase.genitive)
            assert not any(mark in form for form in forms for mark in "{}[]|:")
    known = {"", "num", "nom", "the", "bare", "gen", "pl", "n", "d", "old", "oldn", "oldd", "it",
             "is", "was", "lo"}  # fmt: skip
    for phrasings in read_phrasings(language).values():
        for phrasing in phrasings:
            assert {form for _, form in SLOT.findall(phrasing.text)} <= known
            assert set(phrasing.roles) <= {
                "a",
                "b",
                "c",
                "r",
                "s",
                "x",
                "p",
                "q",
                "n",
                "list",
                "rlist",
            }
    assert check_splits({}) == []


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("kind", sorted(SHARES))
@pytest.mark.parametrize("split", ["train", "test"])
def test_rows_of_every_kind_pass_their_check(split, kind, language):
    """Whatever is drawn is in the catalog, whole, and fits no other product better."""
    rng = random.Random(f"{kind}{language}")
    for _ in range(40):
        row = generate_kind(kind, language, split, rng)
        assert check_row(asdict(row), split) == []
        assert row.kind == kind


def test_only_training_believes_in_synonyms():
    """A mention that looks like nothing listed is learned; dev and test stay as they were drawn up."""
    named = {p.name: p for p in products_of("en", "train")}
    listed = [named["Baguette Multiseed 250g"], named["Push Pins assorted colours 50"]]
    assert fit("thumbtacks", listed[1].name) == 0
    assert Catalog(listed, by_meaning=True).means("thumbtacks", listed[1])
    assert not Catalog(listed).means("thumbtacks", listed[1])
    for split in ("train", "dev", "test"):
        catalog = draw_catalog("en", split, random.Random(3))
        assert catalog.by_meaning == (split == "train")


@pytest.mark.parametrize("language", LANGUAGES)
def test_training_calls_products_otherwise_more_often(language, monkeypatch):
    """Mentions that share hardly a letter with the product's name are drawn more often than by chance."""
    monkeypatch.setattr(generation, "NAMED_SHARE", 0.0)

    def unlike(split):
        rng = random.Random(f"{language}{split}")
        rows = [row for _ in range(45) for row in generate_together(language, split, rng, 8)]
        fits = [
            fit(mention, action["product"])
            for row in rows
            for action, mention in zip(row.actions, row.mentions, strict=True)
        ]
        return sum(score < 0.25 for score in fits) / len(fits)

    often = unlike("train")
    monkeypatch.setattr(drawing, "_OTHERWISE", 0.0)
    assert often > 1.2 * unlike("train")
    assert unlike("test") < 0.1


@pytest.mark.parametrize("language", LANGUAGES)
def test_an_odd_word_does_not_tell_that_its_product_is_listed(language, monkeypatch):
    """Wishes in vain are told in other words as well, in training more often than they come by chance."""
    monkeypatch.setattr(generation, "_NEAR", {"train": 0.0})

    def unlike():
        rng = random.Random(language)
        catalogs = [draw_catalog(language, "train", rng) for _ in range(50)]
        draws = [Draw(language, "train", rng, catalog) for catalog in catalogs for _ in range(8)]
        wanted = [generation._wanted_in_vain(draw) for draw in draws]
        return sum(fit(phrase.nominative, product.name) < 0.25 for product, phrase in wanted) / len(
            wanted
        )

    often = unlike()
    monkeypatch.setattr(drawing, "_OTHERWISE_IN_VAIN", 0.0)
    assert often > 1.5 * unlike()


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_product_is_listed_under_another_of_its_names(language):
    """Spelt as a catalog line, with its size, and told from its siblings: it stays the same product."""
    rng = random.Random(language)
    for product in products_of(language, "train")[::97]:
        listed = relist(product, rng)
        told = {phrase.nominative.casefold() for phrase in product.exact}
        assert any(listed.name.casefold().startswith(phrase) for phrase in told)
        assert (listed.base, listed.exact) == (product.name, product.exact)
    by_name = {p.name: p for p in products_of("en", "train")}
    rounds = by_name["Ground Beef Rounds for grill 4 x 100 g"]
    assert relist(rounds, rng).name.endswith(" 4 x 100 g")


@pytest.mark.parametrize(
    ("name", "mention", "listed"),
    [
        ("Tonic without sugar 6 x 0,15 l", "diet tonic", "Diet tonic 6 x 0,15 l"),
        ("Backpack 60-120 L", "rucksack", "Rucksack 60-120 L"),
        ("Olive Oil 0,5 L", "olive oil 0,5", "Olive oil 0,5"),
        ("Frying Pan 28 cm", "28 pan", "28 pan"),
        ("Screws M6 100 pcs", "bolts m6", "Bolts m6 100 pcs"),
    ],
)
def test_a_size_is_listed_whole_and_once(name, mention, listed):
    (some, *_) = products_of("en", "train")
    product = replace(some, name=name, exact=(read_phrase("en", mention, mention),))
    assert relist(product, random.Random(1)).name == listed


def test_a_wish_is_compared_with_what_a_product_was_listed_under_before():
    """Who asks for another variant may mean the one that stands there under a quite other name."""
    brushes = [p for p in products_of("en", "train") if p.family == "toilet-brush"]
    wish = brushes[0].exact[0].nominative
    listed = replace(brushes[0], name="Loo scrubber")
    other = next(p for p in products_of("en", "train") if p.family == "hoodie")
    assert not Catalog([listed, other], by_meaning=True).lacks(brushes[0], wish)


def test_rows_that_are_measured_on_stay_what_they_were():
    """Every figure so far was measured on these; whatever training gains, they are drawn alike."""
    made = [row for split in ("dev", "test") for row in draw_rows(split, 60, 20)]
    content = json.dumps(made, ensure_ascii=False, sort_keys=True)
    assert (
        hashlib.sha256(content.encode()).hexdigest()
        == "bbc083032f7b5816a02801c70d6067a18a1cad99a81b3ca92942895f35519d8d"
    )


def test_ambiguous_ones_that_are_measured_on_stay_what_they_were():
    """They are few among the others, and share code with what training alone draws."""
    rng = random.Random(20)
    made = [
        asdict(generate_kind("ambiguous", language, split, rng))
        for split in ("dev", "test")
        for language in LANGUAGES
        for _ in range(30)
    ]
    content = json.dumps(made, ensure_ascii=False, sort_keys=True)
    assert (
        hashlib.sha256(content.encode()).hexdigest()
        == "5dcb5205a93b7ae9420ea551121e45ad27e6c24b58e91ddb09bfc69288eb0d71"
    )


def test_only_training_lists_products_under_other_names():
    """In dev and test a product's name is its own, but for brand, brackets and capitals."""
    for split in ("dev", "test"):
        rng = random.Random(4)
        for _ in range(20):
            for product in draw_catalog("en", split, rng).products:
                words = set(re.findall(r"[^\W\d_]{3,}", product.base.casefold()))
                assert words <= set(re.findall(r"[^\W\d_]{3,}", product.name.casefold()))


@pytest.mark.parametrize("language", LANGUAGES)
def test_messages_hold_up_to_six_actions(language):
    """Two or three are common, six occur, seven never."""
    rng = random.Random(language)
    sizes = [len(generate_kind("several", language, "train", rng).actions) for _ in range(250)]
    assert set(sizes) == {2, 3, 4, 5, 6}
    assert sum(size <= 3 for size in sizes) > 0.6 * len(sizes)


@pytest.mark.parametrize("language", LANGUAGES)
def test_products_named_like_commands_stand_on_every_side(language):
    """Trained ones and others for dev and test, and their names open no sentence without a number."""
    named = [product for product in read_products(language) if product.commanding]
    assert {product.split for product in named} == {"train", "dev", "test"}
    bare = next(p for p in read_phrasings(language)["add"] if p.text.startswith("{a.bare}"))
    assert not accepts(bare, "a", named[0].exact[0], named[0])
    verb = next(p for p in read_phrasings(language)["add"] if " {a}" in p.text)
    assert accepts(verb, "a", named[0].exact[0], named[0])


RELATED: dict[str, Callable[[int], float]] = {
    "double": lambda first: first * 2,
    "half": lambda first: first / 2,
    "more": lambda first: first + 1,
    "fewer": lambda first: first - 1,
}


@pytest.mark.parametrize("language", LANGUAGES)
def test_items_that_stand_apart_are_told_with_their_own_quantities(language):
    """Two or three actions of one kind, one quantity for all or by the other only where it is said."""
    phrasings = {p.identity: p for p in read_phrasings(language)["apart"]}
    rng = random.Random(language)
    told_once = told_apart = 0
    related: set[str] = set()
    while told_once < 5 or told_apart < 20 or len(related) < len(RELATED):
        row = generate_kind("several", language, "train", rng)
        if row.family not in phrasings:
            continue
        assert 2 <= len(row.actions) <= 3
        assert len({action["action"] for action in row.actions}) == 1
        quantities = {action["quantity"] for action in row.actions}
        if "same" in phrasings[row.family].only:
            assert len(quantities) == 1
            told_once += 1
        elif by := phrasings[row.family].only & set(RELATED):
            (word,) = by
            first, second = (action["quantity"] for action in row.actions)
            assert second == RELATED[word](first) > 1
            related.add(word)
        else:
            told_apart += len(quantities) > 1


@pytest.mark.parametrize("language", LANGUAGES)
def test_what_is_told_aside_changes_nothing(language):
    """A product that is only talked about beside a wish gets no action."""
    for phrasing in read_phrasings(language)["aside"]:
        assert "x" in phrasing.roles
        assert len(phrasing.roles) == 2


@pytest.mark.parametrize("language", LANGUAGES)
def test_what_is_said_around_a_wish_is_held_out_too(language):
    """Sentences before and after have no slot, and some are never trained on."""
    for use in ("before", "after"):
        lines = read_phrasings(language)[use]
        assert not any(SLOT.search(line.text) for line in lines)
        assert {line.heldout for line in lines} == {True, False}


def test_the_largest_number_can_be_corrected_to(monkeypatch):
    """What is taken back stays among the numbers that can be spelt, even beside 999."""
    monkeypatch.setattr(drawing, "draw_quantity", lambda *_: LARGEST_QUANTITY)
    phrasing = Phrasing("one", "change", "{a.oldn} {a.pl}, no, {a.n}", frozenset(), heldout=False)
    rng = random.Random(1)
    draw = Draw("en", "train", rng, draw_catalog("en", "train", rng))
    item = draw.item(phrasing, "a")
    assert item.quantity == LARGEST_QUANTITY
    assert item.taken_back == LARGEST_QUANTITY - 1


def test_same_seed_same_rows(tmp_path):
    """A seed fixes every byte; another seed draws other rows."""
    for name, seed in (("one", 1), ("again", 1), ("other", 2)):
        write_dataset(tmp_path / name, seed, train=60, dev=12, test=8)
    one, again, other = (
        (tmp_path / n / "train.jsonl").read_bytes() for n in ("one", "again", "other")
    )
    assert one == again
    assert one != other
    counts = dataset_counts(tmp_path / "one")
    assert counts["train"]["rows"] == 60
    catalogs = [tuple(row["catalog"]) for row in read_rows(tmp_path / "one" / "train.jsonl")]
    # Eight rows each where all kinds suit it, and they are neighbours.
    assert len(set(catalogs)) < 15
    assert len([1 for _ in groupby(catalogs)]) == len(set(catalogs))
    assert counts["test"]["by_language"] == {"en": 8, "hr": 8, "es": 8}


def test_training_sees_no_heldout_phrasing_and_no_test_product(tmp_path):
    """Names and phrasings that are measured on stay out of training."""
    write_dataset(tmp_path, 3, train=300, dev=30, test=30)
    rows = read_rows(tmp_path / "train.jsonl")
    assert not any(row["heldout"] for row in rows)
    listed = {name.casefold() for row in rows for name in row["catalog"]}
    for language in LANGUAGES:
        assert not listed & {p.name.casefold() for p in products_of(language, "test")}
    tested = read_rows(tmp_path / "test.jsonl")
    assert any(row["heldout"] for row in tested)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"actions": [{"action": "add", "product": "Tea", "quantity": 2}]}, "not in the catalog"),
        ({"actions": [{"action": "add", "product": "Green Tea 20 bags", "quantity": 0}]}, "1 to 999"),
        ({"actions": [{"action": "add", "product": "Green Tea 20 bags", "quantity": 1.5}]}, "1 to 999"),
        ({"actions": [{"action": "set", "product": "Green Tea 20 bags", "quantity": 1}]}, "unknown"),
        ({"mentions": ["green tea with mint"]}, "better"),
        ({"text": "add {a}"}, "slot"),
        ({"kind": "absent"}, "disagree"),
        ({"kind": "several"}, "two to six"),
        ({"candidates": ["Green Tea 20 bags", "Tea"]}, "candidates"),
    ],
)  # fmt: skip
def test_the_check_names_each_fault(change, fault):
    """A row with one thing wrong is told by that thing."""
    assert check_row(SOUND, "dev") == []
    assert any(fault in told for told in check_row({**SOUND, **change}, "dev"))


def test_a_leaked_product_is_found():
    """A test product in a training catalog fails the split check, in whatever spelling."""
    name = products_of("en", "test")[0].name
    row = {**SOUND, "catalog": [f"Brand {name.upper()}"]}
    assert any("training" in fault for fault in check_splits({"train": [row]}))


def test_slips_leave_numbers_alone():
    """A typo never touches digits or number words, nor strips a decimal point."""
    rng = random.Random(5)
    for _ in range(300):
        text = finish("remove twelve of the 1.5 l mineral waters", "en", rng, slips=2)
        assert "twelve" in text.casefold()
        assert "1.5" in text


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_head_noun_stands_on_two_sides(language):
    """A noun that names tested products names no trained one, in heads and in mentions.

    Sets there are of everything.
    """
    sides = {}
    for row in read_rows(DATA / f"products.{language}.jsonl"):
        for written in (*row["heads"], *row["mentions"]):
            bare = re.sub(r"^~?(m|f|n|fa|mp|fp|p):", "", written)
            braced = re.search(r"\{([^}|]+)", bare)
            if "{}" in bare or not (braced or "|" in bare or written in row["heads"]):
                continue
            noun = (braced[1] if braced else bare.split("|")[0]).split()[-1]
            sides.setdefault(noun, set()).add(row["split"])
    assert not [noun for noun, found in sides.items() if len(found) > 1 and noun != "set"]
