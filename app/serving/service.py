"""Admit, enqueue, await, time: the way of every message, single or in a batch."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter

from app import metrics
from app.backends.base import Backend
from app.classification.cart_reader import CartMessage
from app.classification.cascade import FirstStage, Stages
from app.classification.classifier import Message
from app.classification.prompt import normalise
from app.domain import ModelRef, Prediction, Timings
from app.errors import (
    BatchTooLarge,
    DeadlineExceeded,
    InputError,
    NotReady,
    QueueFull,
    ShopintentError,
    TextTooLong,
)
from app.serving.cache import PredictionCache
from app.serving.lifecycle import Lifecycle
from app.serving.limits import Limits
from app.serving.live_model import LiveModel
from app.serving.registry import Registry
from app.serving.ticket import Outcome, Ticket

_MANY_CHARS = 8_000
"""From here on, normalising and tokenising would hold up the event loop for milliseconds."""
_MANY_CHARS_FIRST = 1_000
"""The same of n-grams' answers."""
_RELIEVED = 16
"""Messages of a request that n-grams look at before it is refused: a refusal must stay cheap."""


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer to one message."""

    prediction: Prediction
    model: ModelRef
    timings: Timings


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """An admitted request. Await :meth:`decisions`, or :meth:`abandon` it when its caller has gone."""

    model: LiveModel
    ref: ModelRef
    texts: Sequence[str]
    known: dict[int, Outcome]
    """From the cache, by place in the request."""
    ticket: Ticket | None
    """For all the others, if there are any."""
    started: float
    cache: PredictionCache

    @property
    def done(self) -> bool:
        """Nothing has to be computed, or it is."""
        return self.ticket is None or self.ticket.future.done()

    def abandon(self) -> None:
        """Drop what still waits. Whoever awaits :meth:`decisions` is cancelled."""
        if self.ticket is not None:
            self.ticket.abandon()
            self.model.queue.leave(self.ticket)

    async def decisions(self) -> list[Decision]:
        """All answers, in order. Raises what made the request fail."""
        if self.ticket is not None:
            try:
                computed = await self.ticket.future
            except BaseException:
                self.abandon()
                raise
            for index, outcome in computed.items():
                self.cache.put((self.model.digest, self.texts[index]), outcome.prediction)
            self.known.update(computed)
        total = perf_counter() - self.started
        decisions = [self._decision(self.known[i], total) for i in range(len(self.texts))]
        self.model.note(self.texts, [decision.prediction for decision in decisions])
        return decisions

    def _decision(self, outcome: Outcome, total: float) -> Decision:
        ref, prediction = self.ref, outcome.prediction
        metrics.PREDICTIONS.labels(ref.name, ref.version, prediction.intent).inc()
        metrics.CONFIDENCE.labels(ref.name, ref.version).observe(prediction.confidence)
        return Decision(prediction, ref, Timings(outcome.queue, outcome.inference, total))


class Service:
    """Takes messages to the live models. Event loop's thread only."""

    def __init__(
        self,
        registry: Registry,
        cache: PredictionCache,
        limits: Limits,
        lifecycle: Lifecycle,
        stages: Stages = "off",
    ) -> None:
        """``stages``: whether n-grams may answer before the language model is asked."""
        self.registry = registry
        self.cache = cache
        self.limits = limits
        self.lifecycle = lifecycle
        self.stages: Stages = stages

    async def admit(
        self, texts: Sequence[str], model: str | None = None, deadline: float | None = None
    ) -> Pending:
        """Take a whole request or refuse it at once. ``deadline`` is in seconds from now.

        Raises :class:`InputError`, :class:`app.errors.UnknownModel`,
        :class:`app.errors.OverloadError` or :class:`app.errors.DeadlineExceeded`.
        """
        started = perf_counter()
        self.check_open()
        _ = self.registry.get(model).loaded  # refuse before any work while it is not live
        self.check_size(texts)
        if sum(map(len, texts)) > _MANY_CHARS:
            normal = await asyncio.to_thread(_normalise_all, texts)
        else:
            normal = _normalise_all(texts)
        while True:
            live = self.registry.get(model)
            try:
                return await self._take(live, normal, started, deadline)
            except ShopintentError:
                if live is self.registry.get(model):
                    raise
                # The version was replaced between two steps of this request: ask its successor.

    async def _take(
        self, live: LiveModel, normal: Sequence[str], started: float, deadline: float | None
    ) -> Pending:
        known, missing = self._look_up(live, normal)
        if self.stages in ("careful", "fast"):
            missing = await self._ask_ngrams(live, normal, known, missing)
        try:
            ticket = await self._enqueue(live, normal, missing, started, deadline)
        except (QueueFull, DeadlineExceeded):
            rest = missing
            if self.stages == "relief" and len(missing) <= _RELIEVED:
                rest = await self._ask_ngrams(live, normal, known, missing)
            late = perf_counter() > started + (deadline or self.limits.deadline)
            if late or len(rest) == len(missing):
                raise
            ticket = await self._enqueue(live, normal, rest, started, deadline)
        return Pending(
            model=live,
            ref=live.ref,
            texts=normal,
            known=known,
            ticket=ticket,
            started=started,
            cache=self.cache,
        )

    async def _ask_ngrams(
        self,
        live: LiveModel,
        normal: Sequence[str],
        known: dict[int, Outcome],
        missing: list[int],
    ) -> list[int]:
        """Add to ``known`` what n-grams are sure of; returns the places of what they are not."""
        stage = live.loaded.classifier.first_stage(self.stages) if missing else None
        if stage is None:
            return missing
        answered = await _ask_first(stage, live, {i: normal[i] for i in missing})
        if self.stages != "relief":  # when there is room again, both halves shall decide
            for index, outcome in answered.items():
                self.cache.put((live.digest, normal[index]), outcome.prediction)
        known |= answered
        return [i for i in missing if i not in answered]

    async def _enqueue(
        self,
        live: LiveModel,
        normal: Sequence[str],
        missing: Sequence[int],
        started: float,
        deadline: float | None,
    ) -> Ticket | None:
        """A ticket for the texts at the places ``missing``, None if there are none."""
        if not missing:
            return None
        texts = [(i, normal[i]) for i in missing]
        if live.queue.full:  # the cheap refusal: before anything is tokenised
            raise live.queue.refusal()
        backend = live.loaded.classifier.backend
        if sum(len(text) for _, text in texts) > _MANY_CHARS:
            messages = await asyncio.to_thread(_tokenise_all, backend, texts)
        else:
            messages = _tokenise_all(backend, texts)
        return self.enter(live, messages, started, deadline)

    def enter(
        self,
        live: LiveModel,
        messages: Sequence[tuple[int, Message | CartMessage]],
        started: float,
        deadline: float | None,
    ) -> Ticket:
        """Put prepared messages into the model's queue, with the clock of their request."""
        ticket = Ticket(messages, started + (deadline or self.limits.deadline))
        try:
            live.queue.enter(ticket)
        except ShopintentError:
            ticket.abandon()
            raise
        return ticket

    def check_open(self) -> None:
        """Raises :class:`NotReady` once the service is stopping."""
        if self.lifecycle.draining:
            raise NotReady("the service is stopping; ask another replica or try again")

    def check_size(self, texts: Sequence[str]) -> None:
        """Raises :class:`BatchTooLarge` or :class:`TextTooLong`."""
        if len(texts) > self.limits.batch_messages:
            raise BatchTooLarge(f"at most {self.limits.batch_messages} messages in one request")
        for index, text in enumerate(texts):
            if len(text) > self.limits.text_chars:
                error = TextTooLong(f"at most {self.limits.text_chars} characters in one message")
                error.index = index
                raise error

    def _look_up(
        self, live: LiveModel, texts: Sequence[str]
    ) -> tuple[dict[int, Outcome], list[int]]:
        """What the cache knows, and the places of what must be computed."""
        outcomes: dict[int, Outcome] = {}
        missing: list[int] = []
        for index, text in enumerate(texts):
            known = self.cache.get((live.digest, text))
            if known is None:
                missing.append(index)
            else:
                outcomes[index] = Outcome(known)
        return outcomes, missing


async def _ask_first(
    stage: FirstStage, live: LiveModel, texts: dict[int, str]
) -> dict[int, Outcome]:
    """What n-grams are sure of, by place in the request."""
    started = perf_counter()
    asked = list(texts.values())
    if sum(map(len, asked)) > _MANY_CHARS_FIRST:
        found = await asyncio.to_thread(stage.answers, asked)
    else:
        found = stage.answers(asked)
    seconds = perf_counter() - started
    outcomes = {
        place: Outcome(answer, inference=seconds)
        for place, answer in zip(texts, found, strict=True)
        if answer is not None
    }
    answered, passed = len(outcomes), len(texts) - len(outcomes)
    for result, count in (("answered", answered), ("passed", passed)):
        if count:
            metrics.FIRST_STAGE.labels(live.name, result).inc(count)
    return outcomes


def _normalise_all(texts: Sequence[str]) -> list[str]:
    normal: list[str] = []
    for index, text in enumerate(texts):
        try:
            normal.append(normalise(text))
        except InputError as error:
            error.index = index
            raise
    return normal


def _tokenise_all(backend: Backend, texts: Sequence[tuple[int, str]]) -> list[tuple[int, Message]]:
    return [(index, Message(text, backend.tokenise(text))) for index, text in texts]
