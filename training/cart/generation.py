"""Rows of cart data: a catalog, a message and what the cart must do."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import suppress

from training.cart.catalogs import STRAY_FIT, draw_catalog
from training.cart.drawing import CartRow, Draw, DrawAgain, Kind
from training.cart.each import each_of
from training.cart.grammar import NounPhrase
from training.cart.matching import fit, has_richer
from training.cart.named import NAMED_SHARE, draw_named
from training.cart.numerals import LARGEST_QUANTITY
from training.cart.phrasings import Item, Phrasing, accepts
from training.cart.products import Product, Split, draw_mention, products_of
from training.cart.quantities import draw_quantity

SHARES: dict[Kind, float] = {
    "single": 0.46, "several": 0.2, "absent": 0.09, "no_action": 0.08, "adversarial": 0.14,
    "ambiguous": 0.03,
}  # fmt: skip
_TRAINED_SHARES: dict[Kind, float] = {
    "single": 0.2, "several": 0.29, "absent": 0.19, "no_action": 0.09, "adversarial": 0.17,
    "ambiguous": 0.06,
}  # fmt: skip
"""Of training rows: more of what is hard. Most catalogs, all named ones among them, have nothing that is
ambiguous, so such rows come out fewer."""
_PUTS_IN = ("a", "b", "c", "list")
_LISTS = ("list", "rlist")
_NEAR: dict[Split, float] = {"train": 0.6}
_RARELY_NEAR = 0.25
"""Of what is asked for in vain: how much is an unlisted variant of something listed.

