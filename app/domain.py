"""The words the whole service speaks in. No third-party import, no I/O."""

from __future__ import annotations

from dataclasses import dataclass

OUT_OF_SCOPE = "out_of_scope"
"""The intent of a message that the model was not made to serve."""


@dataclass(frozen=True, slots=True)
class IntentScore:
    """One intent and the calibrated probability that it is what the customer wants."""

    intent: str
    confidence: float


@dataclass(frozen=True, slots=True)
class Prediction:
    """The decision on one message.

    ``ranking`` holds every in-scope intent, best first. Its confidences and the probability that the
    message is out of scope add up to one. When ``in_scope`` is false, ``intent`` is
    :data:`OUT_OF_SCOPE` and ``confidence`` is the probability of that.
    """

    intent: str
    confidence: float
    in_scope: bool
    ranking: tuple[IntentScore, ...]


@dataclass(frozen=True, slots=True)
class ModelRef:
    """Which model gave an answer."""

    name: str
    version: str
    backend: str


@dataclass(frozen=True, slots=True)
class Timings:
    """Where one request's time went, in seconds."""

    queue: float
    inference: float
    total: float
