"""A candidate that answers for nobody: a share of real messages, compared with the live answers.

It gets a message some time after the live answer has been sent, at the lowest priority, and only
when the live model has nothing to do: under load the shadow goes first.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter

from app import metrics
from app.classification.classifier import Message
from app.domain import Prediction
from app.errors import DeadlineExceeded, OverloadError, ShopintentError
from app.serving.batcher import Load, Manner
from app.serving.live_model import LiveModel, State
from app.serving.ticket import Outcome, Ticket

_LATER = 0.02
"""Seconds by which the live answer is on its way."""
_QUEUE_TOKENS = 512
_PATIENCE = 10.0
"""Seconds after which a comparison is given up."""


class Shadow:
    """A version beside the live one. Event loop's thread only."""

    def __init__(
        self,
        live: LiveModel,
        load: Load,
        load_lock: threading.Lock,
        version: str,
        share: float,
        busy: Callable[[], bool],
    ) -> None:
        """``share`` of the messages, above 0 and at most 1; ``busy`` as in :class:`LiveModel`."""
        self.version = version
        self.share = share
        self.counts: Counter[str] = Counter()
        """Messages by result, as in the metrics."""
        self.candidate = LiveModel(
            live.name,
            load,
            _QUEUE_TOKENS,
            load_lock,
            version=version,
            manner=Manner.SHADOW,
            busy=busy,
        )
        self._live = live
        self._due = 0.0

    def start(self) -> None:
        self.candidate.start()
        self._live.on_decisions = self._offer

    async def close(self, patience: float) -> None:
        if self._live.on_decisions == self._offer:
            self._live.on_decisions = None
        for ticket in self.candidate.queue.clear():
            ticket.abandon()
        await self.candidate.close(patience)

    def _offer(self, texts: Sequence[str], predictions: Sequence[Prediction]) -> None:
        if self.candidate.state is not State.LIVE:
            return
        chosen = []
        for text, prediction in zip(texts, predictions, strict=True):
            self._due += self.share
            if self._due >= 1.0:
                self._due -= 1.0
                chosen.append((text, prediction))
        if chosen:
            asyncio.get_running_loop().call_later(_LATER, self._send, chosen)

    def _send(self, chosen: Sequence[tuple[str, Prediction]]) -> None:
        for text, prediction in chosen:
            if self.candidate.state is not State.LIVE:
                return
            if self._live.queue.tokens:
                self._count("dropped")
                continue
            try:
                tokens = self.candidate.loaded.classifier.backend.tokenise(text)
                ticket = Ticket([(0, Message(text, tokens))], perf_counter() + _PATIENCE)
            except ShopintentError:
                self._count("failed")
                continue
            ticket.future.add_done_callback(partial(self._compare, prediction))
            try:
                self.candidate.queue.enter(ticket)
            except (OverloadError, DeadlineExceeded) as error:
                ticket.fail(error)

    def _compare(self, live: Prediction, answer: asyncio.Future[dict[int, Outcome]]) -> None:
        if answer.cancelled():
            return
        error = answer.exception()
        if error is not None:
            given_up = isinstance(error, OverloadError | DeadlineExceeded)
            self._count("dropped" if given_up else "failed")
            return
        found = answer.result()[0].prediction
        self._count("agreed" if found.intent == live.intent else "differed")
        metrics.SHADOW_DIFFERENCE.labels(self._live.name, self.version).observe(
            abs(found.confidence - live.confidence)
        )

    def _count(self, result: str) -> None:
        self.counts[result] += 1
        metrics.SHADOW_MESSAGES.labels(self._live.name, self.version, result).inc()
