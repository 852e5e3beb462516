"""What a model says of many messages, through the backend that will serve it or from torch's states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from app.artifacts.base_package import Progress
from app.backends.base import Backend
from app.classification.classifier import Classifier, Message
from app.classification.decision import Calibration, Evidence, decide, probabilities
from app.classification.head import unit
from app.classification.loading import batches
from app.classification.prompt import normalise
from app.domain import OUT_OF_SCOPE, Prediction
from training.examples import Example
from training.metrics import Interval, wilson

States = npt.NDArray[np.float32]


def weigh_all(
    classifier: Classifier, examples: Sequence[Example], progress: Progress, step: str
) -> Evidence:
    """Evidence on many messages, in order, through the serving backend."""
    texts = [normalise(example.text) for example in examples]
    return classifier.evidence(embed_all(classifier, examples, progress, step), texts)


def embed_all(
    classifier: Classifier, examples: Sequence[Example], progress: Progress, step: str
) -> States:
    """Hidden states of many messages, in order, through the serving backend."""
    texts = [normalise(example.text) for example in examples]
    return embed_texts(classifier.backend, texts, progress, f"measure {step}")


def embed_texts(backend: Backend, texts: Sequence[str], progress: Progress, step: str) -> States:
    """Hidden states (texts, hidden) of normalised texts, in order."""
    parts: list[States] = [np.zeros((0, backend.info.hidden_size), np.float32)]
    done = 0
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    messages = [Message(texts[i], backend.tokenise(texts[i])) for i in order]
    for batch in batches(messages, backend.info):
        parts.append(backend.embed([message.tokens for message in batch]))
        done += len(batch)
        progress(step, done, len(messages))
    states: States = np.concatenate(parts)[np.argsort(order)]
    return states


def answers(
    classifier: Classifier, texts: Sequence[str], progress: Progress, step: str
) -> list[Prediction]:
    """What the model decides on messages that nobody has labelled."""
    unlabelled = [Example(text, OUT_OF_SCOPE) for text in texts]
    model = classifier.model
    return decide(
        weigh_all(classifier, unlabelled, progress, step), model.calibration, model.labels
    )


def prototypes_of(states: States, intents: Sequence[str], labels: Sequence[str]) -> States:
    """Mean directions (in-scope labels with examples, hidden), of unit length."""
    directions = unit(states) / np.float32(np.sqrt(states.shape[1]))
    rows = []
    for label in labels:
        members = directions[np.array([intent == label for intent in intents])]
        if label != OUT_OF_SCOPE and len(members):
            mean = members.mean(axis=0)
            rows.append(mean / np.linalg.norm(mean))
    return np.stack(rows).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Comparison:
    """The built weights beside the merged ones that they were made from, on the same messages."""

    rows: str
    """Which messages."""
    n: int
    quantised: Interval
    """In-scope accuracy of the fused decision, no threshold."""
    unquantised: Interval
    lm_quantised: Interval
    """The same of the language model alone."""
    lm_unquantised: Interval
    agreement: Interval
    """Messages on which both decide the same at the threshold."""
    mean_cosine: float
    """Between the hidden states of both."""
    least_cosine: float


def compare(
    classifier: Classifier,
    built: States,
    merged: States,
    examples: Sequence[Example],
    calibration: Calibration,
    rows: str,
) -> Comparison:
    """Both states (n, hidden) of the same examples, scored by the same heads and calibration."""
    texts = [normalise(example.text) for example in examples]
    labels = classifier.model.labels
    out = labels.index(OUT_OF_SCOPE)
    truth = np.array([labels.index(example.intent) for example in examples])
    inside = truth != out
    halves = []
    for states in (built, merged):
        evidence = classifier.evidence(states, texts)
        given, in_scope = probabilities(evidence, calibration, out)
        best = given.argmax(axis=1)
        best = best + (best >= out)
        alone = np.delete(evidence.lm, out, axis=1).argmax(axis=1)
        alone = alone + (alone >= out)
        decided = np.where(in_scope >= calibration.threshold, best, out)
        halves.append((_hits(best, truth, inside), _hits(alone, truth, inside), decided))
    (fused, lm, decided), (fused_merged, lm_merged, decided_merged) = halves
    lengths = np.linalg.norm(built, axis=1) * np.linalg.norm(merged, axis=1)
    cosines = (built * merged).sum(axis=1) / lengths
    return Comparison(
        rows=rows,
        n=len(examples),
        quantised=fused,
        unquantised=fused_merged,
        lm_quantised=lm,
        lm_unquantised=lm_merged,
        agreement=wilson(int((decided == decided_merged).sum()), len(examples)),
        mean_cosine=float(cosines.mean()),
        least_cosine=float(cosines.min()),
    )


def _hits(
    best: npt.NDArray[np.int64], truth: npt.NDArray[np.int64], inside: npt.NDArray[np.bool_]
) -> Interval:
    return wilson(int((best[inside] == truth[inside]).sum()), int(inside.sum()))
