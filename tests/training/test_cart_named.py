"""Catalogs with ways of asking for each line: told apart, never those of what is measured on."""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from contextlib import suppress
from dataclasses import asdict, replace

import pytest

from tests.training.held_out_nouns import held_out_nouns, words_of
from training.cart import generation, named
from training.cart.catalogs import LARGEST, SMALLEST, Catalog
from training.cart.drawing import Draw, DrawAgain
from training.cart.generation import generate_together
from training.cart.grammar import read_phrase
from training.cart.matching import has_richer
from training.cart.named import draw_named, read_named
from training.cart.phrasings import Phrasing, accepts
from training.cart.products import _BRANDS
from training.cart.quantities import counted
from training.cart.validation import check_row
from training.examples import LANGUAGES


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_line_is_told_from_the_others(language):
    for lines in read_named(language):
        assert SMALLEST < len({line.name.casefold() for line in lines}) == len(lines) <= LARGEST
        said = defaultdict(set)
        for line in lines:
            assert line.exact
            for phrase in line.exact:
                said[phrase.nominative.casefold()].add(line.name)
                assert not set("{}[]|:~") & set(phrase.nominative + phrase.many)
        assert [phrase for phrase, names in said.items() if len(names) > 1] == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_noun_of_a_held_out_product_is_learned(language):
    lines = [line for lines in read_named(language) for line in lines]
    phrases = [phrase for line in lines for phrase in line.exact]
    texts = [line.name for line in lines]
    texts += [form for p in phrases for form in (p.nominative, p.few, p.many)]
    everything = "".join(map(words_of, texts))
    assert not [noun for noun in held_out_nouns(language) if noun in everything]


@pytest.mark.parametrize("language", LANGUAGES)
def test_what_is_asked_for_in_vain_was_taken_out(language):
    rng = random.Random(language)
    sizes = set()
    for _ in range(200):
        catalog = draw_named(language, rng)
        sizes.add(len(catalog.products))
        names = set(catalog.names)
        assert not {line.name for line in catalog.unlisted} & names
        assert not {line.base for line in catalog.unlisted} & {p.base for p in catalog.products}
        assert not [line.name for line in catalog.unlisted if has_richer(line.name, catalog.names)]
    assert min(sizes) == SMALLEST
    assert max(sizes) > 25


@pytest.mark.parametrize("language", LANGUAGES)
def test_strangers_have_no_word_in_common_with_the_shop(language):
    """Else a way of asking for one line might mean another just as well."""
    rng = random.Random(language)
    own = {
        line.family: (number, line) for number, s in enumerate(read_named(language)) for line in s
    }
    joined = 0
    for _ in range(150):
        said = defaultdict(set)
        lines = [own[line.family] for line in draw_named(language, rng).products]
        for shop, line in lines:
            for text in (line.name, *(way.nominative for way in line.exact)):
                said[shop] |= set(re.findall(r"[^\W\d_]{5,}", text.casefold()))
        joined += len(said) > 1
        for shop, words in said.items():
            others = set().union(*(s for other, s in said.items() if other != shop))
            assert not (words & others) - _SAYING_NOTHING
    assert 45 < joined < 105


_SAYING_NOTHING = {"thing", "things", "stuff", "donde", "cuando", "those", "without"}


def test_a_joined_catalog_is_as_long_as_a_catalog_may_be(monkeypatch):
    monkeypatch.setattr(named, "_STRANGERS", (60, 80))
    monkeypatch.setattr(named, "_SHOPS", 40)
    lines = read_named("en")[0]
    sizes = {len(named._strangers("en", lines, random.Random(n))) for n in range(20)}
    assert max(sizes) == LARGEST - len(lines)


def test_a_thing_that_both_shops_list_is_no_stranger(monkeypatch):
    def shop(number, *lines):
        return tuple(
            replace(some, name=name, base=name, family=f"{number}-{place}", exact=tuple(
                read_phrase("en", way, way) for way in ways
            ))
            for place, (name, *ways) in enumerate(lines)
        )  # fmt: skip

    some = read_named("en")[0][0]
    ours = shop(
        1, ("Toilet Tissue 9 Rolls", "loo roll"), *((f"Own {n}x", f"mine{n}") for n in "abcdef")
    )
    theirs = shop(2, ("Bathroom Roll 4pk", "p:bog paper"), ("Paprika 50g", "p:red powder"))
    monkeypatch.setattr(named, "read_named", lambda _: (ours, theirs))
    monkeypatch.setattr(named, "_stems", named._stems.__wrapped__)
    found = {
        line.name for n in range(50) for line in named._strangers("en", ours, random.Random(n))
    }
    assert found == {"Paprika 50g"}


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_line_is_asked_for_by_its_ways_under_whatever_name_it_is_listed(language):
    rng = random.Random(language)
    own = {line.family: line for lines in read_named(language) for line in lines}
    relisted = branded = 0
    for _ in range(100):
        catalog = draw_named(language, rng)
        assert len({name.casefold() for name in catalog.names}) == len(catalog.names)
        for line in catalog.products:
            assert set(own[line.family].exact) <= set(line.exact)
            for way in set(line.exact) - set(own[line.family].exact):
                assert not way.described
                assert len(way.nominative.split()) <= 3 + 2  # "Casa Lin"
                assert not {"thing", "stuff", "ono"} & set(words_in(way.nominative))
            relisted += not any(word in line.name.casefold() for word in words_in(line.base))
            branded += any(brand in line.name for brand in _BRANDS["train"])
    assert relisted > 100
    assert branded > 100


def words_in(text):
    return re.findall(r"\w{3,}", text.casefold())


