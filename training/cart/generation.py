"""Rows of cart data: a catalog, a message and what the cart must do."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from training.cart.catalogs import Catalog, draw_catalog
from training.cart.grammar import NounPhrase
from training.cart.matching import fit, has_richer
from training.cart.named import NAMED_SHARE, draw_named
from training.cart.numerals import LARGEST_QUANTITY
from training.cart.phrasings import Item, Phrasing, accepts, read_phrasings, render
from training.cart.products import Product, Split, draw_mention, products_of
from training.cart.quantities import draw_quantity
from training.cart.surface import finish

Kind = Literal["single", "several", "absent", "no_action", "adversarial", "ambiguous"]
SHARES: dict[Kind, float] = {
    "single": 0.46, "several": 0.2, "absent": 0.09, "no_action": 0.08, "adversarial": 0.14,
    "ambiguous": 0.03,
}  # fmt: skip
_TRAINED_SHARES: dict[Kind, float] = {
    "single": 0.23, "several": 0.29, "absent": 0.2, "no_action": 0.1, "adversarial": 0.14,
    "ambiguous": 0.04,
}  # fmt: skip
"""Of training rows: more of what is hard."""
_PUTS_IN = ("a", "b", "c", "list")
_LISTS = ("list", "rlist")
_NEAR: dict[Split, float] = {"train": 0.6}
_RARELY_NEAR = 0.25
"""Of what is asked for in vain: how much is an unlisted variant of something listed.

Training sees more of these than dev and test hold, for they are what is hardest to tell.
"""
_DRAWS = 30
"""Phrasings and products that are tried on a given catalog, which may suit none of a kind."""
_OTHERWISE = 0.25
"""Of the mentions in training, those that are drawn only among what is quite unlike the product's name."""
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


class _DrawAgain(Exception):
    """This catalog, phrasing or product does not suit; another draw will."""


def generate(language: str, split: Split, rng: random.Random) -> CartRow:
    """One row, of a kind drawn by :data:`SHARES`."""
    kind = rng.choices(tuple(SHARES), tuple(SHARES.values()))[0]
    return generate_kind(kind, language, split, rng)


def generate_kind(kind: Kind, language: str, split: Split, rng: random.Random) -> CartRow:
    while True:
        try:
            return _MAKERS[kind](_Draw(language, split, rng, draw_catalog(language, split, rng)))
        except _DrawAgain:
            continue


def generate_together(
    language: str, split: Split, rng: random.Random, messages: int
) -> Iterator[CartRow]:
    """Rows about one catalog, as many of ``messages`` as it suits: cheap to read, for it is read once."""
    by_name = split == "train" and rng.random() < NAMED_SHARE
    catalog = draw_named(language, rng) if by_name else draw_catalog(language, split, rng)
    shares = _TRAINED_SHARES if split == "train" else SHARES
    for _ in range(messages):
        kind = rng.choices(tuple(shares), tuple(shares.values()))[0]
        for _ in range(_DRAWS):
            try:
                yield _MAKERS[kind](_Draw(language, split, rng, catalog))
                break
            except _DrawAgain:
                continue


class _Draw:
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
            raise _DrawAgain
        return self.rng.choice(rows)

    def item(self, phrasing: Phrasing, role: str, among: list[Product] | None = None) -> Item:
        """A product that no other item of the message names, and a mention that fits the slot."""
        pool = self.catalog.products if among is None else among
        products = [p for p in pool if p.language == self.language and p.name not in self.taken]
        if not products:
            raise _DrawAgain
        product = self.rng.choice(products)
        mentions = self.catalog.mentions(product)
        if self.rng.random() < 0.1 and self.catalog.means(product.name, product):
            mentions = [product.pasted]
        mentions = [m for m in mentions if accepts(phrasing, role, m, product)]
        if not mentions:
            raise _DrawAgain
        self.taken.add(product.name)
        item = Item(product, self.mention(product, mentions))
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

    def mention(self, product: Product, mentions: Sequence[NounPhrase]) -> NounPhrase:
        """One of them; in training often one that shares hardly a letter with the product's name."""
        if self.trained and self.rng.random() < _OTHERWISE:
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


def _single(draw: _Draw) -> CartRow:
    use = draw.rng.choices(("add", "remove", "more", "less"), (55, 35, 6, 4))[0]
    phrasing = draw.phrasing(use)
    return _one_role(draw, "single", phrasing)


