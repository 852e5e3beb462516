"""The bounded queue before a model: counted in tokens, fair between requests, honest about its pace."""

from __future__ import annotations

import threading
from collections import deque
from time import perf_counter

from prometheus_client import Gauge

from app.errors import DeadlineExceeded, NotReady, QueueFull
from app.serving.ticket import Ticket, Work

_SMOOTHING = 0.2
"""Share of the newest batch in the measured pace."""
_TELLING = 64
"""Tokens from which on a batch is large enough to lower the measured pace."""
_MARGIN = 1.25
"""How much slower than measured the work may go and still be in time."""


class TokenQueue:
    """Requests enter whole or not at all; batches leave, taking one message of each request in turn.

    So a single message waits for one round, not for all of a bulk request that came before it. Tokens
    count from admission until their batch is done. Entered from the event loop, emptied by the
    owner thread.
    """

    def __init__(self, limit: int, gauge: Gauge) -> None:
        self.limit = limit
        self._gauge = gauge
        self._shown = 0
        self._ring: deque[Ticket] = deque()
        self._waiting = 0
        self._computing = 0
        self._measured = True
        """Whether the batch being computed tells how fast work drains: of a cart only guesses do."""
        self._tokens_per_second: float | None = None
        self._closed = False
        self._changed = threading.Condition()

    @property
    def tokens(self) -> int:
        """Admitted and not yet answered."""
        return self._waiting + self._computing

    @property
    def closed(self) -> bool:
        """Nothing is admitted any more. Any thread may ask."""
        return self._closed

    @property
    def full(self) -> bool:
        return self.tokens >= self.limit

    def refusal(self, tokens: int = 0) -> QueueFull:
        """The error for a request of so many tokens, with the time until there will be room."""
        excess = max(self.tokens + tokens - self.limit, self.tokens // 8)
        return QueueFull(
            "more messages wait than can be answered soon", self._seconds(excess) or 1.0
        )

    def enter(self, ticket: Ticket) -> None:
        """Admit a whole request.

        An empty queue takes any request, else one larger than the bound could never be served. Raises
        :class:`QueueFull`, also when the answer could not come in time; :class:`DeadlineExceeded` when
        it could not even with nobody else waiting; :class:`NotReady` once the queue is closed.
        """
        with self._changed:
            if self._closed:
                raise NotReady("the model is being taken down")
            if self.tokens and self.tokens + ticket.tokens > self.limit:
                raise self.refusal(ticket.tokens)
            self._refuse_if_hopeless(ticket)
            self._ring.append(ticket)
            self._waiting += ticket.tokens
            self._show()
            self._changed.notify()

    def _refuse_if_hopeless(self, ticket: Ticket) -> None:
        alone = self._seconds(ticket.tokens)
        left = ticket.deadline - perf_counter()
        if alone > left:
            raise DeadlineExceeded(
                f"needs about {alone * 1e3:.0f} ms of computing: send fewer messages or a later deadline"
            )
        wait = self._seconds(self._computing + sum(map(ticket.behind, self._ring)))
        if _MARGIN * (wait + alone) > left:
            raise QueueFull(
                "the answer could not come before the deadline", _MARGIN * (wait + alone) - left
            )

    def leave(self, ticket: Ticket) -> None:
        """Free what a request still has waiting: its caller has gone or its time is over."""
        with self._changed:
            self._discard(ticket)
            self._show()

    def _show(self) -> None:
        # By difference: while a version is replaced, its queue and its successor's count together.
        self._gauge.inc(self.tokens - self._shown)
        self._shown = self.tokens

    def _discard(self, ticket: Ticket) -> None:
        self._waiting -= ticket.tokens
        ticket.tokens = 0
        ticket.waiting.clear()

    def take(self, max_messages: int, max_tokens: int) -> list[Work]:
        """Wait for work and take a batch within both bounds; empty once closed and drained.

        What nobody waits for any more is dropped here, before it costs anything.
        """
        with self._changed:
            while True:
                batch = self._pack(max_messages, max_tokens)
                if batch:
                    self._computing = sum(work.tokens for work in batch)
                    self._measured = not batch[0].alone
                    return batch
                self._show()
                if self._closed:
                    return []
                self._changed.wait()

    def _pack(self, max_messages: int, max_tokens: int) -> list[Work]:
        batch: list[Work] = []
        room = max_tokens
        while self._ring and len(batch) < max_messages:
            ticket = self._ring[0]
            if not ticket.waiting or not ticket.open:
                self._ring.popleft()
                self._discard(ticket)
                continue
            work = ticket.waiting[0]
            tokens = work.tokens
            if batch and (work.alone or tokens > room):
                break
            batch.append(ticket.waiting.popleft())
            room -= tokens
            ticket.tokens -= tokens
            self._waiting -= tokens
            self._ring.rotate(-1)
            if work.alone:
                break
        return batch

    def done(self, seconds: float) -> None:
        """The taken batch is computed."""
        with self._changed:
            if self._measured:
                self.learn(self._computing, seconds)
            self._computing = 0
            self._show()

    def learn(self, tokens: int, seconds: float) -> None:
        """Correct the pace by a batch.

        A small batch is slower for each token than those of a busy queue, so it may only prove that
        the pace is better than thought, never that it is worse.
        """
        measured = tokens / max(seconds, 1e-6)
        before = self._tokens_per_second
        if before is None:
            self._tokens_per_second = measured
        elif tokens >= _TELLING or measured > before:
            self._tokens_per_second = before + _SMOOTHING * (measured - before)

    @property
    def pace(self) -> float | None:
        """Measured tokens a second."""
        return self._tokens_per_second

    def expect(self, pace: float) -> None:
        """Take a pace that was measured elsewhere, to begin with."""
        self._tokens_per_second = pace

    def _seconds(self, tokens: int) -> float:
        """Time to drain so many tokens at the measured pace; 0 while it is unknown."""
        return tokens / self._tokens_per_second if self._tokens_per_second else 0.0

    def close(self) -> None:
        """Admit nothing more; ``take`` hands out what waits and then comes back empty."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def clear(self) -> list[Ticket]:
        """Close and drop all that waits; returns the requests that nobody will compute."""
        with self._changed:
            self._closed = True
            dropped = list(self._ring)
            self._ring.clear()
            for ticket in dropped:
                self._discard(ticket)
            self._computing = 0
            self._show()
            self._changed.notify_all()
        return dropped
