"""Catalogs as shops print them, with the ways in which people ask for each of their lines.

Families of products (:mod:`training.cart.products`) stand in any catalog, so what is said of them must hold
in all. Here a way of asking need only tell a line from the others of its own catalog: "the thing for
under hot pots". The sentences are the same. Lines of other catalogs may stand beside them that no word
has in common with theirs.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache

from training.cart.catalogs import RELISTED, SMALLEST, Catalog
from training.cart.grammar import NounPhrase, read_phrase
from training.cart.matching import has_richer
from training.cart.products import DATA, Product, relist, restyle
from training.examples import read_rows
from training.noise import without_diacritics

NAMED = DATA / "named"
NAMED_SHARE = 0.4
"""Of the catalogs that training rows are generated for."""
_JOINED = 0.5
"""Of these, those that list things of other shops too, as a supermarket does."""
_STRANGERS = 3, 30
_SHOPS = 6
_RESTYLED = 0.5
_LISTED_WORDS = 3
"""A line in a shop has no more words than this when it is one of the ways of asking for it."""
_VAGUE = {"thing", "things", "stuff", "bits", "ono", "onaj", "onu", "cosa", "cosas", "eso", "algo"}
_STEM = 4
_JOINTS = {
    "for", "the", "thin", "with", "that", "stuf", "and", "you", "your", "what", "from", "when",
    "one", "ones",
    "ono", "onu", "sto", "kad", "kom", "bez",
    "para", "que", "con", "del", "los", "las", "dond", "sin", "por", "cuan",
}  # fmt: skip
"""Beginnings of words that say nothing of what is meant."""
_DESCRIBING = {
    "what", "where", "something", "somewhere", "the", "a", "an", "my", "that", "those",
    "lo", "la", "el", "los", "las", "eso", "esos", "esa", "esas", "donde", "para", "algo", "cosa",
}  # fmt: skip
"""Words that begin what takes no article."""


def draw_named(language: str, rng: random.Random) -> Catalog:
    """A catalog without some of its lines, which may be asked for in vain."""
    lines = rng.choice(read_named(language))
    listed = rng.sample(lines, rng.randint(SMALLEST, len(lines) - 1))
    unlisted = [line for line in lines if line not in listed]
    if rng.random() < _JOINED:
        listed += _strangers(language, lines, rng)
        rng.shuffle(listed)
    styled: dict[str, Product] = {}
    for line in listed:
        other = _restyle(line, rng)
        styled.setdefault(other.name.casefold(), other)
    names = [name for line in styled.values() for name in (line.name, line.base)]
    unlisted = [line for line in unlisted if not has_richer(line.name, names)]
    return Catalog(list(styled.values()), by_meaning=True, unlisted=unlisted)


def _strangers(language: str, lines: Sequence[Product], rng: random.Random) -> list[Product]:
    """Lines of other shops that have no word in common with these, whatever people call them.

    A thing that both shops list has several names in each, and hardly without a common word.
    """
    stems = _stems(language)
    taken = {stem for line in lines for stem in stems[line.family]}
    least, most = map(math.log, _STRANGERS)
    size = round(math.exp(rng.uniform(least, most)))
    strangers: list[Product] = []
    for shop in rng.sample(read_named(language), min(_SHOPS, len(read_named(language)))):
        apart = [line for line in shop if taken.isdisjoint(stems[line.family])]
        strangers += apart[: size - len(strangers)]
        taken.update(stem for line in apart for stem in stems[line.family])
    return strangers


@cache
def _stems(language: str) -> Mapping[str, frozenset[str]]:
    """By family: how the words begin that a line is listed and asked for with."""
    return {
        line.family: frozenset(
            stem
            for text in (
                line.name,
                *(form for way in line.exact for form in (way.nominative, way.many)),
            )
            for stem in _beginnings(text)
        )
        for shop in read_named(language)
        for line in shop
    }


def _beginnings(text: str) -> set[str]:
    words = re.findall(r"[^\W\d_]{3,}", without_diacritics(text.casefold()))
    return {word[:_STEM] for word in words} - _JOINTS


def _restyle(line: Product, rng: random.Random) -> Product:
    """The line as another shop prints it: by a name that people have for it, with a brand, in capitals."""
    if rng.random() < RELISTED:
        names = tuple(way for way in line.exact if _may_be_listed(way, line.language))
        if names:
            line = replace(relist(replace(line, exact=names), rng), exact=line.exact)
    return restyle(line, "train", rng) if rng.random() < _RESTYLED else line


def _may_be_listed(way: NounPhrase, language: str) -> bool:
    """A short name and no description. Of Croatian accusatives, what looks like a nominative."""
    words = way.nominative.split()
    if way.described or len(words) > _LISTED_WORDS or not _VAGUE.isdisjoint(words):
        return False
    return language != "hr" or not words[0].casefold().endswith(("a", "u"))


@cache
def read_named(language: str) -> tuple[tuple[Product, ...], ...]:
    """The lines of each catalog of ``named/<language>.jsonl``, every one a family of its own."""
    return tuple(
        tuple(
            _line(f"{language}-{number}-{place}", name, ways, language)
            for place, (name, ways) in enumerate(row["lines"])
        )
        for number, row in enumerate(read_rows(NAMED / f"{language}.jsonl"))
    )


def _line(family: str, name: str, ways: Sequence[str], language: str) -> Product:
    return Product(
        name=name, base=name, language=language, family=family, trade="any", split="train", units=(),
        plain=False, general=(), exact=tuple(_read(way, language) for way in ways),
    )  # fmt: skip


def _read(way: str, language: str) -> NounPhrase:
    """Croatian ways are written in the accusative alone, which is counted by a sign ("2x")."""
    if language == "hr":
        return NounPhrase(way, way, way, way, way, "m", plural_only=True, object_only=True)
    phrase = read_phrase(language, way, way)
    first = phrase.nominative.split()[0].casefold()
    return replace(
        phrase, described=first in _DESCRIBING or (way.startswith("p:") and language == "es")
    )
