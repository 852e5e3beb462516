"""The default artifact's recipe and its faster variant's: which messages, in what doses, and the knobs.

The backbone learns many label sets at once, each against its own rows: the storefront's taxonomy in
three languages, 85 made-up shops and three open sets, whose label rows are thrown away
afterwards. They teach the hidden state to mean "what is wanted" for far more kinds of wishes than one
shop has, which is what new shops start from (:mod:`training.fit`) and what tells a stranger's topic
from a shop's. All messages are also drawn towards a sentence encoder's embeddings
(:mod:`training.teacher`), and the same weights learn to read carts (:mod:`training.cart.tuning`).

Banking77 and powerplay11 stay out of all training: they are open benchmarks.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from app.classification.prompt import normalise
from app.domain import OUT_OF_SCOPE
from training.bases import DEFAULT_QUANTISATION
from training.cart.generation import generate
from training.duplicates import join_families
from training.examples import (
    HERE,
    Example,
    labels_of,
    read_late,
    read_seeds,
    read_taxonomy,
    take_split,
)
from training.joint import JointConfig
from training.noise import expand, fillers_of, swap_slots
from training.opensets import (
    bitext,
    clinc150,
    hwu64,
    multidogo,
    storefront_negatives,
    storefront_positives,
    webshop_goals,
)
from training.shops import read_shops

NAME = "storefront"
COPIES = 4
SWAPS = 2
POSITIVES_PER_INTENT = 60
NEGATIVES = 6000
BITEXT_ROWS = 2500
SEED = 20

SPANS = {"en": 16_000, "hr": 9000, "es": 7000}
SHORTEST_SPAN = 3
JOINED = 5000
"""Pairs of messages in one, a language."""
CART_TEXTS = 9000
"""Messages about carts that the teacher reads too, a language."""
CART_ROWS = 120_000
CART_HELD_OUT = 2400
RENAMED_SHARE = 0.3
"""Of the cart rows, whose products get made-up names (:mod:`training.cart.renaming`)."""
WRITTEN_SHARE = 0.35
"""Of the catalogs that carts are learned on, those written whole (:mod:`training.cart.written`)."""
VOCABULARY: Path | None = HERE / "data" / "vocabulary.safetensors"
"""The pieces of Gemma's vocabulary that the weights keep, by `python -m training vocabulary`; None: all."""
JSON_SHARE = 0.15
"""Of the rows with at most one action, learned as the paper's JSON answer: its baseline."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One of the models that are made from these messages: how deep, how tuned, how stored."""

    name: str
    rank: int
    scale: float
    shares: Mapping[str, float]
    """Of each batch of messages."""
    tuning: JointConfig
    carts: bool = True
    layers: tuple[int, ...] | None = None
    """Of the base, by its numbers; None: all."""
    quantisation: str = DEFAULT_QUANTISATION
    catalogs: int = 48
    """In each step, each with several rows (:mod:`training.cart.packing`)."""
    kept: int = 256
    """Width of the adapter that goes on from a published one, if more than that one has."""
    whole: bool = True
    """Whether such a run tunes all numbers of the matrices, of which that width is kept."""
    whole_rate: float = 1.5e-4
    """Its learning rate, in the place of that of factors."""
    dropout: float = 0.0
    """Of what each layer adds to a state, left out at random."""
    rounded: bool = False
    """Whether it is tuned with its weights rounded as they will be (:mod:`training.rounding`)."""


DEFAULT = Variant(
    name=NAME,
    rank=64,
    scale=2.0,
    shares={"own": 0.42, "shops": 0.19, "open": 0.13, "unlabelled": 0.26},
    tuning=JointConfig(steps=1200, seed=SEED),
)
FAST = Variant(
    name="storefront-fast",
    rank=160,
    scale=1.0,
    shares={"own": 0.46, "shops": 0.2, "open": 0.14, "unlabelled": 0.2},
    tuning=JointConfig(learning_rate=7e-4, steps=6871, seed=4),
    carts=False,
    layers=(0, 1, 3, 7, 12, 17),
    quantisation="Q8_0",
)
"""A third of the layers and intents only. On a CPU its tuning takes days."""
VARIANTS = {variant.name: variant for variant in (DEFAULT, FAST)}


@dataclass(frozen=True, slots=True)
class LabelSet:
    """Messages that share a set of labels; ``labels`` are the rows of its head."""

    name: str
    labels: tuple[str, ...]
    examples: Sequence[Example]