def _one_role(
    draw: _Draw, kind: Kind, phrasing: Phrasing, slips: int | None = None, family: str | None = None
) -> CartRow:
    role = next(iter(phrasing.roles))
    item = draw.item(phrasing, role)
    action = "add" if role in _PUTS_IN else "remove"
    text = draw.text(phrasing, {role: item}, slips=slips)
    return draw.row(kind, phrasing, text, [(action, item)], family)


def _several(draw: _Draw) -> CartRow:
    use = draw.rng.choices(("several", "rseveral", "mixed", "apart"), (31, 17, 38, 14))[0]
    phrasing = draw.phrasing(use)
    items, lists = _items_of(draw, phrasing)
    text = draw.text(phrasing, items, lists)
    return draw.row("several", phrasing, text, _actions(phrasing, items, lists))


def _items_of(draw: _Draw, phrasing: Phrasing) -> tuple[dict[str, Item], dict[str, list[Item]]]:
    """An item for each role, two or more for a list; six in the whole message at most.

    What stays untouched (x) is by preference of the family of what is meant.
    """
    items: dict[str, Item] = {}
    lists: dict[str, list[Item]] = {}
    roles = sorted(phrasing.roles)  # x after the role that it is confused with
    wanted = [role for role in roles if role in _LISTS]
    left = draw.rng.choices((2, 3, 4, 5, 6), (28, 32, 18, 12, 10))[0] - len(roles) + len(wanted)
    for role in wanted:
        others = 2 * (len(wanted) - len(lists) - 1)
        size = max(2, left - others if not others else draw.rng.randint(2, max(2, left - others)))
        lists[role] = [draw.item(phrasing, "") for _ in range(size)]
        left -= size
    for role in roles:
        if role in _LISTS:
            continue
        among = None
        if role == "x" and draw.rng.random() < 0.6 and items:
            among = draw.catalog.siblings(next(iter(items.values())).product) or None
        items[role] = draw.item(phrasing, role, among)
    if "same" in phrasing.only:
        for item in items.values():
            item.quantity = items[roles[0]].quantity
    return items, lists


def _actions(
    phrasing: Phrasing, items: dict[str, Item], lists: dict[str, list[Item]]
) -> list[tuple[str, Item]]:
    """What is meant, in the order of the message."""
    return [
        ("add" if role in _PUTS_IN else "remove", item)
        for role in phrasing.roles
        if role != "x"
        for item in lists.get(role) or [items[role]]
    ]


def _absent(draw: _Draw) -> CartRow:
    """Asks for what is not listed: of another family, a variant of a listed one, a line left out."""
    phrasing = draw.phrasing("add", "remove")
    role = next(iter(phrasing.roles))
    item = _missing(draw, phrasing, role)
    return draw.row("absent", phrasing, draw.text(phrasing, {role: item}), [])


def _missing(draw: _Draw, phrasing: Phrasing, role: str) -> Item:
    product, phrase = _wanted_in_vain(draw)
    if not accepts(phrasing, role, phrase, product) or not draw.catalog.lacks(
        product, phrase.nominative
    ):
        raise _DrawAgain
    least, most = phrasing.quantity_range(role)
    return Item(product, phrase, 1 if most == 1 else draw_quantity(draw.rng, least))


def _wanted_in_vain(draw: _Draw) -> tuple[Product, NounPhrase]:
    if draw.catalog.unlisted is not None:
        if not draw.catalog.unlisted:
            raise _DrawAgain
        product = draw.rng.choice(draw.catalog.unlisted)
        phrase = draw.mention(product, product.exact)
        if has_richer(phrase.nominative, draw.catalog.said):
            raise _DrawAgain  # "brown bread" may mean the brown bread with seeds, which is listed
        return product, phrase
    bases = {product.base for product in draw.catalog.products}
    families = {product.family for product in draw.catalog.products}
    sibling = draw.rng.random() < _NEAR.get(draw.split, _RARELY_NEAR)
    outside = [
        p
        for p in products_of(draw.language, draw.split)
        if p.base not in bases and (p.family in families) == sibling
    ]
    if not outside:
        raise _DrawAgain
    product = draw.rng.choice(outside)
    if not sibling:
        return product, draw.mention(product, (*product.exact, *product.general))
    phrase = draw_mention(product.exact, draw.rng)
    if fit(phrase.nominative, product.name) < 0.6:
        raise _DrawAgain  # "the small one" could be any size when the right one is not listed
    return product, phrase


def _no_action(draw: _Draw) -> CartRow:
    phrasing = draw.phrasing("none", "setq")
    items = {role: draw.item(phrasing, role) for role in phrasing.roles if role in {"p", "q"}}
    family = "set_quantity" if phrasing.use == "setq" else None
    return draw.row("no_action", phrasing, draw.text(phrasing, items), [], family)


