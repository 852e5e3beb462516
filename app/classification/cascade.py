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
from app.domain import OUT_OF_SCOPE, Prediction

Stages: TypeAlias = Literal["off", "relief", "careful", "fast"]
"""Whether n-grams may answer, and how sure they must be. In relief they only answer, carefully, what
would be refused otherwise."""
FITTED: tuple[Literal["relief", "careful", "fast"], ...] = ("relief", "careful", "fast")


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
        self._inside = np.array([label != OUT_OF_SCOPE for label in labels])

    def answers(self, texts: Sequence[str]) -> list[Prediction | None]:
        """Decisions on normalised texts, None where the language model is to be asked."""
        found: list[Prediction | None] = [None] * len(texts)
        scored = [self._ngrams.score(text) for text in texts]
        places = [place for place, (scores, _) in enumerate(scored) if self._may_be_sure(scores)]
        if not places:
            return found
        evidence = ngrams_alone(
            np.stack([scored[place][0] for place in places]),
            np.array([scored[place][1] for place in places], dtype=np.float32),
        )
        decided = decide(evidence, self._calibration, self._labels)
        for place, prediction in zip(places, decided, strict=True):
            if prediction.confidence >= self._least:
                found[place] = prediction
        return found

    def _may_be_sure(self, scores: npt.NDArray[np.float32]) -> bool:
        """Whether the best intent, were the message surely in scope, is likely enough.

        Cheap beside a decision, and rules out most of what is passed on.
        """
        inside = scores[self._inside]
        sharpness = self._calibration.lm_weight + self._calibration.ngram_weight
        likeliest = 1.0 / np.exp(sharpness * (inside - inside.max())).sum()
        return bool(likeliest >= self._least - 1e-4)


def ngrams_alone(scores: npt.NDArray[np.float32], known_share: npt.NDArray[np.float32]) -> Evidence:
    """Evidence of ``scores`` (n, labels) in which the language model only repeats the n-grams."""
    return Evidence(
        lm=scores,
        ngram=scores,
        prototype_cosine=np.zeros(len(scores), np.float32),
        known_share=known_share,
    )
