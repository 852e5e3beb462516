"""Cart messages that were written whole, each to a catalog as a shop would print it.

Generated rows (:mod:`training.cart.generation`) put products into turns of phrase; nobody's messages are
quite like that. ``data/cart/written`` is learned beside them. ``data/cart/wild`` came from other hands and
is only measured on.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from training.cart.catalogs import SMALLEST
from training.cart.products import DATA, Split
from training.cart.surface import finish
from training.examples import read_rows

WRITTEN = DATA / "written"
WILD_CARTS = DATA / "wild"
_AS_WRITTEN = 0.5
"""Of the messages drawn; the others get other capitals, slips, greetings."""
_JOINED = 0.25
"""Of the messages drawn, those that join two or three of which each has one short wish."""
_SHORT = 80
_JOINTS = {
    "en": (", ", ". ", "; ", "\n", " and ", ", also ", " plus ", ", and "),
    "hr": (", ", ". ", "; ", "\n", " i ", ", i još ", " plus ", ", a "),
    "es": (", ", ". ", "; ", "\n", " y ", ", también ", " más ", ", y "),
}


@dataclass(frozen=True, slots=True)
class WrittenCatalog:
    """A shop's list and the rows about it, as :class:`training.cart.generation.CartRow` has them.

    They lack ``mentions``: nobody marked how a message calls its products, so they are never renamed.
    """

    language: str
    split: Split
    rows: tuple[Mapping[str, Any], ...]


@cache
def read_written(directory: Path = WRITTEN) -> tuple[WrittenCatalog, ...]:
    """The catalogs of ``directory/<language>.jsonl``."""
    catalogs = []
    for path in sorted(directory.glob("*.jsonl")):
        for place, found in enumerate(read_rows(path)):
            rows = tuple(
                _row(found["catalog"], message, path.stem) for message in found["messages"]
            )
            catalogs.append(WrittenCatalog(path.stem, _split_of(place), rows))
    return tuple(catalogs)


def written_rows(split: Split) -> list[Mapping[str, Any]]:
    """As they were written; those of ``dev`` calibrate."""
    return [row for c in read_written() if c.split == split for row in c.rows]


def wild_carts() -> list[Mapping[str, Any]]:
    """The rows that are only measured on."""
    return [row for catalog in read_written(WILD_CARTS) for row in catalog.rows]


def draw_written(rng: random.Random, messages: int) -> list[dict[str, Any]]:
    """Training rows about one catalog, shuffled and without some of what they do not ask for."""
    drawn = rng.choice([c for c in read_written() if c.split == "train"])
    rows = [_drawn(drawn, rng) for _ in range(messages)]
    named = {a["product"] for row in rows for a in row["actions"]}
    named |= {candidate for row in rows for candidate in row["candidates"]}
    names = list(rows[0]["catalog"])
    rng.shuffle(names)
    others = [name for name in names if name not in named]
    size = rng.randint(min(SMALLEST, len(names)), len(names))
    left_out = set(others[: len(names) - max(size, len(named))])
    catalog = [name for name in names if name not in left_out]
    return [{**row, "catalog": catalog} for row in rows]


def _drawn(catalog: WrittenCatalog, rng: random.Random) -> dict[str, Any]:
    row = dict(rng.choice(catalog.rows))
    if rng.random() < _JOINED:
        row = _joined(catalog, rng) or row
    if rng.random() >= _AS_WRITTEN:
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
    joint = rng.choice(_JOINTS[catalog.language])
    text = joint.join(row["text"].rstrip(".,;") for row in rows)
    return {**rows[0], "text": text, "actions": actions, "kind": _kind_of("actions", actions)}


def _row(catalog: Sequence[str], message: Mapping[str, Any], language: str) -> dict[str, Any]:
    actions = message.get("actions", [])
    return {
        "catalog": list(catalog),
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


def _split_of(place: int) -> Split:
    """Every fifth catalog of a file is kept for calibrating."""
    return "dev" if place % 5 == 3 else "train"
