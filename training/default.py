"""`train-default`: the default artifact or its fast variant; each step resumes where it stands."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from app.artifacts.base_package import Progress
from app.artifacts.manifest import Label
from app.artifacts.store import Artifact
from app.classification.head import Head
from app.classification.prompt import Prompt
from app.domain import OUT_OF_SCOPE
from training.bases import packaged_base
from training.cart.making import make_cart
from training.evaluate import TestSet
from training.examples import (
    LANGUAGES,
    STRANGERS,
    WILD,
    Example,
    read_labelled,
    read_taxonomy,
    take_split,
)
from training.ngram_teaching import TaughtNgrams, kept_ngrams
from training.opensets import clinc150, storefront_negatives
from training.publish import Draft, publish
from training.stage_one import tune_default
from training.storefront import (
    DEFAULT,
    SEED,
    VOCABULARY,
    Variant,
    own_messages,
    storefront_set,
    taxonomy_labels,
    texts_to_label,
    training_seeds,
)
from training.tuned_files import read_cart_heads, read_tuned

PROTOTYPE_EXAMPLES = 2000
LEAST_COVERAGE = 0.95
OUT_SHARE = 0.35
"""Assumed for a shop's chat. The one open log of real messages (powerplay11) has 0.72."""
HELD_NEGATIVES = 400
TRAINED_ON = (
    "storefront seeds (this project)",
    "clinc150 train (CC BY 3.0)",
    "hwu64 train (CC BY 4.0)",
    "bitext train (CDLA-Sharing 1.0)",
    "webshop-goals (MIT)",
    "multidogo-fastfood train, texts only (CDLA-Permissive 1.0)",
    "made-up shops (this project)",
    "EmbeddingGemma 300M, as a teacher (Gemma Terms of Use)",
)
GOLDEN = (
    "track my parcel please, order 58213",
    "put three jars of honey in my basket",
    "my code for 10% off is refused at checkout",
    "želim vratiti cipele, prevelike su",
    "me cobraron dos veces el mismo pedido",
    "which planet is the biggest",
)
_SHELF = (
    "Coconut Water (330ml can)", "Green Tea 20 bags", "Oat Milk Barista 1L", "Dark Chocolate 85% 100g",
)  # fmt: skip
_POLICA = (
    "Maslinovo ulje 500 ml",
    "Zeleni čaj 20 vrećica",
    "Kava mljevena 250 g",
    "Med bagremov 450 g",
)
_ESTANTE = (
    "Aceite de oliva 500 ml",
    "Té verde 20 bolsitas",
    "Café molido 250 g",
    "Miel de acacia 450 g",
)
GOLDEN_CARTS = [
    ("add two coconut waters please", _SHELF),
    ("take out the green tea and put in 3 oat milks", _SHELF),
    ("do you deliver on sundays?", _SHELF),
    ("dodaj dvije kave i jedno maslinovo ulje", _POLICA),
    ("makni zeleni čaj iz košarice", _POLICA),
    ("ponme tres cafés molidos", _ESTANTE),
]


def train_default(
    data: Path,
    store: Path,
    run: Path,
    device: str,
    threads: int,
    progress: Progress,
    variant: Variant = DEFAULT,
    start: Path | None = None,
    ngrams_of: Path | None = None,
) -> Artifact:
    """Tune (or take ``run``'s result), quantise, calibrate on dev, evaluate on test, publish.

    ``start`` is a published version whose weights are tuned further. Where intents learn nothing
    new, the n-grams of a version, ``ngrams_of``, may be kept.
    """
    labels = taxonomy_labels()
    # Before anything that takes long: a version whose n-grams will not do is told of at once.
    kept = None if ngrams_of is None else kept_ngrams(ngrams_of, labels)
    base = packaged_base(store / ".cache", progress)
    prompt = Prompt()
    tuned = read_tuned(run)
    if tuned is None:
        tuned = tune_default(base, data, store / ".cache", run, device, progress, variant, start)
    head = Head(*tuned.heads[0])
    ngrams = (
        TaughtNgrams(
            storefront_set(data).examples, texts_to_label(data), labels, head, run, progress
        )
        if kept is None
        else lambda _: kept
    )
    draft = Draft(
        name=variant.name,
        labels=_labels(labels),
        head=head,
        ngrams=ngrams,
        adapters=[tuned.adapter],
        base=base,
        prompt=prompt,
        quantisation=variant.quantisation,
        languages=LANGUAGES,
        trained_on=TRAINED_ON,
        notices=sorted(store.glob("*[Gg][Ee][Mm][Mm][Aa]*.md")),
        vocabulary=VOCABULARY,
        layers=variant.layers,
    )
    seeds = own_messages()
    cart = read_cart_heads(run) if variant.carts else None
    return publish(
        draft,
        store,
        prototypes_from=_prototype_examples(),
        held_out=_held_out(data, seeds),
        test_sets=[
            TestSet("seeds test", take_split(seeds, "test")),
            TestSet("wild", read_labelled(WILD, "wild")),
            TestSet("strangers", read_labelled(STRANGERS, "strangers")),
            TestSet(
                "clinc150 out of scope", [*_in_scope(seeds), *_out_of_scope(clinc150(data, "test"))]
            ),
        ],
        golden=GOLDEN,
        threads=threads,
        least_coverage=LEAST_COVERAGE,
        out_share=OUT_SHARE,
        progress=progress,
        make_cart=None
        if cart is None
        else lambda backend: make_cart(backend, cart, GOLDEN_CARTS, SEED, progress=progress),
    )


def _held_out(data: Path, seeds: Sequence[Example]) -> list[Example]:
    """Own dev messages with their near negatives, and validation messages of an assistant's topics."""
    far = storefront_negatives(data, "val")
    return [
        *take_split(seeds, "dev"),
        *_out_of_scope(clinc150(data, "val")),
        *random.Random(SEED).sample(far, min(HELD_NEGATIVES, len(far))),
    ]


def _labels(names: Sequence[str]) -> tuple[Label, ...]:
    known = {intent.name: intent for intent in read_taxonomy()}
    return tuple(
        Label(intent=name, group=known[name].group, description=known[name].definition)
        if name in known
        else Label(intent=name)
        for name in names
    )


def _prototype_examples() -> list[Example]:
    inside = [example for example in training_seeds() if example.intent != OUT_OF_SCOPE]
    return random.Random(SEED).sample(inside, min(PROTOTYPE_EXAMPLES, len(inside)))


def _out_of_scope(examples: Sequence[Example]) -> list[Example]:
    return [example for example in examples if example.intent == OUT_OF_SCOPE]


def _in_scope(seeds: Sequence[Example]) -> list[Example]:
    return [example for example in take_split(seeds, "test") if example.intent != OUT_OF_SCOPE]
