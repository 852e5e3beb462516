"""A model on labelled sets: the fused decision, and beside it each half alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from app.classification.cascade import Cascade
from app.classification.decision import Calibration, Evidence, probabilities
from app.classification.head import log_softmax
from app.domain import OUT_OF_SCOPE
from training.cascade import NEVER, Staged, TwoStages
from training.examples import Example
from training.metrics import Interval, Scores, score, wilson

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class TestSet:
    """Messages to be reported on, once. ``__test__`` keeps pytest from collecting it."""

    __test__ = False

    name: str
    examples: Sequence[Example]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What the report shows of one set."""

    name: str
    n: int
    fused: Scores
    lm: Scores
    ngram: Scores
    by_language: dict[str, Interval]
    by_intent: dict[str, Interval]
    confusions: tuple[tuple[str, str, int], ...]
    """(meant, decided, messages), the commonest first; decisions at the threshold."""
    risk: tuple[tuple[float, float], ...]
    """(coverage, error among the answered): in-scope and out-of-scope messages together."""
    reliability: tuple[tuple[float, float, int], ...]
    """(mean confidence, accuracy, messages) of ten bins, in-scope messages."""
    stages: dict[str, Staged] = field(default_factory=dict)
    """With n-grams answering first, by how sure they must be."""


def evaluate(
    test: TestSet,
    evidence: Evidence,
    labels: Sequence[str],
    calibration: Calibration,
    cascade: Cascade | None = None,
) -> Evaluation:
    """Figures of one set from the evidence on its messages, in the same order."""
    columns = {label: column for column, label in enumerate(labels)}
    out = columns[OUT_OF_SCOPE]
    truth = np.array([columns[example.intent] for example in test.examples])
    given, in_scope = probabilities(evidence, calibration, out)
    threshold = calibration.threshold
    best = given.argmax(axis=1)
    best = best + (best >= out)
    decided = np.where(in_scope >= threshold, best, out)
    inside = truth != out
    languages = np.array([example.language for example in test.examples])
    return Evaluation(
        name=test.name,
        n=len(truth),
        fused=score(given, in_scope, truth, out, threshold),
        lm=_alone(evidence.lm, truth, out),
        ngram=_alone(evidence.ngram, truth, out),
        by_language={
            str(language): _hits(best, truth, inside & (languages == language))
            for language in sorted(set(languages))
        },
        by_intent={
            labels[i]: _hits(best, truth, truth == i) for i in sorted(set(truth[inside].tolist()))
        },
        confusions=tuple(
            (labels[meant], labels[got], count)
            for (meant, got), count in Counter(
                zip(
                    truth[decided != truth].tolist(),
                    decided[decided != truth].tolist(),
                    strict=True,
                )
            ).most_common(25)
        ),
        risk=_risk(given.max(axis=1) * in_scope, best == truth),
        reliability=_reliability(given[inside].max(axis=1), best[inside] == truth[inside]),
        stages={} if cascade is None else _stages(evidence, truth, out, calibration, cascade),
    )


def _stages(
    evidence: Evidence,
    truth: npt.NDArray[np.int64],
    out: int,
    calibration: Calibration,
    cascade: Cascade,
) -> dict[str, Staged]:
    both = TwoStages(evidence, truth, out, calibration, cascade.calibration)
    thresholds = {"off": NEVER, "careful": cascade.careful, "fast": cascade.fast}
    return {name: both.measure(least) for name, least in thresholds.items()}


def _alone(scores: Floats, truth: npt.NDArray[np.int64], out: int) -> Scores:
    """One half by itself: its own probabilities, answering when in scope is the likelier."""
    given = np.exp(log_softmax(np.delete(scores, out, axis=1)))
    return score(given, np.float32(1.0) - np.exp(scores[:, out]), truth, out, threshold=0.5)


def _hits(
    best: npt.NDArray[np.int64], truth: npt.NDArray[np.int64], rows: npt.NDArray[np.bool_]
) -> Interval:
    return wilson(int((best[rows] == truth[rows]).sum()), int(rows.sum()))


def _risk(confidence: Floats, correct: npt.NDArray[np.bool_]) -> tuple[tuple[float, float], ...]:
    order = np.argsort(-confidence)
    wrong = np.cumsum(~correct[order])
    counts = np.arange(1, len(order) + 1)
    places = np.unique(np.linspace(0, len(order) - 1, 50).astype(int))
    return tuple((float(counts[i] / len(order)), float(wrong[i] / counts[i])) for i in places)


def _reliability(
    confidence: Floats, correct: npt.NDArray[np.bool_]
) -> tuple[tuple[float, float, int], ...]:
    places = np.minimum((confidence * 10).astype(int), 9)
    return tuple(
        (
            float(confidence[places == b].mean()),
            float(correct[places == b].mean()),
            int((places == b).sum()),
        )
        for b in range(10)
        if (places == b).any()
    )
