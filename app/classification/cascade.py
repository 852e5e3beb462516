"""Two stages: what the n-grams are sure of need not wait for the language model.

A cascade (Viola and Jones 2001): a cheap model answers the easy messages, the costly one the others.
How sure is sure enough was found on held-out messages (``training.cascade``) and travels in the
artifact. That a message is out of scope is for the language model to say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from app.classification.decision import Calibration, Evidence, decide
from app.classification.ngrams import NgramModel
from app.domain import Prediction

Stages: TypeAlias = Literal["off", "relief", "careful", "fast"]
"""Whether n-grams may answer, and how sure they must be. In relief they only answer, carefully, what
would be refused otherwise."""


@dataclass(frozen=True, slots=True)
class Cascade:
    """What makes probabilities of n-gram scores alone, and the confidences from which they answer.

    ``careful`` costs next to no accuracy, ``fast`` at most a point of it: see ``training.cascade``.
    """

    calibration: Calibration
    careful: float
    fast: float

    def threshold(self, stages: Literal["relief", "careful", "fast"]) -> float:
        return self.fast if stages == "fast" else self.careful


class FirstStage:
    """The n-gram model by itself. Thread-safe."""

    def __init__(
        self, ngrams: NgramModel, labels: tuple[str, ...], calibration: Calibration, least: float
    ) -> None:
        self._ngrams, self._labels = ngrams, labels
        self._calibration, self._least = calibration, least

    def answers(self, texts: Sequence[str]) -> list[Prediction | None]:
        """Decisions on normalised texts, None where the language model is to be asked."""
        scored = [self._ngrams.score(text) for text in texts]
        evidence = ngrams_alone(
            np.stack([row for row, _ in scored]),
            np.array([known for _, known in scored], dtype=np.float32),
        )
        return [
            found if found.confidence >= self._least else None
            for found in decide(evidence, self._calibration, self._labels)
        ]


def ngrams_alone(scores: npt.NDArray[np.float32], known_share: npt.NDArray[np.float32]) -> Evidence:
    """Evidence of ``scores`` (n, labels) in which the language model only repeats the n-grams."""
    return Evidence(
        lm=scores,
        ngram=scores,
        prototype_cosine=np.zeros(len(scores), np.float32),
        known_share=known_share,
    )