Training sees more of these than dev and test hold, for they are what is hardest to tell.
"""
_EACH = 0.2
"""Of the messages with several actions, in training: how often each of what bears one name is wanted,
if the catalog has such a name. Most have none, named ones never: one in five of these comes out.
"""
_MOST_EACH = 4
"""Products of one name: with the others of a list no more than six actions."""
_MOST = LARGEST_QUANTITY // 2
_RELATED: dict[str, Callable[[int], tuple[int, int]]] = {
    "same": lambda number: (number, number),
    "double": lambda number: (min(number, _MOST), 2 * min(number, _MOST)),
    "half": lambda number: (2 * min(number, _MOST), min(number, _MOST)),
    "more": lambda number: (min(number, _MOST), min(number, _MOST) + 1),
    "fewer": lambda number: (min(number, _MOST) + 1, min(number, _MOST)),
}
"""How many of the first and of the others, where only one number is told ("twice as many")."""
_WHOLE = {"", "it", "is", "was", "lo"}
"""Forms of a slot that a whole wish ("two of each tea") can fill, or that agree with it."""
_DRAWS = 30
"""Phrasings and products that are tried on a given catalog, which may suit none of a kind."""


def generate(language: str, split: Split, rng: random.Random) -> CartRow:
    """One row, of a kind drawn by :data:`SHARES`."""
    kind = rng.choices(tuple(SHARES), tuple(SHARES.values()))[0]
    return generate_kind(kind, language, split, rng)


def generate_kind(kind: Kind, language: str, split: Split, rng: random.Random) -> CartRow:
    while True:
        try:
            return _MAKERS[kind](Draw(language, split, rng, draw_catalog(language, split, rng)))
        except DrawAgain:
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
                yield _MAKERS[kind](Draw(language, split, rng, catalog))
                break
            except DrawAgain:
                continue


def _single(draw: Draw) -> CartRow:
    use = draw.rng.choices(("add", "remove", "more", "less"), (55, 35, 6, 4))[0]
    phrasing = draw.phrasing(use)
    return _one_role(draw, "single", phrasing)


def _one_role(
    draw: Draw, kind: Kind, phrasing: Phrasing, slips: int | None = None, family: str | None = None
) -> CartRow:
    role = next(iter(phrasing.roles))
    item = draw.item(phrasing, role)
    action = "add" if role in _PUTS_IN else "remove"
    text = draw.text(phrasing, {role: item}, slips=slips)
    return draw.row(kind, phrasing, text, [(action, item)], family)


def _several(draw: Draw) -> CartRow:
    if draw.trained and draw.rng.random() < _EACH:
        with suppress(DrawAgain):
            return _each(draw)
        draw.taken.clear()
    use = draw.rng.choices(("several", "rseveral", "mixed", "apart"), (31, 17, 38, 14))[0]
    phrasing = draw.phrasing(use)
    items, lists = _items_of(draw, phrasing)
    text = draw.text(phrasing, items, lists)
    return draw.row("several", phrasing, text, _actions(phrasing, items, lists))


def _items_of(draw: Draw, phrasing: Phrasing) -> tuple[dict[str, Item], dict[str, list[Item]]]:
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
    for word, numbers in _RELATED.items():
        if word in phrasing.only:
            first, *rest = items.values()
            first.quantity, by_it = numbers(first.quantity)
            for other in rest:
                other.quantity = by_it
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


def _absent(draw: Draw) -> CartRow:
    """Asks for what is not listed: of another family, a variant of a listed one, a line left out."""
    phrasing = draw.phrasing("add", "remove")
    role = next(iter(phrasing.roles))
    item = _missing(draw, phrasing, role)
    return draw.row("absent", phrasing, draw.text(phrasing, {role: item}), [])


def _missing(draw: Draw, phrasing: Phrasing, role: str) -> Item:
    product, phrase = _wanted_in_vain(draw)
    if not accepts(phrasing, role, phrase, product) or not draw.catalog.lacks(
        product, phrase.nominative
    ):
        raise DrawAgain
    least, most = phrasing.quantity_range(role)
    return Item(product, phrase, 1 if most == 1 else draw_quantity(draw.rng, least))


def _wanted_in_vain(draw: Draw) -> tuple[Product, NounPhrase]:
    if draw.catalog.unlisted is not None:
        if not draw.catalog.unlisted:
            raise DrawAgain
        product = draw.rng.choice(draw.catalog.unlisted)
        phrase = draw.mention(product, product.exact)
        if has_richer(phrase.nominative, draw.catalog.said):
            raise DrawAgain  # "brown bread" may mean the brown bread with seeds, which is listed
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
        raise DrawAgain
    product = draw.rng.choice(outside)
    if not sibling:
        mentions = (*product.exact, *product.general)
        return product, draw.mention(product, mentions, in_vain=True)
    phrase = draw_mention(product.exact, draw.rng)
    if fit(phrase.nominative, product.name) < 0.6:
        raise DrawAgain  # "the small one" could be any size when the right one is not listed
    return product, phrase


def _no_action(draw: Draw) -> CartRow:
    phrasing = draw.phrasing("none", "setq")
    items = {role: draw.item(phrasing, role) for role in phrasing.roles if role in {"p", "q"}}
    family = "set_quantity" if phrasing.use == "setq" else None
    return draw.row("no_action", phrasing, draw.text(phrasing, items), [], family)


def _adversarial(draw: Draw) -> CartRow:
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


def _partly_absent(draw: Draw) -> CartRow:
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


def _commanding(draw: Draw) -> CartRow:
    """A product that is named like an order to the cart: its name changes nothing."""
    phrasing = draw.phrasing("add", "remove")
    role = next(iter(phrasing.roles))
    named = [p for p in draw.catalog.products if p.commanding]
    item = draw.item(phrasing, role, named)
    action = "add" if role in _PUTS_IN else "remove"
    text = draw.text(phrasing, {role: item})
    return draw.row("adversarial", phrasing, text, [(action, item)], "commanding")


def _contained(draw: Draw) -> CartRow:
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


def _ambiguous(draw: Draw) -> CartRow:
    """The bare head where several products bear it: nothing is done, the candidates are named."""
    phrasing = draw.phrasing("add", "remove")
    role = next(iter(phrasing.roles))
    product, family, phrase = _common_name(draw)
    if not accepts(phrasing, role, phrase, product):
        raise DrawAgain
    least, most = phrasing.quantity_range(role)
    item = Item(product, phrase, 1 if most == 1 else draw_quantity(draw.rng, least))
    text = draw.text(phrasing, {role: item}, slips=0)
    names = tuple(p.name for p in family)
    return draw.row("ambiguous", phrasing, text, [], candidates=names)


def _common_name(draw: Draw) -> tuple[Product, list[Product], NounPhrase]:
    """A product, all that are listed of its family, and a bare head that fits these and nothing else."""
    crowded = [
        p
        for p in draw.catalog.products
        if p.language == draw.language and draw.catalog.siblings(p) and not p.plain
    ]
    if not crowded:
        raise DrawAgain
    product = draw.rng.choice(crowded)
    family = [p for p in draw.catalog.products if p.family == product.family]
    if not product.general:
        raise DrawAgain
    phrase = draw_mention(product.general, draw.rng)
    scores = [fit(phrase.nominative, p.name) for p in family]
    others = [p for p in draw.catalog.products if p.family != product.family]
    clear = any(fit(phrase.nominative, p.name) >= min(scores) for p in others)
    uneven = max(scores) - min(scores) > 0.25 or any(p.plain for p in family)
    if clear or uneven or min(scores) < 0.5:
        raise DrawAgain
    return product, family, phrase


def _each(draw: Draw) -> CartRow:
    """Each product that bears one name, alone or at the end of a list: "a mug and two of each tea"."""
    for _ in range(_DRAWS):
        with suppress(DrawAgain):
            _, family, phrase = _common_name(draw)
            break
    else:
        raise DrawAgain
    if phrase.plural_only or len(family) > _MOST_EACH or not _alike(draw, family, phrase):
        raise DrawAgain
    draw.taken.update(product.name for product in family)
    listed = draw.rng.random() < 0.5
    for _ in range(_DRAWS):
        phrasing = draw.phrasing(*(("several", "rseveral") if listed else ("add", "remove")))
        (role, forms), *more = phrasing.roles.items()
        if not more and (listed or (forms <= _WHOLE and not phrasing.only & {"sg", "m"})):
            break
    else:
        raise DrawAgain
    adding = role in _PUTS_IN
    quantity = draw_quantity(draw.rng)
    said = each_of(draw.language, phrase, quantity, len(family), draw.rng, counted=not adding)
    every = Item(family[0], phrase, quantity, said=said)
    others = [draw.item(phrasing, "") for _ in range(draw.rng.choice((1, 1, 2)) if listed else 0)]
    # Last, for what comes behind it might be wanted as often: "two of each tea and mug".
    items, lists = ({}, {role: [*others, every]}) if listed else ({role: every}, {})
    meant = [*others, *(Item(product, phrase, quantity) for product in family)]
    actions = [("add" if adding else "remove", item) for item in meant]
    return draw.row("several", phrasing, draw.text(phrasing, items, lists), actions, "each")


def _alike(draw: Draw, family: list[Product], phrase: NounPhrase) -> bool:
    """Whether a name fits all of a family as well, and nothing else under whatever name it is listed."""
    scores = [fit(phrase.nominative, product.name) for product in family]
    others = [p for p in draw.catalog.products if p.family != family[0].family]
    return (
        max(scores) <= max(min(scores) + 0.05, STRAY_FIT)
        and draw.catalog.called(phrase.nominative) <= {family[0].family}
        and all(fit(phrase.nominative, p.base) < min(scores) for p in others)
    )


_MAKERS: dict[Kind, Callable[[Draw], CartRow]] = {
    "single": _single, "several": _several, "absent": _absent, "no_action": _no_action,
    "adversarial": _adversarial, "ambiguous": _ambiguous,
}  # fmt: skip
