"""The default artifact's recipe: which messages go in, in what doses, and the knobs.

The backbone learns four label sets at once, each against its own rows: the storefront's taxonomy in
three languages, and three open sets whose label rows are thrown away afterwards. They teach the
hidden state to mean "what is wanted" for far more kinds of wishes than a shop has, which is what new
shops start from (:mod:`training.fit`) and what tells a stranger's topic from a shop's.

Banking77 and powerplay11 stay out of all training: they are open benchmarks.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from app.domain import OUT_OF_SCOPE
from training.examples import (
    Example,
    labels_of,
    read_seeds,
    read_taxonomy,
    take_split,
)
from training.noise import expand
from training.opensets import bitext, clinc150, hwu64, storefront_negatives, storefront_positives
from training.tuning import TuningConfig

NAME = "storefront"
COPIES = 4
POSITIVES_PER_INTENT = 60
NEGATIVES = 6000
BITEXT_ROWS = 2500
SEED = 20

TUNING = TuningConfig(
    rank=32,
    alpha=64.0,
    dropout=0.05,
    learning_rate=5e-4,
    head_learning_rate=3e-3,
    epochs=4.0,
    batch_size=256,
    ema=0.998,
    seed=SEED,
)


@dataclass(frozen=True, slots=True)
class LabelSet:
    """Messages that share a set of labels; ``labels`` are the rows of its head."""

    name: str
    labels: tuple[str, ...]
    examples: Sequence[Example]


def taxonomy_labels() -> tuple[str, ...]:
    return (*(intent.name for intent in read_taxonomy()), OUT_OF_SCOPE)


def training_seeds() -> list[Example]:
    return take_split(read_seeds(), "train")


def storefront_set(data: Path) -> LabelSet:
    """Own seeds with slot swaps and noise, bounded doses of open positives and negatives."""
    rng = random.Random(SEED)
    negatives = storefront_negatives(data)
    examples = [
        *expand(training_seeds(), COPIES, SEED),
        *expand(storefront_positives(data, POSITIVES_PER_INTENT, SEED), 1, SEED),
        *rng.sample(negatives, min(NEGATIVES, len(negatives))),
    ]
    return LabelSet(NAME, taxonomy_labels(), examples)


def label_sets(data: Path) -> list[LabelSet]:
    """All sets of stage one, the storefront's first."""
    rng = random.Random(SEED)
    clinc, hwu, support = clinc150(data, "train"), hwu64(data, "train"), bitext(data, "train")
    return [
        storefront_set(data),
        LabelSet("clinc150", labels_of(clinc), clinc),
        LabelSet("hwu64", labels_of(hwu), hwu),
        LabelSet("bitext", labels_of(support), rng.sample(support, BITEXT_ROWS)),
    ]
