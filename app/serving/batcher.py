"""One thread that owns one model: it loads it, feeds it batches from the queue and frees it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from time import perf_counter
from typing import Protocol, TypeAlias

import structlog

from app import metrics
from app.artifacts.manifest import Manifest
from app.classification.cart_reader import CartMessage
from app.classification.classifier import Classifier, Message
from app.domain import CartDecision, Prediction
from app.errors import InferenceFailed, NotReady, ShopintentError
from app.serving.background import (
    COMPUTING,
    LAST,
    GiveWay,
    give_memory_back,
    in_background,
    step_back,
)
from app.serving.queue import TokenQueue
from app.serving.ticket import Outcome, Ticket, Work

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Loaded:
    """A classifier that has proved itself, and the manifest it was made from."""

    manifest: Manifest
    classifier: Classifier
    intent_shares: Mapping[str, float] | None = None
    """How often each intent is to be expected, where that was published."""


class Load(Protocol):
    """From a model's name, and a version or else the active one, to a loaded model.

    With ``give_way`` it lets others go first, while it loads and until :meth:`GiveWay.stop`.
    """

    def __call__(
        self, name: str, version: str | None = None, give_way: GiveWay | None = None, /
    ) -> Loaded: ...


Answer: TypeAlias = tuple[Ticket, int, Outcome | ShopintentError]

_PACE_TEXT = "where is my order? it should have come on tuesday"


class Manner(Enum):
    """How a model comes up, and what it may take from others."""

    ALONE = "alone"
    """Nobody is served by this name yet: as fast as it can."""
    SUCCESSOR = "successor"
    """Another version serves: loads in the background, then serves like any."""
    SHADOW = "shadow"
    """Never more than what others leave."""


class Batcher:
    """Runs ``load``, then batches until the queue is closed and drained, then closes the model.

    All answers go back to the event loop in which it was made, one call a batch. ``on_state``
    is called there too: with the loaded model, or with the reason why there is none (any more).
    """

    def __init__(
        self,
        name: str,
        load: Callable[[], Loaded],
        queue: TokenQueue,
        on_state: Callable[[Loaded | ShopintentError], None],
        load_lock: threading.Lock,
        manner: Manner,
        give_way: GiveWay | None = None,
    ) -> None:
        self.name = name
        self._give_way = give_way
        self._manner = manner
        self._load = load
        self._queue = queue
        self._on_state = on_state
        self._computing: set[Ticket] = set()
        self._load_lock = load_lock
        self._loop = asyncio.get_running_loop()
        self._batch_messages = metrics.BATCH_MESSAGES.labels(name)
        self._inference_seconds = metrics.INFERENCE_DURATION.labels(name)
        self._queue_seconds = metrics.QUEUE_DURATION.labels(name)
        self._ended = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name=f"model-{name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    async def ended(self, patience: float) -> bool:
        """Wait for the thread to end; whether it did.

        No thread waits for it: the end of the process would wait for that one, however long.
        """
        if self._thread.is_alive():
            with suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    await self._ended.wait()
        return self._ended.is_set() or not self._thread.is_alive()

    def hurry(self) -> None:
        """Let a load end soon, whoever else has work: nobody waits for this model any more."""
        if self._give_way is not None:
            self._give_way.stop()

    def _run(self) -> None:
        try:
            self._own()
        finally:
            self._tell(self._ended.set)

    def _own(self) -> None:
        step_back(COMPUTING)
        try:
            # One at a time: loading is bound by disk and memory, and two at once need both.
            with self._load_lock:
                loaded = self._load_in_manner()
                if self._queue.closed:  # nobody wants it any more: the next one may have its memory
                    loaded.classifier.close()
                    del loaded
                    give_memory_back()
                    return
        except ShopintentError as error:
            self._tell(self._on_state, error)
            return
        except Exception as error:
            log.exception("model load failed", model=self.name, exc_info=error)
            unnamed = NotReady(f"loading failed with {type(error).__name__}; the log tells where")
            self._tell(self._on_state, unnamed)
            return
        try:
            if self._queue.pace is None:
                self._measure_pace(loaded.classifier)
            self._tell(self._on_state, loaded)
            self._serve(loaded.classifier)
        except BaseException as error:  # the thread ends; nobody may wait for it for ever
            log.exception("model thread broke", model=self.name, exc_info=error)
            stopped = NotReady("the model has stopped; the log tells why")
            self._tell(self._on_state, stopped)
            self._tell(_fail_all, [*self._computing, *self._queue.clear()], stopped)
        finally:
            loaded.classifier.close()
            del loaded
            give_memory_back()

    def _load_in_manner(self) -> Loaded:
        if self._manner is Manner.SHADOW:
            step_back(LAST)
        if self._manner is not Manner.SUCCESSOR:
            return self._load()
        # Hashing, repacking and warming up take seconds of every core: the live version goes first.
        loaded = in_background(f"load-{self.name}", self._load)
        if self._give_way is not None:
            self._give_way.stop()
        return loaded

    def _measure_pace(self, classifier: Classifier) -> None:
        """Time one full batch, so that the first refusal already knows how fast work drains."""
        info = classifier.backend.info
        message = classifier.prepare(_PACE_TEXT)
        length = max(1, len(message.tokens))
        count = max(1, min(info.max_sequences, info.max_tokens // length))
        started = perf_counter()
        classifier.classify([message] * count)
        self._queue.learn(count * length, perf_counter() - started)

    def _serve(self, classifier: Classifier) -> None:
        info = classifier.backend.info
        while batch := self._queue.take(info.max_sequences, info.max_tokens):
            self._computing = {work.ticket for work in batch}
            started = perf_counter()
            answers = self._compute(classifier, batch, started)
            seconds = perf_counter() - started
            self._queue.done(seconds)
            self._tell(_deliver, answers)
            self._computing = set()
            self._batch_messages.observe(len(batch))
            self._inference_seconds.observe(seconds)
            for work in batch:
                self._queue_seconds.observe(started - work.ticket.admitted)

    def _compute(
        self, classifier: Classifier, batch: Sequence[Work], started: float
    ) -> list[Answer]:
        """One answer a message. When a batch of several fails, each is tried alone."""
        try:
            decisions = _decide(classifier, [work.message for work in batch])
        except Exception as error:
            log.warning("batch failed", model=self.name, messages=len(batch), exc_info=error)
            if len(batch) > 1:
                return [
                    answer
                    for work in batch
                    for answer in self._compute(classifier, [work], started)
                ]
            return [(batch[0].ticket, batch[0].index, _named(error, batch[0].index))]
        seconds = perf_counter() - started
        return [
            (work.ticket, work.index, Outcome(found, started - work.ticket.admitted, seconds))
            for work, found in zip(batch, decisions, strict=True)
        ]

    def _tell(self, call: Callable[..., None], *arguments: object) -> None:
        try:
            self._loop.call_soon_threadsafe(call, *arguments)
        except RuntimeError:  # the loop is closed: nobody is left to be told
            log.debug("event loop is gone", model=self.name)


def _decide(
    classifier: Classifier, messages: Sequence[Message | CartMessage]
) -> Sequence[Prediction | CartDecision]:
    """One decision a message; a cart comes alone."""
    first = messages[0]
    if isinstance(first, CartMessage):
        assert classifier.cart is not None
        return [classifier.cart.decide(first)]
    return classifier.classify([one for one in messages if isinstance(one, Message)])


def _named(error: Exception, index: int) -> InferenceFailed:
    failure = InferenceFailed("the model could not compute an answer for this message")
    failure.index = index
    failure.__cause__ = error
    return failure


def _deliver(answers: Sequence[Answer]) -> None:
    for ticket, index, answer in answers:
        if isinstance(answer, Outcome):
            ticket.deliver(index, answer)
        else:
            ticket.fail(answer)


def _fail_all(tickets: Sequence[Ticket], error: NotReady) -> None:
    for ticket in tickets:
        ticket.fail(error)
