"""Catalogs as shops print them, with the ways in which people ask for each of their lines.

Families of products (:mod:`training.cart.products`) stand in any catalog, so what is said of them must hold
in all. Here a way of asking need only tell a line from the others of its own catalog: "the thing for
under hot pots". The sentences are the same.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from functools import cache

from training.cart.catalogs import SMALLEST, Catalog
from training.cart.grammar import NounPhrase, read_phrase
from training.cart.matching import has_richer
from training.cart.products import DATA, Product
from training.examples import read_rows

NAMED = DATA / "named"
NAMED_SHARE = 0.35
"""Of the catalogs that training rows are generated for."""
_DESCRIBING = {
    "what", "where", "something", "somewhere", "the", "a", "an", "my", "that", "those",
    "lo", "la", "el", "los", "las", "eso", "esos", "esa", "esas", "donde", "para", "algo", "cosa",
}  # fmt: skip
"""Words that begin what takes no article."""


def draw_named(language: str, rng: random.Random) -> Catalog:
    """A catalog without some of its lines, which may be asked for in vain."""
    lines = rng.choice(read_named(language))
    listed = rng.sample(lines, rng.randint(SMALLEST, len(lines) - 1))
    names = [line.name for line in listed]
    unlisted = [p for p in lines if p not in listed and not has_richer(p.name, names)]
    return Catalog(listed, by_meaning=True, unlisted=unlisted)


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