@pytest.mark.parametrize("language", LANGUAGES)
def test_rows_of_named_catalogs_are_sound(language, monkeypatch):
    """Every kind but those that need families."""
    monkeypatch.setattr(generation, "NAMED_SHARE", 1.0)
    monkeypatch.setattr(named, "RELISTED", 0)
    monkeypatch.setattr(named, "_RESTYLED", 0)
    ways = defaultdict(set)
    for line in (line for lines in read_named(language) for line in lines):
        ways[line.name] |= {phrase.nominative for phrase in line.exact}
    rng = random.Random(language)
    kinds = Counter()
    for _ in range(150):
        for row in generate_together(language, "train", rng, 4):
            assert check_row(asdict(row), "train") == []
            kinds[row.kind] += 1
            for action, mention in zip(row.actions, row.mentions, strict=True):
                assert mention in {*ways[action["product"]], action["product"]}
    assert set(kinds) == {"single", "several", "absent", "no_action", "adversarial"}
    assert min(kinds.values()) > 15


@pytest.mark.parametrize("language", LANGUAGES)
def test_rows_of_restyled_catalogs_are_sound(language, monkeypatch):
    monkeypatch.setattr(generation, "NAMED_SHARE", 1.0)
    rng = random.Random(language)
    for _ in range(100):
        for row in generate_together(language, "train", rng, 4):
            assert check_row(asdict(row), "train") == []


@pytest.mark.parametrize("split", ["dev", "test"])
def test_only_training_draws_them(split, monkeypatch):
    """What is measured on is drawn from families, as it always was."""
    monkeypatch.setattr(generation, "NAMED_SHARE", 1.0)
    lines = {line.name for shop in read_named("en") for line in shop}
    rng = random.Random(2)
    rows = [row for _ in range(30) for row in generate_together("en", split, rng, 4)]
    assert not lines & {name for row in rows for name in row.catalog}


def test_croatian_ways_stand_only_where_their_case_does():
    """They are written in the accusative: no sentence that asks for another case takes one."""
    line = read_named("hr")[0][0]

    def takes(text):
        phrasing = Phrasing("add-hr", "add", text, frozenset(), heldout=False)
        return accepts(phrasing, "a", line.exact[0], line)

    assert takes("dodaj {a} i to je to")
    assert not takes("treba mi samo {a.nom}")
    assert not takes("ne mogu bez {a.gen}")
    assert not takes("je li {a.bare} nešto dobro?")


def test_a_croatian_way_with_its_forms_is_counted_in_words():
    """Behind 2 and 5 it has endings that nobody can tell from its accusative."""
    phrase = named._read("f:zveckicu|zveckice|zveckica", "hr")
    rng = random.Random(4)
    said = {
        number: {counted("hr", phrase, number, (), rng) for _ in range(200)} for number in (1, 3, 5)
    }
    assert said[1] >= {"zveckicu", "jednu zveckicu", "1x zveckicu"}
    assert said[3] >= {"tri zveckice", "3 zveckice", "3x zveckicu"}
    assert said[5] >= {"pet zveckica", "5 zveckica", "5x zveckicu"}
    everything = set().union(*said.values())
    assert not [text for text in everything if "kom" in text]
    listed = {
        counted("hr", phrase, number, (), rng, nominative=True, line=True)
        for number in (1, 21)
        for _ in range(200)
    }
    assert not [text for text in listed if "jedna" in text]
    bear = named._read("m:medvjedića|medvjedića|medvjedića", "hr")
    said[1] = {counted("hr", bear, number, (), rng) for number in (1, 21) for _ in range(200)}
    assert said[1] >= {"medvjedića", "1 medvjedića", "21 medvjedića"}
    assert not [text for text in said[1] if "jedan" in text]
    plain = {counted("hr", named._read("zveckicu", "hr"), 3, (), rng) for _ in range(200)}
    assert {text.replace(" ", "") for text in plain} <= {
        "3xzveckicu", "zveckicux3", "3×zveckicu", "x3zveckicu",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("language", "article"), [("en", r"\b(the|an?) "), ("es", r"\b(los|las|el|una?) ")]
)
def test_descriptions_take_no_article(language, article, monkeypatch):
    """Nobody says "the what you put under hot pots" or "los lo de fregar"."""
    monkeypatch.setattr(generation, "NAMED_SHARE", 1.0)
    rng = random.Random(language)
    rows = [row for _ in range(100) for row in generate_together(language, "train", rng, 4)]
    described = [
        (mention, row.text)
        for row in rows
        for mention in row.mentions
        if re.match(r"(what|where|the|lo|eso|donde|para)\b", mention)
    ]
    assert described
    assert not [
        text
        for mention, text in described
        if re.search(article + re.escape(mention), text, re.IGNORECASE)
    ]


def test_what_may_mean_a_listed_line_is_not_asked_for_in_vain():
    """With the brown bread gone, "brown bread" may be the brown bread with seeds."""
    lines = {line.name: line for lines in read_named("en") for line in lines}
    some = next(iter(lines.values()))
    seeded, plain, milk = (
        replace(some, name=name, base=name, family=name, exact=(read_phrase("en", way, way),))
        for name, way in (
            ("Pumpernickel", "brown bread with seeds"),
            ("Wholemeal Loaf", "brown bread"),
            ("Semi-Skimmed 2L", "green top"),
        )
    )
    for wish, count in ((plain, 0), (milk, 40)):
        catalog = Catalog([seeded, seeded], by_meaning=True, unlisted=[wish])
        draw = Draw("en", "train", random.Random(1), catalog)
        made = 0
        for _ in range(40):
            with suppress(DrawAgain):
                assert generation._wanted_in_vain(draw)[0] == wish
                made += 1
        assert made == count
