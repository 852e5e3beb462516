"""What a kept piece of feedback is, and what a place that keeps it can do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Feedback:
    """A decision and what was right instead. ``text`` is masked, or None where none is kept."""

    id: str
    received: float
    """Seconds since 1970."""
    client: str
    """Name of the key that told it."""
    model: str
    version: str
    predicted: str
    confidence: float
    intent: str
    text: str | None


class FeedbackStore(Protocol):
    """Called from any thread. Every method raises :class:`app.errors.FeedbackLost` when it cannot."""

    def put(self, feedback: Feedback) -> None:
        """Keep; the last word on an id counts."""

    def delete(self, feedback_id: str) -> bool:
        """Forget for good; whether there was any."""

    def purge(self, before: float) -> int:
        """Forget what was received before; how many."""

    def rows(self) -> Iterator[Feedback]:
        """All, oldest first."""

    def close(self) -> None:
        """Release what is held."""
