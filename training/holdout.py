"""Holding messages out of a shop's own rows, so that fusion, gate and threshold are fitted honestly."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from app.domain import OUT_OF_SCOPE
from training.examples import Example, negative

HELD_SHARE = 0.2
DROPPED_SHARE = 0.15


@dataclass(frozen=True, slots=True)
class Holdout:
    """A rehearsal: fit on ``fit``, measure on ``held``.

    Some intents are left out of ``fit`` whole; their messages stand in ``held`` as out of scope. They
    are the nearest thing to what such a shop's customers ask beyond its intents.
    """

    fit: tuple[Example, ...]
    held: tuple[Example, ...]


def hold_out(examples: Sequence[Example], seed: int) -> Holdout:
    """Split rows by intent: about a fifth held out, and intents worth about 15% of the rows dropped.

    Every kept intent keeps at least one row in ``fit``; intents with one row are never held out. Where any
    has two, at least one row is held out under its intent: without one no fusion can be fitted.
    """
    rng = random.Random(seed)
    by_intent: dict[str, list[Example]] = {}
    for example in examples:
        by_intent.setdefault(example.intent, []).append(example)
    dropped = _dropped(by_intent, rng)
    fit: list[Example] = []
    held: list[Example] = []
    for intent, rows in sorted(by_intent.items()):
        if intent in dropped:
            held += [negative(row) for row in rows]
            continue
        shuffled = rng.sample(rows, len(rows))
        cut = min(len(rows) - 1, round(len(rows) * HELD_SHARE + rng.random() - 0.5))
        held += shuffled[: max(cut, 0)]
        fit += shuffled[max(cut, 0) :]
    if not {e.intent for e in held} - {OUT_OF_SCOPE}:
        inside = Counter(e.intent for e in fit if e.intent != OUT_OF_SCOPE)
        most = max(inside, key=inside.__getitem__, default="")
        if inside[most] > 1:
            place = next(i for i, e in enumerate(fit) if e.intent == most)
            held.append(fit.pop(place))
    return Holdout(tuple(fit), tuple(held))


def _dropped(by_intent: dict[str, list[Example]], rng: random.Random) -> set[str]:
    """Intents to do without, never so many that fewer than three in-scope ones remain.

    Nor the last one that has more than one row: nothing could be held out then.
    """
    intents = sorted(by_intent.keys() - {OUT_OF_SCOPE})
    total = sum(len(by_intent[intent]) for intent in intents)
    dropped: set[str] = set()
    rows = 0
    for intent in rng.sample(intents, len(intents)):
        if len(intents) - len(dropped) <= 3:
            break
        left = [name for name in intents if name != intent and name not in dropped]
        if all(len(by_intent[name]) == 1 for name in left):
            continue
        if rows + len(by_intent[intent]) <= DROPPED_SHARE * total:
            dropped.add(intent)
            rows += len(by_intent[intent])
    return dropped
