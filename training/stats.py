"""What the project's own data holds: counts by intent, language, split and origin, lengths, slots."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypedDict

import numpy as np

from app.domain import OUT_OF_SCOPE
from training.examples import (
    SEEDS,
    STRANGERS,
    WILD,
    Example,
    read_labelled,
    read_late,
    read_rows,
    read_seeds,
    read_taxonomy,
    split_of,
)
from training.leaks import ACCEPTANCE
from training.shops import read_shops

QUANTILES = {"p5": 0.05, "p25": 0.25, "p50": 0.5, "p75": 0.75, "p95": 0.95, "max": 1.0}

Counts = dict[str, int]
Table = dict[str, Counts]


class SetStats(TypedDict):
    """Counts of one set of messages; ``words`` and ``characters`` are quantiles by language."""

    messages: int
    by_intent: Table
    by_language: Table
    by_split: Counts
    by_origin: Counts
    words: Table
    characters: Table
    slots: Table


class Stats(TypedDict):
    """``seeds``, ``late`` and ``shops`` feed training; the sets under ``measured_only`` never do.

    ``dropped_rows`` of the seed files repeat a text, or hold one that stands under two intents. ``shops``
    counts made-up shops, their intents and their messages by language.
    """

    intents: int
    languages: list[str]
    seeds: SetStats
    dropped_rows: int
    late: SetStats
    shops: Table
    measured_only: dict[str, SetStats]


def data_stats() -> Stats:
    """Counts of seeds and shops in the checkout and of the sets that are only measured on."""
    seeds = read_seeds()
    rows = sum(len(read_rows(path)) for path in SEEDS.glob("*/*.jsonl"))
    measured: dict[str, Path] = {"wild": WILD, "strangers": STRANGERS}
    if ACCEPTANCE.is_file():
        measured["acceptance"] = ACCEPTANCE
    return Stats(
        intents=len(read_taxonomy()),
        languages=sorted({seed.language for seed in seeds}),
        seeds=set_stats(seeds),
        dropped_rows=rows - len(seeds),
        late=set_stats(read_late(), split=False),
        shops=shop_counts(),
        measured_only={
            name: set_stats(read_labelled(path, name), split=False)
            for name, path in measured.items()
        },
    )


def shop_counts() -> Table:
    """Shops, intents and messages by language; an intent of two shops counts twice."""
    counts: Table = {}
    for messages in read_shops().values():
        of_language = counts.setdefault(
            messages[0].language, {"shops": 0, "intents": 0, "messages": 0}
        )
        of_language["shops"] += 1
        of_language["intents"] += len({e.intent for e in messages} - {OUT_OF_SCOPE})
        of_language["messages"] += len(messages)
    return dict(sorted(counts.items()))


def set_stats(examples: Sequence[Example], split: bool = True) -> SetStats:
    """``split``: whether the messages are split at all; sets that are only measured on are not."""
    intents = [intent.name for intent in read_taxonomy()]
    present = {example.intent for example in examples}
    order = [*intents, *sorted(present - {*intents, OUT_OF_SCOPE}), OUT_OF_SCOPE]
    languages = sorted({example.language for example in examples})
    by_intent = {intent: [e for e in examples if e.intent == intent] for intent in order}
    by_language = {
        language: [e for e in examples if e.language == language] for language in languages
    }
    return SetStats(
        messages=len(examples),
        by_intent={intent: _counts(rows, split) for intent, rows in by_intent.items() if rows},
        by_language={language: _counts(rows, split) for language, rows in by_language.items()},
        by_split=dict(sorted(Counter(map(split_of, examples)).items())) if split else {},
        by_origin=dict(sorted(Counter(e.origin for e in examples).items())),
        words={k: _quantiles(rows, lambda t: len(t.split())) for k, rows in by_language.items()},
        characters={k: _quantiles(rows, len) for k, rows in by_language.items()},
        slots={
            language: dict(sorted(Counter(kind for e in rows for kind in e.slots).items()))
            for language, rows in by_language.items()
        },
    )


def _counts(examples: Sequence[Example], split: bool) -> Counts:
    counts = {"messages": len(examples)}
    counts |= sorted(Counter(e.language for e in examples).items())
    if split:
        counts |= sorted(Counter(map(split_of, examples)).items())
    return counts


def _quantiles(examples: Sequence[Example], measure: Callable[[str], int]) -> Counts:
    sizes = [measure(example.text) for example in examples]
    return {name: int(np.quantile(sizes, share)) for name, share in QUANTILES.items()}
