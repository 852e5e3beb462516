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
from itertools import pairwise

from training.cart.catalogs import LARGEST, RELISTED, SMALLEST, Catalog
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
"""A way of asking with more words is neither listed nor said with a brand."""
_VAGUE = {
    "thing", "things", "stuff", "bits", "stops", "keeps", "goes", "makes", "beeps",
    "ono", "onaj", "onu", "što", "sto", "cosa", "cosas", "eso", "algo", "que", "lo",
}  # fmt: skip
"""Words of descriptions."""
_CASED = {"u", "na", "za", "po", "pri", "o", "kroz", "niz", "uz"}
"""Croatian prepositions after which a word may well end in -u."""
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
    size = min(round(math.exp(rng.uniform(least, most))), LARGEST - len(lines))
    strangers: list[Product] = []
    for shop in rng.sample(read_named(language), min(_SHOPS, len(read_named(language)))):
        apart = [line for line in shop if taken.isdisjoint(stems[line.family])]
        kept = rng.sample(apart, min(len(apart), size - len(strangers)))
        strangers += kept
        taken.update(stem for line in kept for stem in stems[line.family])
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
    """The line as another shop prints it: by a name that people have for it, with a brand, in capitals.

    Nobody puts a brand to a description.
    """
    names = tuple(way for way in line.exact if _is_name(way))
    other = line
    listed = tuple(way for way in names if line.language != "hr" or _may_be_nominative(way))
    if listed and rng.random() < RELISTED:
        other = relist(replace(line, exact=listed), rng)
    if rng.random() < _RESTYLED:
        other = restyle(replace(other, exact=names), "train", rng)
        branded = [way for way in other.exact if way not in names]
        return replace(other, exact=(*line.exact, *branded))
    return replace(other, exact=line.exact)


def _is_name(way: NounPhrase) -> bool:
    """A short name and, as far as its words tell, no description."""
    words = way.nominative.casefold().split()
    return not way.described and len(words) <= _LISTED_WORDS and _VAGUE.isdisjoint(words)


def _may_be_nominative(way: NounPhrase) -> bool:
    """Whether a Croatian accusative looks like a nominative, too; some plurals that do are none."""
    words = way.nominative.casefold().split()
    genitive = len(words) > 1 and words[0].endswith(("og", "eg"))
    if genitive or words[0].endswith(("a", "u", "ove", "eve", "iće")):
        return False
    return all(joint in _CASED or not word.endswith("u") for joint, word in pairwise(words))


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
    if language == "hr":
        return _read_accusative(way)
    phrase = read_phrase(language, way, way)
    first = phrase.nominative.split()[0].casefold()
    return replace(
        phrase, described=first in _DESCRIBING or (way.startswith("p:") and language == "es")
    )


def _read_accusative(way: str) -> NounPhrase:
    """Croatian ways are written in the accusative alone, which is counted by a sign ("2x").

    Or with the gender and what stands behind 2 and behind 5: ``f:zveckicu|zveckice|zveckica``.
    """
    if "|" not in way:
        return NounPhrase(way, way, way, way, way, "m", plural_only=True, object_only=True)
    gender, _, forms = way.partition(":")
    one, few, many = forms.split("|")
    return NounPhrase(one, one, few, many, one, gender, plural_only=False, object_only=True)