def taxonomy_labels() -> tuple[str, ...]:
    return (*(intent.name for intent in read_taxonomy()), OUT_OF_SCOPE)


@cache
def own_messages() -> tuple[Example, ...]:
    """All seeds; near-duplicates are one family, so that they stand on one side of the split."""
    return tuple(join_families(read_seeds()))


def training_seeds() -> list[Example]:
    """The training side of the seeds, the late messages, and the taxonomy's examples."""
    examples = [
        Example(text, intent.name, "en", "taxonomy")
        for intent in read_taxonomy()
        for text in intent.examples
    ]
    return [*take_split(own_messages(), "train"), *read_late(), *examples]


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
    """All sets of stage one as they are written, the storefront's first, then the open ones."""
    rng = random.Random(SEED)
    clinc, hwu, support = clinc150(data, "train"), hwu64(data, "train"), bitext(data, "train")
    negatives = storefront_negatives(data)
    own = [
        *with_swaps(training_seeds(), SWAPS, SEED),
        *storefront_positives(data, POSITIVES_PER_INTENT, SEED),
        *rng.sample(negatives, min(NEGATIVES, len(negatives))),
    ]
    return [
        LabelSet(NAME, taxonomy_labels(), own),
        LabelSet("clinc150", labels_of(clinc), clinc),
        LabelSet("hwu64", labels_of(hwu), hwu),
        LabelSet("bitext", labels_of(support), rng.sample(support, BITEXT_ROWS)),
        *(
            LabelSet(f"shop {trade}", labels_of(messages), messages)
            for trade, messages in read_shops().items()
        ),
    ]


def with_swaps(examples: Sequence[Example], copies: int, seed: int) -> list[Example]:
    """Each example, and up to ``copies`` times the same wish about something else."""
    rng = random.Random(seed)
    fillers = fillers_of(examples)
    found = list(examples)
    for example in examples:
        others = (swap_slots(example, fillers, rng) for _ in range(copies if example.slots else 0))
        found += [other for other in others if other.text != example.text]
    return found


def unlabelled_texts(data: Path, sets: Sequence[LabelSet]) -> list[tuple[str, str]]:
    """Texts without a label and their languages, for the teacher: order turns, searches, spans of messages.

    A span is what a person might have typed of a message, and the teacher knows what it means.
    """
    rng = random.Random(SEED)
    known = {example.text for label_set in sets for example in label_set.examples}
    texts = {row.text: "en" for row in (*multidogo(data, "train"), *webshop_goals(data))}
    for language, count in SPANS.items():
        written = sorted(
            {e.text for label_set in sets for e in label_set.examples if e.language == language}
        )
        for text in rng.sample(written, min(count, len(written))):
            words = text.split()
            length = rng.randint(SHORTEST_SPAN, max(SHORTEST_SPAN, len(words) - 1))
            start = rng.randint(0, max(0, len(words) - length))
            texts[" ".join(words[start : start + length])] = language
    return sorted(
        (text, language)
        for text, language in texts.items()
        if text not in known and len(text.split()) >= SHORTEST_SPAN
    )


def texts_to_label(data: Path) -> list[str]:
    """Normalised texts without a label of the storefront: open sets, made-up shops, unlabelled ones."""
    sets = label_sets(data)
    own = {normalise(example.text) for example in sets[0].examples}
    others = {normalise(e.text) for label_set in sets[1:] for e in label_set.examples}
    others |= {normalise(text) for text, _ in unlabelled_texts(data, sets)}
    return sorted(others - own - {""})


def composed_texts(sets: Sequence[LabelSet]) -> list[tuple[str, str]]:
    """Texts for the teacher that nobody wrote as they are: two messages in one, and wishes for carts."""
    texts: dict[str, str] = {}
    for language, joint in (("en", "and"), ("hr", "i"), ("es", "y")):
        rng = random.Random(f"{SEED}:composed:{language}")
        written = sorted(
            {e.text for label_set in sets for e in label_set.examples if e.language == language}
        )
        for _ in range(JOINED if written else 0):
            first, second = rng.choice(written), rng.choice(written)
            texts[f"{first.rstrip('.!?')}{rng.choice((' ', '. ', ', ', f' {joint} '))}{second}"] = (
                language
            )
        for _ in range(CART_TEXTS):
            texts[normalise(generate(language, "train", rng).text)] = language
    return sorted(texts.items())