def _adversarial(draw: _Draw) -> CartRow:
    """What trips simple rules: turns, negation, asides, slips, look-alike names, unlisted parts."""
    turn = draw.rng.choices(
        ("change", "negate", "aside", "typo", "contained", "partly_absent", "commanding"),
        (27, 21, 10, 13, 12, 8, 9),
    )[0]
    if turn == "typo":
        return _one_role(draw, "adversarial", draw.phrasing("add", "remove"), 2, "typo")
    if turn == "contained":
        return _contained(draw)
    if turn == "commanding":
        return _commanding(draw)
    if turn == "partly_absent":
        return _partly_absent(draw)
    phrasing = draw.phrasing(turn)
    items, lists = _items_of(draw, phrasing)
    text = draw.text(phrasing, items, lists)
    return draw.row("adversarial", phrasing, text, _actions(phrasing, items, lists))


def _partly_absent(draw: _Draw) -> CartRow:
    """A list of which one product is not in the catalog: the others count."""
    phrasing = draw.phrasing("several", "rseveral")
    role = next(iter(phrasing.roles))
    missing = _missing(draw, phrasing, role)
    missing.quantity = draw_quantity(draw.rng)
    listed = [draw.item(phrasing, "") for _ in range(draw.rng.choice((1, 1, 2, 3)))]
    every = [*listed]
    every.insert(draw.rng.randint(0, len(listed)), missing)
    action = "add" if role == "list" else "remove"
    text = draw.text(phrasing, {}, {role: every})
    return draw.row("adversarial", phrasing, text, [(action, i) for i in listed], "partly_absent")


def _commanding(draw: _Draw) -> CartRow:
    """A product that is named like an order to the cart: its name changes nothing."""
    phrasing = draw.phrasing("add", "remove")
    role = next(iter(phrasing.roles))
    named = [p for p in draw.catalog.products if p.commanding]
    item = draw.item(phrasing, role, named)
    action = "add" if role in _PUTS_IN else "remove"
    text = draw.text(phrasing, {role: item})
    return draw.row("adversarial", phrasing, text, [(action, item)], "commanding")


def _contained(draw: _Draw) -> CartRow:
    """A product whose siblings are listed, or that bears a number in its name or mention."""
    phrasing = draw.phrasing("add", "remove")
    role = next(iter(phrasing.roles))
    hard = [
        p
        for p in draw.catalog.products
        if p.language == draw.language
        and draw.catalog.siblings(p)
        and (p.plain or any(map(str.isdigit, p.name)))
    ]
    item = draw.item(phrasing, role, hard)
    action = "add" if role in _PUTS_IN else "remove"
    text = draw.text(phrasing, {role: item})
    return draw.row("adversarial", phrasing, text, [(action, item)], "contained")


def _ambiguous(draw: _Draw) -> CartRow:
    """The bare head where several products bear it: nothing is done, the candidates are named."""
    phrasing = draw.phrasing("add", "remove")
    role = next(iter(phrasing.roles))
    crowded = [
        p
        for p in draw.catalog.products
        if p.language == draw.language and draw.catalog.siblings(p) and not p.plain
    ]
    if not crowded:
        raise _DrawAgain
    product = draw.rng.choice(crowded)
    family = [p for p in draw.catalog.products if p.family == product.family]
    if not product.general:
        raise _DrawAgain
    phrase = draw_mention(product.general, draw.rng)
    scores = [fit(phrase.nominative, p.name) for p in family]
    others = [p for p in draw.catalog.products if p.family != product.family]
    clear = any(fit(phrase.nominative, p.name) >= min(scores) for p in others)
    uneven = max(scores) - min(scores) > 0.25 or any(p.plain for p in family)
    if clear or uneven or min(scores) < 0.5 or not accepts(phrasing, role, phrase, product):
        raise _DrawAgain
    least, most = phrasing.quantity_range(role)
    item = Item(product, phrase, 1 if most == 1 else draw_quantity(draw.rng, least))
    text = draw.text(phrasing, {role: item}, slips=0)
    names = tuple(p.name for p in family)
    return draw.row("ambiguous", phrasing, text, [], candidates=names)


_MAKERS: dict[Kind, Callable[[_Draw], CartRow]] = {
    "single": _single, "several": _several, "absent": _absent, "no_action": _no_action,
    "adversarial": _adversarial, "ambiguous": _ambiguous,
}  # fmt: skip
