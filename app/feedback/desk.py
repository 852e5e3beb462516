"""Where feedback is handed in: it knows the newest decisions, checks what is told, and keeps it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import structlog

from app import metrics
from app.classification.entities import mask
from app.classification.prompt import normalise
from app.domain import ModelRef, Prediction
from app.errors import FeedbackLost, UnknownPrediction
from app.feedback.recent import Recent, RecentDecisions
from app.feedback.store import Feedback, FeedbackStore

log = structlog.get_logger()

_DAY = 86_400.0
_HOUR = 3_600.0


class FeedbackDesk:
    """Event loop's thread only; the store works in threads of its own."""

    def __init__(
        self,
        store: FeedbackStore,
        *,
        keep_text: bool,
        days: float,
        recent_bytes: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """``keep_text``: messages are kept, masked. ``days``: how long anything is."""
        self.keep_text = keep_text
        self.recent = RecentDecisions(recent_bytes)
        self._store = store
        self._days = days
        self._clock = clock

    def remember(
        self, decision_id: str, client: str, model: ModelRef, found: Prediction, text: str
    ) -> None:
        """A decision was given out to the caller of that name."""
        kept = text if self.keep_text else None
        self.recent.add(decision_id, Recent(client, model, found.intent, found.confidence, kept))

    def find(self, decision_id: str, client: str) -> Recent:
        """The decision that ``client`` got. Raises :class:`UnknownPrediction`, also for another's."""
        recent = self.recent.get(decision_id)
        if recent is None or recent.client != client:
            raise UnknownPrediction(
                "no decision of that id was given to this caller here, or it is too long ago"
            )
        return recent

    async def put(self, decision_id: str, recent: Recent, intent: str) -> Feedback:
        """Keep what was right. Raises :class:`FeedbackLost`."""
        feedback = Feedback(
            id=decision_id,
            received=self._clock(),
            client=recent.client,
            model=recent.model.name,
            version=recent.model.version,
            predicted=recent.intent,
            confidence=recent.confidence,
            intent=intent,
            text=None if recent.text is None else mask(normalise(recent.text)),
        )
        await asyncio.to_thread(self._store.put, feedback)
        metrics.FEEDBACK.labels("agrees" if intent == recent.intent else "corrects").inc()
        return feedback

    async def delete(self, decision_id: str) -> None:
        """Forget all about a decision. Raises :class:`UnknownPrediction`, :class:`FeedbackLost`."""
        known = self.recent.drop(decision_id)
        kept = await asyncio.to_thread(self._store.delete, decision_id)
        if not known and not kept:
            raise UnknownPrediction("nothing is kept under that id")

    async def purge_hourly(self) -> None:
        """Forget what is too old, now and every hour."""
        while True:
            try:
                await asyncio.to_thread(self._store.purge, self._clock() - self._days * _DAY)
            except FeedbackLost as error:
                log.warning("old feedback could not be deleted", reason=str(error))
            await asyncio.sleep(_HOUR)

    async def close(self) -> None:
        await asyncio.to_thread(self._store.close)
