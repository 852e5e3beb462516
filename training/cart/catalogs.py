"""Catalogs of 5 to 60 products around those that a message is about."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from collections.abc import Set as AbstractSet

from training.cart.grammar import NounPhrase
from training.cart.matching import fit
from training.cart.products import Product, Split, products_of, relist, restyle
from training.examples import LANGUAGES

SMALLEST, LARGEST = 5, 60
RELISTED = 0.3
"""Of the products in training, those that stand under another of the names that people have for them."""
STRAY_FIT = 0.6
"""From here on a mention looks as if it meant a product, whatever it was written for."""


class Catalog:
    """What a shop lists, as one message sees it.

    If ``by_meaning``, hand-written mentions are believed where they look like nothing listed ("q-tips"
    beside "Cotton Swabs"). Otherwise a mention must look most like its own product: so dev and test were
    drawn up, which keeps real synonyms out of them. ``unlisted`` are products that are asked for in vain;
    None: any of other families.
    """

    def __init__(
        self,
        products: Sequence[Product],
        *,
        by_meaning: bool = False,
        unlisted: Sequence[Product] | None = None,
    ) -> None:
        self.products = tuple(products)
        self.unlisted = unlisted
        self.names = tuple(product.name for product in products)
        self.by_meaning = by_meaning
        self._families: dict[str, set[str]] = {}
        for product in self.products if by_meaning else ():
            for phrase in (*product.exact, *product.general):
                self._families.setdefault(phrase.nominative.casefold(), set()).add(product.family)

    def siblings(self, product: Product) -> list[Product]:
        """Others of the same family."""
        return [p for p in self.products if p.family == product.family and p.name != product.name]

    def mentions(self, product: Product) -> list[NounPhrase]:
        """Phrases that mean this product and no other of the catalog."""
        alone = not self.siblings(product)
        phrases = [*product.exact, *(product.general if alone or product.plain else ())]
        return [phrase for phrase in phrases if self.means(phrase.nominative, product)]

    def means(self, mention: str, product: Product) -> bool:
        """Whether no other product fits the mention better.

        A product of another family may not even fit as well. Within the family the hand-written
        mention tells them apart, and the trigrams may only not contradict it.
        """
        if self._families.get(mention.casefold(), {product.family}) != {product.family}:
            return False
        own = fit(mention, product.name)
        least = max(own, STRAY_FIT) if self.by_meaning else own
        for other in self.products:
            if other.name == product.name:
                continue
            score = fit(mention, other.name)
            related = other.family == product.family
            if score > own + 0.05 if related else score >= least:
                return False
        return True

    def called(self, mention: str) -> AbstractSet[str]:
        """Families of which a product has that name, where names are believed."""
        return self._families.get(mention.casefold(), frozenset())

    @property
    def said(self) -> tuple[str, ...]:
        """Everything that its products are called, where that is believed."""
        return tuple(self._families)

    def lacks(self, product: Product, mention: str) -> bool:
        """Whether a mention of a product from outside fits nothing here."""
        if mention.casefold() in self._families:
            return False
        for other in self.products:
            score = fit(mention, other.name)
            if self.by_meaning:  # whatever name it is listed under
                score = max(score, fit(mention, other.base))
            if other.family == product.family:
                if score > 0.75 * fit(mention, product.name):
                    return False
            elif score >= STRAY_FIT:
                return False
        return True


def draw_catalog(
    language: str, split: Split, rng: random.Random, *, without: str | None = None
) -> Catalog:
    """Some whole or partial families as hard distractors, the rest at random.

    Every tenth catalog lists some products in the other languages, as real shops do. ``without``
    keeps a family out.
    """
    pool = [p for p in products_of(language, split) if p.family != without]
    most = min(LARGEST, len(pool) - 2)
    size = round(math.exp(rng.uniform(math.log(SMALLEST), math.log(most))))
    chosen: dict[str, Product] = {}
    for family in rng.sample(sorted({p.family for p in pool}), rng.randint(1, max(1, size // 8))):
        members = [p for p in pool if p.family == family]
        for product in rng.sample(members, min(len(members), max(2, size - len(chosen)))):
            chosen[product.base] = product
    others = [p for p in pool if p.base not in chosen]
    for product in rng.sample(others, max(0, min(len(others), size - len(chosen)))):
        chosen[product.base] = product
    listed = list(chosen.values())[:size]
    if rng.random() < 0.1:
        listed = _mix_languages(listed, language, split, rng)
    styled: dict[str, Product] = {}
    for product in listed:
        other = product
        if split == "train" and not product.commanding and rng.random() < RELISTED:
            other = relist(product, rng)
        other = restyle(other, split, rng) if rng.random() < 0.7 else other
        styled.setdefault(other.name.casefold(), other)
    products = list(styled.values())
    rng.shuffle(products)
    return Catalog(products, by_meaning=split == "train")


def _mix_languages(
    listed: list[Product], language: str, split: Split, rng: random.Random
) -> list[Product]:
    """Up to a third in other languages; of families that are listed in the own one, none."""
    other = rng.choice([code for code in LANGUAGES if code != language])
    families = {product.family for product in listed}
    strangers = [p for p in products_of(other, split) if p.family not in families]
    count = min(len(strangers), len(listed) // 3)
    return [*listed[: len(listed) - count], *rng.sample(strangers, count)]
