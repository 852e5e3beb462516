"""What a row of cart data is drawn from: a catalog's products, their mentions and a sentence for them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from training.cart.catalogs import Catalog
from training.cart.grammar import NounPhrase
from training.cart.matching import fit
from training.cart.numerals import LARGEST_QUANTITY
from training.cart.phrasings import Item, Phrasing, accepts, read_phrasings, render
from training.cart.products import Product, Split, draw_mention
from training.cart.quantities import draw_quantity
from training.cart.surface import finish

Kind = Literal["single", "several", "absent", "no_action", "adversarial", "ambiguous"]
_OTHERWISE = 0.25
"""Of the mentions in training, those that are drawn only among what is quite unlike the product's name."""
_OTHERWISE_IN_VAIN = 0.5
"""The same of what is not listed: else an odd word would tell that its product is listed."""
_UNLIKE = 0.25
"""Below this share of common trigrams a mention has to be understood, for it can hardly be matched."""
_IN_CONTEXT = 0.13  # of the messages have a sentence before, and as many one after


@dataclass(frozen=True, slots=True)
class CartRow:
    """A labelled message. ``mentions`` stand beside ``actions``, in the order of the message.

    ``family`` tells the phrasing and ``heldout`` whether it is one that is not trained on.
    ``candidates`` are the products that an ambiguous mention fits equally.
    """

    catalog: tuple[str, ...]
    text: str
    actions: tuple[dict[str, Any], ...]
    language: str
    kind: Kind
    family: str
    heldout: bool
    mentions: tuple[str, ...] = ()
    candidates: tuple[str, ...] = field(default=())


class DrawAgain(Exception):
    """This catalog, phrasing or product does not suit; another draw will."""


class Draw:
    """What one row is drawn from."""

    def __init__(self, language: str, split: Split, rng: random.Random, catalog: Catalog) -> None:
        self.language = language
        self.split = split
        self.rng = rng
        self.catalog = catalog
        self.taken: set[str] = set()
        self.trained = split == "train"
        self.phrasings = read_phrasings(language, late=self.trained)

    def phrasing(self, *uses: str) -> Phrasing:
        """Training sees no held-out phrasing; dev and test take every second row from those."""
        weights = [len(self.phrasings[use]) for use in uses]
        rows = self.phrasings[self.rng.choices(uses, weights)[0]]
        heldout = not self.trained and self.rng.random() < 0.5
        rows = tuple(row for row in rows if row.heldout == heldout) or rows
        if self.trained:
            rows = tuple(row for row in rows if not row.heldout)
        if not rows:
            raise DrawAgain
        return self.rng.choice(rows)

    def item(self, phrasing: Phrasing, role: str, among: list[Product] | None = None) -> Item:
        """A product that no other item of the message names, and a mention that fits the slot."""
        pool = self.catalog.products if among is None else among
        products = [p for p in pool if p.language == self.language and p.name not in self.taken]
        if not products:
            raise DrawAgain
        product = self.rng.choice(products)
        mentions = self.catalog.mentions(product)
        if self.rng.random() < 0.1 and self.catalog.means(product.name, product):
            mentions = [product.pasted]
        mentions = [m for m in mentions if accepts(phrasing, role, m, product)]
        if not mentions:
            raise DrawAgain
        self.taken.add(product.name)
        item = Item(product, self.mention(product, mentions), freely=self.trained)
        if role in phrasing.roles:
            least, most = phrasing.quantity_range(role)
            item.quantity = 1 if most == 1 else draw_quantity(self.rng, least)
        else:
            item.quantity = draw_quantity(self.rng)
        while item.taken_back == item.quantity:
            item.taken_back = draw_quantity(self.rng)
        if "oldn" in phrasing.roles.get(role, ()) and item.taken_back == 1:
            item.taken_back = min(item.quantity + 1, LARGEST_QUANTITY - 1)
        return item

    def mention(
        self, product: Product, mentions: Sequence[NounPhrase], *, in_vain: bool = False
    ) -> NounPhrase:
        """One of them; in training often one that shares hardly a letter with the product's name."""
        otherwise = _OTHERWISE_IN_VAIN if in_vain else _OTHERWISE
        if self.trained and self.rng.random() < otherwise:
            mentions = [
                m for m in mentions if fit(m.nominative, product.name) < _UNLIKE
            ] or mentions
        return draw_mention(mentions, self.rng)

    def text(
        self,
        phrasing: Phrasing,
        items: dict[str, Item],
        lists: dict[str, list[Item]] | None = None,
        slips: int | None = None,
    ) -> str:
        written = render(self.language, phrasing, items, lists or {}, self.rng)
        written = self._in_context(written, phrasing)
        if slips is None:
            slips = 1 if self.rng.random() < 0.1 else 0
        return finish(written, self.language, self.rng, slips)

    def _in_context(self, written: str, phrasing: Phrasing) -> str:
        """Now and then with what people tell besides, held out where the phrasing is."""
        for use in ("before", "after"):
            if self.rng.random() >= _IN_CONTEXT:
                continue
            lines = [row.text for row in self.phrasings[use] if row.heldout == phrasing.heldout]
            line = self.rng.choice(lines)
            if use == "before":
                written = f"{line}{self.rng.choice((' ', ' ', ' ', chr(10)))}{written}"
            else:
                joint = "\n" if "\n" in written else self.rng.choice((" ", ". ", ", ", " - ", "\n"))
                written = f"{written.rstrip('.')}{joint if written[-1] not in '?!' else ' '}{line}"
        return written

    def row(
        self,
        kind: Kind,
        phrasing: Phrasing,
        text: str,
        actions: list[tuple[str, Item]],
        family: str | None = None,
        candidates: tuple[str, ...] = (),
    ) -> CartRow:
        return CartRow(
            catalog=self.catalog.names,
            text=text,
            actions=tuple(
                {"action": action, "product": item.product.name, "quantity": item.quantity}
                for action, item in actions
            ),
            language=self.language,
            kind=kind,
            family=f"{family}:{phrasing.identity}" if family else phrasing.identity,
            heldout=phrasing.heldout,
            mentions=tuple(item.mention for _, item in actions),
            candidates=candidates,
        )
