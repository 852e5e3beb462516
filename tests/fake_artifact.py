"""Writes a real small artifact of the format "fake", so that tests go the true way of loading."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from app.artifacts.manifest import (
    FileEntry,
    Golden,
    Label,
    Manifest,
    PromptSpec,
    describe_file,
    write_manifest,
)
from app.backends.base import BackendOptions
from app.backends.fake import FakeBackend
from app.classification.cart import CartModel
from app.classification.cascade import Cascade
from app.classification.classifier import Classifier, IntentModel
from app.classification.decision import SCOPE_FEATURES, Calibration
from app.classification.head import Head
from app.classification.model_files import write_cart, write_model
from app.classification.ngrams import BUCKETS, NgramModel, features
from app.classification.prompt import normalise
from app.domain import OUT_OF_SCOPE

HIDDEN = 256
MAX_MESSAGE_TOKENS = 256

EXAMPLES: dict[str, tuple[str, ...]] = {
    "order_status": ("where is my order", "track my parcel", "has my order shipped yet"),
    "cart_add": ("add two blue mugs to my basket", "put a red shirt in my cart", "i take three"),
    "return_exchange": ("i want to send this back", "how do i return these shoes"),
    "payment_methods": ("can i pay with paypal", "do you take credit cards"),
    OUT_OF_SCOPE: ("what is the capital of france", "tell me a joke", "who won the match"),
}


def fake_model() -> IntentModel:
    """Rows are the mean fake hidden states of the examples; the n-gram half knows their words."""
    labels = tuple(EXAMPLES)
    backend = FakeBackend(HIDDEN, BackendOptions(threads=1))
    means = np.stack(
        [
            backend.embed([backend.tokenise(t) for t in texts]).mean(axis=0)
            for texts in EXAMPLES.values()
        ]
    ).astype(np.float32)
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    return IntentModel(
        labels=labels,
        head=Head(rows=means, bias=np.zeros(len(labels), np.float32)),
        ngrams=_ngrams(),
        prototypes=means[[label != OUT_OF_SCOPE for label in labels]],
        calibration=Calibration(
            lm_weight=1.0,
            ngram_weight=0.5,
            scope_weights=(-0.8,) + (0.0,) * (len(SCOPE_FEATURES) - 1),
            scope_bias=0.5,
            scope_mean=(0.0,) * len(SCOPE_FEATURES),
            scope_scale=(1.0,) * len(SCOPE_FEATURES),
            threshold=0.4,
        ),
    )


def fake_cascade(careful: float = 0.8) -> Cascade:
    """Lets n-grams answer what is close to their examples."""
    return Cascade(replace(fake_model().calibration, threshold=0.0), careful=careful, fast=0.5)


def _ngrams() -> NgramModel:
    words = sorted(
        {int(b) for texts in EXAMPLES.values() for t in texts for b in features(t).words}
    )
    chars = sorted(
        {int(b) for texts in EXAMPLES.values() for t in texts for b in features(t).chars}
    )
    assert max(words + chars) < BUCKETS
    word_weights = np.zeros((len(words), len(EXAMPLES)), np.float32)
    for column, texts in enumerate(EXAMPLES.values()):
        for text in texts:
            word_weights[np.searchsorted(words, features(text).words), column] += 3.0
    return NgramModel(
        word_buckets=np.array(words, np.int64),
        word_idf=np.ones(len(words), np.float32),
        word_weights=word_weights,
        char_buckets=np.array(chars, np.int64),
        char_idf=np.ones(len(chars), np.float32),
        char_weights=np.zeros((len(chars), len(EXAMPLES)), np.float32),
        bias=np.zeros(len(EXAMPLES), np.float32),
    )


def fake_classifier(
    *, seconds_per_token: float = 0.0, fail_on: str | None = None, max_sequences: int = 16
) -> Classifier:
    """A classifier on a backend with the given temper."""
    options = BackendOptions(threads=1, max_sequences=max_sequences)
    backend = FakeBackend(
        HIDDEN,
        options,
        max_message_tokens=MAX_MESSAGE_TOKENS,
        seconds_per_token=seconds_per_token,
        fail_on=fail_on,
    )
    return Classifier(backend, fake_model())


def fake_manifest(
    name: str = "storefront", version: str = "1", files: tuple[FileEntry, ...] = ()
) -> Manifest:
    """The manifest of :func:`fake_model`, with golden answers of its own."""
    model = fake_model()
    classifier = fake_classifier()
    texts = [normalise(texts[0]) for texts in EXAMPLES.values()]
    answers = classifier.classify([classifier.prepare(text) for text in texts])
    return Manifest(
        name=name,
        version=version,
        created="2026-01-01T00:00:00Z",
        format="fake",
        languages=("en",),
        labels=tuple(Label(intent=label, group="test") for label in model.labels),
        prompt=PromptSpec(prefix="", suffix="\n"),
        max_message_tokens=MAX_MESSAGE_TOKENS,
        hidden_size=HIDDEN,
        weights=None,
        files=files,
        golden=tuple(
            Golden(text=text, intent=answer.intent, confidence=answer.confidence)
            for text, answer in zip(texts, answers, strict=True)
        ),
        intent_shares=dict.fromkeys(EXAMPLES, 1 / len(EXAMPLES)),
        evaluation={"accuracy": 1.0},
        trained_on=("the examples of this file",),
        licence="Apache-2.0",
    )


def write_fake_artifact(
    store: Path, name: str = "storefront", version: str = "1", cart: CartModel | None = None
) -> Manifest:
    """Publish the fake model as ``<store>/<name>/<version>``, with cart heads if there are any."""
    directory = store / name / version
    directory.mkdir(parents=True)
    paths = write_model(directory, fake_model())
    if cart is not None:
        paths += write_cart(directory, cart)
    files = tuple(describe_file(directory, path) for path in paths)
    manifest = fake_manifest(name, version, files)
    if cart is not None:
        manifest = manifest.model_copy(update={"cart": cart.spec})
    write_manifest(directory, manifest)
    return manifest


if __name__ == "__main__":
    import sys

    from tests.fake_cart import fake_cart

    # With a fourth argument it reads carts too.
    write_fake_artifact(
        Path(sys.argv[1]), *sys.argv[2:4], cart=fake_cart() if sys.argv[4:] else None
    )
