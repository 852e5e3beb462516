"""Cart messages that were written whole, each to a catalog as a shop would print it.

Generated rows (:mod:`training.cart.generation`) put products into turns of phrase; nobody's messages are
quite like that. ``data/cart/written`` is learned beside them. ``data/cart/wild`` came from other hands and
is only measured on. So is ``data/cart/unread``: rows that were once generated from named catalogs
(:mod:`training.cart.named`) which training never reads, for how far the words that it reads carry over.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from training.cart.catalogs import SMALLEST
from training.cart.each import as_listed
from training.cart.matching import has_richer
from training.cart.products import DATA
from training.cart.surface import finish
from training.examples import read_rows

WRITTEN = DATA / "written"
WILD_CARTS = DATA / "wild"
UNREAD_CARTS = DATA / "unread"
_KEPT = 3
"""Among every five catalogs, the place of the one that is kept for calibrating."""
_AS_WRITTEN = 0.5
"""Of the messages drawn; the others get other capitals, slips, greetings."""
_JOINED = 0.25
"""Of the messages drawn, those that join two or three of which each has one short wish."""
_MISSED = 0.3
"""Of the catalogs drawn, those that lack a product which one message wants: it becomes "not listed"."""
_SHORT = 80
_APART = (". ", "\n")
"""Between wishes of which one is not to be read on in the other: "minus the jam", "and two loaves"."""
_JOINTS = {
    "en": (", ", ". ", "; ", "\n", " and ", ", also ", " plus ", ", and "),
    "hr": (", ", ". ", "; ", "\n", " i ", ", i još ", " plus ", ", a "),
    "es": (", ", ". ", "; ", "\n", " y ", ", también ", " más ", ", y "),
}


@dataclass(frozen=True, slots=True)
class WrittenCatalog:
    """A shop's list and the rows about it, as :class:`training.cart.drawing.CartRow` has them.

    They lack ``mentions``: nobody marked how a message calls its products, so they are never renamed.
    """

    language: str
    names: tuple[str, ...]
    rows: tuple[Mapping[str, Any], ...]
    learned: bool


@cache
def read_written(directory: Path = WRITTEN) -> tuple[WrittenCatalog, ...]:
    """The catalogs of ``directory/<language>.jsonl``."""
    catalogs = []
    for path in sorted(directory.glob("*.jsonl")):
        for place, found in enumerate(read_rows(path)):
            names, messages = tuple(found["catalog"]), found["messages"]
            rows = tuple(_row(names, message, path.stem) for message in messages)
            catalogs.append(WrittenCatalog(path.stem, names, rows, learned=place % 5 != _KEPT))
    return tuple(catalogs)


def calibration_carts() -> list[Mapping[str, Any]]:
    """Rows about catalogs that are kept from training, as they were written."""
    return [row for catalog in read_written() if not catalog.learned for row in catalog.rows]


def measured_carts(directory: Path) -> list[Mapping[str, Any]]:
    """The rows of :data:`WILD_CARTS` or :data:`UNREAD_CARTS`, which are only measured on."""
    return [row for catalog in read_written(directory) for row in catalog.rows]


def draw_written(rng: random.Random, messages: int) -> list[dict[str, Any]]:
    """Training rows about one catalog, shuffled and without some of what they do not ask for."""
    drawn = rng.choice([catalog for catalog in read_written() if catalog.learned])
    rows = [_drawn(drawn, rng) for _ in range(messages)]
    names = rng.sample(drawn.names, len(drawn.names))
    if rng.random() < _MISSED:
        rows, missed = _with_one_missed(rows, rng)
        names = [name for name in names if name != missed]
    named = {name for row in rows for name in _named(row)}
    others = [name for name in names if name not in named]
    size = rng.randint(SMALLEST, len(names))
    left_out = set(others[: len(names) - max(size, len(named))])
    catalog = [name for name in names if name not in left_out]
    rows = [{**row, "catalog": catalog} for row in rows]
    return [{**row, "actions": as_listed(row)} for row in rows]


def _with_one_missed(
    rows: Sequence[dict[str, Any]], rng: random.Random
) -> tuple[list[dict[str, Any]], str | None]:
    """The rows as they are without one product, and which; None where none can be taken away.

    Only what a single message wants, and nothing else. Where one without a flavour would go and one with a
    flavour stay ("Baked beans", "Baked beans, no added sugar"), the other would be meant, so those stay.
    """
    counts = Counter(name for row in rows for name in _named(row))
    found = [
        n
        for n, row in enumerate(rows)
        if row["kind"] == "single"
        and counts[row["actions"][0]["product"]] == 1
        and not has_richer(row["actions"][0]["product"], row["catalog"])
    ]
    if not found:
        return list(rows), None
    chosen = rng.choice(found)
    absent = {**rows[chosen], "actions": [], "kind": "absent"}
    missed = rows[chosen]["actions"][0]["product"]
    return [absent if n == chosen else row for n, row in enumerate(rows)], missed


def _named(row: Mapping[str, Any]) -> list[str]:
    return [*row["candidates"], *(action["product"] for action in row["actions"])]


def _drawn(catalog: WrittenCatalog, rng: random.Random) -> dict[str, Any]:
    row = dict(rng.choice(catalog.rows))
    if rng.random() < _JOINED:
        row = _joined(catalog, rng) or row
    listed = row["kind"] == "several" and "\n" not in row["text"]  # its commas keep things apart
    if rng.random() >= _AS_WRITTEN and not listed:
        row["text"] = finish(row["text"], catalog.language, rng, slips=rng.choice((0, 0, 1)))
    return row


def _joined(catalog: WrittenCatalog, rng: random.Random) -> dict[str, Any] | None:
    """Several short wishes in one message; what is not listed is passed over there."""
    short = [
        row
        for row in catalog.rows
        if row["kind"] in ("single", "absent") and len(row["text"]) <= _SHORT
    ]
    rows = rng.sample(short, min(len(short), rng.choice((2, 2, 3))))
    actions = [action for row in rows for action in row["actions"]]
    if not actions or len({a["product"] for a in actions}) < len(actions):
        return None
    alike = len({a["action"] for a in actions}) == 1 and all(row["actions"] for row in rows)
    joint = rng.choice(_JOINTS[catalog.language] if alike else _APART)
    text = joint.join(row["text"].rstrip(".,;") for row in rows)
    return {**rows[0], "text": text, "actions": actions, "kind": _kind_of("actions", actions)}


def _row(names: Sequence[str], message: Mapping[str, Any], language: str) -> dict[str, Any]:
    actions = message.get("actions", [])
    return {
        "catalog": list(names),
        "text": message["text"],
        "actions": actions,
        "candidates": message.get("candidates", []),
        "language": language,
        "kind": _kind_of(message["outcome"], actions),
    }


def _kind_of(outcome: str, actions: Sequence[Mapping[str, Any]]) -> str:
    if outcome == "actions":
        return "several" if len(actions) > 1 else "single"
    return {"not_in_catalog": "absent"}.get(outcome, outcome)
