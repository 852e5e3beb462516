"""The products that catalogs are drawn from, and how people call them."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal, TypeAlias

from training.cart.grammar import NounPhrase, read_phrase
from training.examples import read_rows

DATA = Path(__file__).parents[1] / "data" / "cart"

Split: TypeAlias = Literal["train", "dev", "test"]

# Invented, so that no shop's brand is trained on; a brand occurs on one side of the splits only.
_BRANDS: dict[Split, tuple[str, ...]] = {
    "train": ("Nordika", "Velmo", "Zeba", "Lumar", "Kresna", "Ondava", "Tivoli", "Marabel",
              "Casa Lin", "Ribnica", "Fenno", "Pico&Co", "Solana", "Bruma", "Alt7", "Drava",
              "Palma", "Korzo", "Brightmoor", "Lunera", "Zvono", "Atlas&Co", "Sombra", "Veka"),
    "dev": ("Kolibri", "Harma", "Ostrea", "Jota", "Mirna", "Elmsbury"),
    "test": ("Vitanova", "Grana", "Plavka", "Teruel", "Oakfold", "Zirra", "Moka2", "Lindesa"),
}  # fmt: skip
_RARELY = 0.12
_NUMBER = r"\d+(?:[.,]\d+)?"
_SIZE = re.compile(
    rf"(?<![\d.,/–-])({_NUMBER})(?: ?[x×/–-] ?{_NUMBER})* ?"
    r"(?:ml|cl|dl|l|mg|g|kg|mm|cm|m|w|v|gb|pcs|kom|uds)\b",
    re.IGNORECASE,
)
"""``100 g``, ``6 x 0,15 l``, ``60-120 L``; the first number is a group."""


@dataclass(frozen=True, slots=True)
class Product:
    """A catalog line and its mentions.

    ``family`` is the concept that its head noun names, shared by the three languages: a family
    stands on one side of the splits. ``plain`` products are what the bare head means even beside
    others of the family. ``general`` mentions are the head alone (none where nobody would
    call it that: a fountain pen is no "kemijska"), ``exact`` ones tell it from its family.
    ``commanding`` products are named like an order to the cart ("Remove All Stain Remover").
    """

    name: str
    base: str
    language: str
    family: str
    trade: str
    split: Split
    units: tuple[str, ...]
    plain: bool
    general: tuple[NounPhrase, ...]
    exact: tuple[NounPhrase, ...]
    commanding: bool = False

    @property
    def pasted(self) -> NounPhrase:
        """The name as the catalog spells it, copied into a sentence unchanged."""
        model = self.exact[0]
        counted = not (model.plural_only or model.object_only)
        return NounPhrase.of([self.name] * 5, model.gender, plural_only=not counted)


@cache
def read_products(language: str) -> tuple[Product, ...]:
    """The hand-written products of a language."""
    products = []
    for row in read_rows(DATA / f"products.{language}.jsonl"):
        heads = row["heads"]
        exact = [
            read_phrase(language, mention, head)
            for mention in row["mentions"]
            for head in (heads if "{}" in mention else heads[:1])
        ]
        products.append(
            Product(
                name=row["name"],
                base=row["name"],
                language=language,
                family=row["family"],
                trade=row["trade"],
                split=row["split"],
                units=_units(row["name"], row.get("units", ())),
                plain=row.get("plain", False),
                general=tuple(
                    read_phrase(language, head, head)
                    for head in heads
                    if row.get("called_by_head", True)
                ),
                exact=tuple(exact),
                commanding=row.get("commanding", False),
            )
        )
    return tuple(products)


def products_of(language: str, split: Split) -> list[Product]:
    return [product for product in read_products(language) if product.split == split]


def draw_mention(phrases: Sequence[NounPhrase], rng: random.Random) -> NounPhrase:
    """One of them, a rare one seldom."""
    return rng.choices(phrases, [_RARELY if phrase.rare else 1 for phrase in phrases])[0]


def _units(name: str, units: list[str] | tuple[str, ...]) -> tuple[str, ...]:
    """Units in which the product can be counted: none that its name contradicts."""
    lowered = name.casefold()
    if any(mark in lowered for mark in ("pack", " x ", "3 para", "2 uds", "10 pcs", "10 kom")):
        return ()
    named = tuple(unit for unit in units if unit in lowered)
    return named or tuple(units)


def relist(product: Product, rng: random.Random) -> Product:
    """The product as a shop lists it that calls it by what people say elsewhere, with its size.

    "Paper Towels 4 rolls" stands as "Kitchen roll, recycled": the same words, asked for and listed the
    other way round. Only mentions that tell it from its family are taken.
    """
    listed = draw_mention(product.exact, rng).nominative
    size = _SIZE.search(product.name)
    if size and not re.search(rf"(?<![\d.,]){re.escape(size[1])}(?![.,]?\d)", listed):
        listed = f"{listed} {size[0]}"
    return replace(product, name=listed[0].upper() + listed[1:])


def restyle(product: Product, split: Split, rng: random.Random) -> Product:
    """The product as another shop would list it: other spacing, brackets, capitals, a brand."""
    name, exact = product.name, product.exact
    if rng.random() < 0.3:
        brand = rng.choice(_BRANDS[split])
        name = f"{brand} {name}" if rng.random() < 0.7 else f"{name}, {brand}"
        branded = tuple(_with_brand(phrase, brand, product.language) for phrase in exact)
        exact = (*exact, *branded)
    if rng.random() < 0.2:
        name = name.replace(" (", ", ").replace(")", "")
    if rng.random() < 0.2:
        name = _respace(name)
    if rng.random() < 0.04:
        name = name.upper()
    return replace(product, name=name, exact=exact)


def _with_brand(phrase: NounPhrase, brand: str, language: str) -> NounPhrase:
    return phrase.add(before=brand) if language == "en" else phrase.add(after=brand)


def _respace(name: str) -> str:
    for unit in ("ml", "g", "kg", "L", "cm", "mm", "GB", "W", "V", "m"):
        for digit in "0123456789":
            together, apart = f"{digit}{unit}", f"{digit} {unit}"
            if name.endswith((together, apart)):
                stem = name[: -len(apart)] if name.endswith(apart) else name[: -len(together)]
                return stem + (together if name.endswith(apart) else apart)
    return name
