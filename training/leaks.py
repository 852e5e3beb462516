"""Is a test honest? Near-duplicates of fitted messages among everything that is only measured on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from training.duplicates import Pair, near_pairs
from training.examples import (
    HERE,
    STRANGERS,
    WILD,
    Example,
    read_labelled,
    split_of,
    take_split,
)
from training.opensets import banking77, bitext, clinc150, hwu64, powerplay11

ACCEPTANCE = HERE.parent / "tests" / "e2e" / "acceptance_messages.jsonl"
LISTED = 0.6
LEAK = 0.8
COMMONPLACE_WORDS = 3
"""Strangers type the same "bye" or "account deletion": so short, likeness proves nothing."""


@dataclass(frozen=True, slots=True)
class Measured:
    """Messages that must not have been seen; ``own`` marks the other splits of our own seeds."""

    name: str
    examples: Sequence[Example]
    own: bool = False


@dataclass(frozen=True, slots=True)
class Finding:
    """Pairs (fitted, measured) of one set that are listed, and those among them that are leaks."""

    name: str
    messages: int
    pairs: tuple[Pair, ...]
    leaks: tuple[Pair, ...]


def measured_sets(data: Path, seeds: Sequence[Example]) -> list[Measured]:
    """The seeds' own dev and test splits, the project's three sealed sets, the open test sets."""
    return [
        Measured("seeds, dev split", take_split(seeds, "dev"), own=True),
        Measured("seeds, test split", take_split(seeds, "test"), own=True),
        Measured("wild", read_labelled(WILD, "wild")),
        Measured("strangers", read_labelled(STRANGERS, "strangers")),
        Measured("acceptance", read_labelled(ACCEPTANCE, "acceptance")),
        Measured("bitext test", bitext(data, "test")),
        Measured("clinc150 test", clinc150(data, "test")),
        Measured("hwu64 test", hwu64(data, "test")),
        Measured("powerplay11 test", powerplay11(data, "test")),
        Measured("banking77 test", banking77(data, "test")),
    ]


def find_leaks(
    seeds: Sequence[Example], sets: Sequence[Measured], shops: Sequence[Example] = ()
) -> list[Finding]:
    """What of each set stands in near the same words among the messages that a model is fitted on.

    The train split is held against the seeds' own dev and test splits; train and dev, which both shape
    a model, against all other sets; the made-up shops' messages, fitted whole, against all. A pair is a
    leak from :data:`LEAK` on; but between the seeds' splits, whose lines have one writer, messages of
    at most :data:`COMMONPLACE_WORDS` words are listed only.
    """
    train = take_split(seeds, "train")
    shaping = [seed for seed in seeds if split_of(seed) != "test"]
    strange = {id(example) for example in shops}
    findings = []
    for measured in sets:
        fitted = [*(train if measured.own else shaping), *shops]
        pairs = near_pairs(fitted, measured.examples, LISTED)
        leaks = tuple(
            pair
            for pair in pairs
            if pair.similarity >= LEAK
            and (not _commonplace(pair) or (measured.own and id(pair.left) not in strange))
        )
        findings.append(Finding(measured.name, len(measured.examples), tuple(pairs), leaks))
    return findings


def _commonplace(pair: Pair) -> bool:
    return len(pair.right.text.split()) <= COMMONPLACE_WORDS
