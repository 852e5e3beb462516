"""When the n-gram model's answer may stand: the thresholds of a cascade, from held-out messages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from sklearn.isotonic import IsotonicRegression

from app.classification.cascade import Cascade, ngrams_alone
from app.classification.decision import Calibration, Evidence, probabilities
from training.calibrate import OUT_SHARE, calibrate
from training.metrics import Interval, calibration_error, wilson

CAREFUL, FAST = 0.002, 0.01
"""How much of the in-scope accuracy, and of the messages found out of scope, may be lost."""
NEVER = 2.0
"""No confidence is that great."""

Labels = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Staged:
    """What a cascade does on one set."""

    share: Interval
    """In-scope messages that n-grams answer."""
    accuracy: Interval
    """Right intents among in-scope messages, no threshold."""
    out_recall: Interval
    """Of the messages out of scope those that are said to be."""
    ece: float
    """Of the confidences given out for in-scope messages."""


class TwoStages:
    """Both stages' word on the same messages, of which ``labels`` (n,) are the columns meant."""

    def __init__(
        self,
        evidence: Evidence,
        labels: Labels,
        out_index: int,
        calibration: Calibration,
        first: Calibration,
    ) -> None:
        self._labels, self._out = labels, out_index
        self._inside = labels != out_index
        self._given, in_scope = probabilities(evidence, calibration, out_index)
        self._answered = in_scope >= calibration.threshold
        alone = ngrams_alone(evidence.ngram, evidence.known_share)
        self._first, in_scope = probabilities(alone, first, out_index)
        self.sure = self._first.max(axis=1) * in_scope
        """Confidences of the n-grams (n,)."""

    def measure(self, least: float) -> Staged:
        """N-grams answer from the confidence ``least`` on."""
        first = self.sure >= least
        given = np.where(first[:, None], self._first, self._given)
        best = given.argmax(axis=1)
        best = best + (best >= self._out)
        decided = np.where(first | self._answered, best, self._out)
        inside = self._inside
        right = best[inside] == self._labels[inside]
        found = decided[~inside] == self._out
        return Staged(
            share=wilson(int(first[inside].sum()), len(right)),
            accuracy=wilson(int(right.sum()), len(right)),
            out_recall=wilson(int(found.sum()), len(found)),
            ece=calibration_error(given.max(axis=1)[inside], right),
        )


def fit_cascade(
    evidence: Evidence,
    labels: Labels,
    out_index: int,
    calibration: Calibration,
    out_share: float = OUT_SHARE,
) -> Cascade:
    """``evidence`` and ``labels`` (n,) are those that ``calibration`` was fitted on.

    N-grams answer from the lowest confidence on at which all decisions together lose at most
    :data:`CAREFUL` or :data:`FAST`. A threshold of :data:`NEVER` lets them answer nothing.
    """
    alone = ngrams_alone(evidence.ngram, evidence.known_share)
    first = replace(calibrate(alone, labels, out_index, out_share=out_share), threshold=0.0)
    both = TwoStages(evidence, labels, out_index, calibration, first)
    without = both.measure(NEVER)
    steps = np.unique(np.quantile(both.sure, np.linspace(0.2, 1.0, 321)))[::-1]
    lost = _lost(without, [both.measure(least) for least in steps.tolist()])

    def lowest(most: float) -> float:
        allowed = steps[lost <= most]
        return float(allowed[-1]) if len(allowed) else NEVER

    return Cascade(first, careful=lowest(CAREFUL), fast=lowest(FAST))


def _lost(without: Staged, steps: Sequence[Staged]) -> npt.NDArray[np.float64]:
    """The greater of two falls at each step (steps,): of accuracy, and of what is found out of scope.

    The lower the threshold, the more must be lost in the long run, but from one step to the next a
    single message out of scope can decide. So what is counted is made to rise only (isotonic
    regression: Barlow and others 1972); the first step that happens to lose too much decides nothing.
    """
    falls = [
        [old.value - getattr(staged, name).value for staged in steps]
        for name, old in (("accuracy", without.accuracy), ("out_recall", without.out_recall))
        if old.n
    ]
    order = np.arange(len(steps))
    risen = [IsotonicRegression().fit_transform(order, fall) for fall in falls]
    return np.asarray(np.max(risen, axis=0), np.float64)
