"""Text -> backend -> evidence -> decision. One per live model; shared by serving and evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from app.backends.base import Backend, TokenIds
from app.classification.cart import CartModel
from app.classification.cart_reader import CartReader
from app.classification.cascade import FITTED, Cascade, FirstStage, Stages
from app.classification.decision import Calibration, Evidence, decide
from app.classification.head import Head, unit
from app.classification.ngrams import NgramModel
from app.classification.prompt import normalise
from app.domain import Prediction


@dataclass(frozen=True, slots=True)
class Message:
    """A message ready for the model: normalised text and its token ids."""

    text: str
    tokens: TokenIds

    @property
    def size(self) -> int:
        """Tokens that it costs."""
        return len(self.tokens)


@dataclass(frozen=True, slots=True)
class IntentModel:
    """All of an artifact but the weights. ``labels`` are the columns of head and n-gram model.

    ``prototypes`` (m, hidden) float32 are mean hidden directions of the in-scope intents, of unit
    length. ``cascade`` says when n-grams may answer alone, if that was ever fitted.
    """

    labels: tuple[str, ...]
    head: Head
    ngrams: NgramModel
    prototypes: npt.NDArray[np.float32]
    calibration: Calibration
    cascade: Cascade | None = None


class Classifier:
    """Decides on messages. ``prepare`` is thread-safe; ``classify`` is the owner thread's.

    ``cart`` reads carts with the same weights, where the artifact has heads for it.
    """

    def __init__(self, backend: Backend, model: IntentModel, cart: CartModel | None = None) -> None:
        self.backend = backend
        self.model = model
        self.cart = CartReader(backend, cart) if cart is not None else None
        self._first_stages: dict[Stages, FirstStage] = {}
        if (cascade := model.cascade) is not None:
            self._first_stages = {
                stages: FirstStage(
                    model.ngrams, model.labels, cascade.calibration, cascade.threshold(stages)
                )
                for stages in FITTED
            }

    def prepare(self, text: str) -> Message:
        """Normalise and tokenise. Raises :class:`app.errors.EmptyText`."""
        text = normalise(text)
        return Message(text, self.backend.tokenise(text))

    def first_stage(self, stages: Stages) -> FirstStage | None:
        """What may answer before the language model; None where that is off or was not fitted."""
        return self._first_stages.get(stages)

    def classify(self, messages: Sequence[Message]) -> list[Prediction]:
        """One decision a message, in order.

        At most ``backend.info.max_sequences`` messages of ``backend.info.max_tokens`` tokens in all.
        """
        return decide(self.weigh(messages), self.model.calibration, self.model.labels)

    def weigh(self, messages: Sequence[Message]) -> Evidence:
        """What both models say, before fusion and calibration."""
        hidden = self.backend.embed([message.tokens for message in messages])
        return self.evidence(hidden, [message.text for message in messages])

    def evidence(self, hidden: npt.NDArray[np.float32], texts: Sequence[str]) -> Evidence:
        """Evidence from hidden states (n, hidden) computed elsewhere, and normalised texts."""
        scored = [self.model.ngrams.score(text) for text in texts]
        direction = unit(hidden) / np.float32(np.sqrt(hidden.shape[1]))
        return Evidence(
            lm=self.model.head.score(hidden),
            ngram=np.stack([row for row, _ in scored]),
            prototype_cosine=(direction @ self.model.prototypes.T).max(axis=1),
            known_share=np.array([known for _, known in scored], dtype=np.float32),
        )

    def close(self) -> None:
        self.backend.close()
