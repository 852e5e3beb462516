"""What quantised weights cost in answers: theirs beside those of the merged weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np

from app.artifacts.base_package import Progress, silent
from app.artifacts.store import Artifact
from app.backends.base import BackendOptions
from app.backends.factory import open_backend
from app.backends.gguf_weights import build_weights
from app.backends.gptq import GptqBackend
from app.classification.classifier import Classifier, IntentModel
from app.classification.decision import decide
from app.classification.loading import cart_model, check_golden
from app.classification.model_files import read_model
from app.classification.prompt import normalise_lines
from app.domain import OUT_OF_SCOPE
from training.cart.making import draw_rows
from training.examples import Example
from training.measure import weigh_all

CARTS = 60
"""Cart messages to measure on, a third in each language."""
SEED = 20
_SEQUENCES, _TOKENS = 64, 2048
"""Messages and tokens of one batch while measuring."""

CartAnswer: TypeAlias = tuple[str, tuple[tuple[str, str, int], ...]]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Answers of the quantised weights beside those of the merged ones, 16 bits each, same arithmetic."""

    messages: int
    agreement: float
    """Share of equal decisions, out of scope among them."""
    intent_agreement: float
    """Share of equal best intents, whatever the scope."""
    model_agreement: float
    """Share of equal best labels of the language model alone, before fusion."""
    confidence_shift: float
    """Mean distance between the confidences of the best intents."""
    carts: int
    """Cart messages; none where the model reads no carts."""
    cart_agreement: float
    """Share of equal cart decisions: outcome, actions, products and quantities."""
    gguf_agreement: float
    """Share of decisions that the GGUF weights on this CPU make too."""
    in_scope_messages: int
    accuracy: float
    merged_accuracy: float
    """In-scope accuracy without threshold; not a number where none of the intents is served."""
    bytes: int
    merged_bytes: int
    """Of the tensors on disk."""


def compare(
    artifact: Artifact,
    merged: Path,
    quantised: Path,
    examples: Sequence[Example],
    threads: int,
    progress: Progress = silent,
) -> Comparison:
    """Both model directories on the same messages, through the serving backend."""
    model = read_model(artifact.directory, artifact.manifest)
    with _served(artifact, model, merged, threads) as classifier:
        plain = weigh_all(classifier, examples, progress, "merged weights")
        carts_before = _carts(classifier, progress, "merged weights")
    with _served(artifact, model, quantised, threads) as classifier:
        packed = weigh_all(classifier, examples, progress, "quantised weights")
        carts_after = _carts(classifier, progress, "quantised weights")
    with _on_cpu(artifact, model, threads) as classifier:
        stored = weigh_all(classifier, examples, progress, "GGUF weights")
    before, after, on_cpu = (
        decide(e, model.calibration, model.labels) for e in (plain, packed, stored)
    )
    pairs = list(zip(before, after, strict=True))
    served = set(model.labels) - {OUT_OF_SCOPE}
    inside = [i for i, example in enumerate(examples) if example.intent in served]
    hits = [
        [answers[i].ranking[0].intent == examples[i].intent for i in inside]
        for answers in (before, after)
    ]
    return Comparison(
        messages=len(examples),
        agreement=_mean([a.intent == b.intent for a, b in pairs]),
        intent_agreement=_mean([a.ranking[0].intent == b.ranking[0].intent for a, b in pairs]),
        model_agreement=_mean((plain.lm.argmax(axis=1) == packed.lm.argmax(axis=1)).tolist()),
        confidence_shift=_mean(
            [abs(a.ranking[0].confidence - b.ranking[0].confidence) for a, b in pairs]
        ),
        carts=len(carts_before),
        cart_agreement=_mean([a == b for a, b in zip(carts_before, carts_after, strict=True)]),
        gguf_agreement=_mean([a.intent == b.intent for a, b in zip(after, on_cpu, strict=True)]),
        in_scope_messages=len(inside),
        accuracy=_mean(hits[1]),
        merged_accuracy=_mean(hits[0]),
        bytes=_size(quantised),
        merged_bytes=_size(merged),
    )


@contextmanager
def _on_cpu(artifact: Artifact, model: IntentModel, threads: int) -> Iterator[Classifier]:
    build_weights(artifact)
    options = BackendOptions(threads=threads, max_sequences=_SEQUENCES, max_tokens=_TOKENS)
    backend = open_backend(artifact, options, "gguf")
    try:
        yield Classifier(backend, model, cart_model(artifact))
    finally:
        backend.close()


def gives_goldens(artifact: Artifact, checkpoint: Path, threads: int) -> None:
    """What the service checks at load. Raises :class:`app.errors.GoldenMismatch`."""
    model = read_model(artifact.directory, artifact.manifest)
    with _served(artifact, model, checkpoint, threads) as classifier:
        check_golden(classifier, artifact.manifest)


@contextmanager
def _served(
    artifact: Artifact, model: IntentModel, checkpoint: Path, threads: int
) -> Iterator[Classifier]:
    options = BackendOptions(threads=threads, max_sequences=_SEQUENCES, max_tokens=_TOKENS)
    manifest = artifact.manifest
    backend = GptqBackend(checkpoint, manifest.prompt, manifest.max_message_tokens, options)
    try:
        yield Classifier(backend, model, cart_model(artifact))
    finally:
        backend.close()


def _carts(classifier: Classifier, progress: Progress, step: str) -> list[CartAnswer]:
    """What is decided on cart messages about products that no weights have learned from."""
    reader = classifier.cart
    if reader is None:
        return []
    answers: list[CartAnswer] = []
    for number, row in enumerate(draw_rows("dev", CARTS, SEED), start=1):
        message = reader.prepare(normalise_lines(row["text"]), reader.catalog(row["catalog"]))
        given = reader.decide(message)
        actions = sorted((one.action, one.product, one.quantity) for one in given.actions)
        answers.append((given.outcome, tuple(actions)))
        progress(f"carts {step}", number, CARTS)
    return answers


def _size(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.glob("*.safetensors"))


def _mean(values: Sequence[float]) -> float:
    return round(float(np.mean(values)), 5) if values else float("nan")
