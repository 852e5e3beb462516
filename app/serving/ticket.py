"""One admitted request: its messages, its deadline, and the handle that answers it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter

from app.classification.cart_reader import CartMessage
from app.classification.classifier import Message
from app.domain import CartDecision, Prediction
from app.errors import DeadlineExceeded, ShopintentError


@dataclass(frozen=True, slots=True)
class Outcome:
    """A message's decision; seconds that it waited, and seconds that its batch took."""

    decision: Prediction | CartDecision
    queue: float = 0.0
    inference: float = 0.0

    @property
    def prediction(self) -> Prediction:
        """The decision on a :class:`Message`."""
        assert isinstance(self.decision, Prediction)
        return self.decision

    @property
    def cart(self) -> CartDecision:
        """The decision on a :class:`CartMessage`."""
        assert isinstance(self.decision, CartDecision)
        return self.decision


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """One message of a request on its way through the queue; ``index`` is its place in the request."""

    ticket: Ticket
    index: int
    message: Message | CartMessage

    @property
    def tokens(self) -> int:
        return max(1, self.message.size)

    @property
    def alone(self) -> bool:
        """It shares a batch with no other."""
        return isinstance(self.message, CartMessage)


class Ticket:
    """Made and answered in the event loop's thread; the owner thread only asks whether it is ``open``."""

    __slots__ = (
        "_timer", "admitted", "deadline", "future", "missing", "outcomes", "tokens", "waiting",
    )  # fmt: skip

    def __init__(
        self, messages: Sequence[tuple[int, Message | CartMessage]], deadline: float
    ) -> None:
        """``messages`` with their places in the request; ``deadline`` on the clock ``perf_counter``."""
        self.admitted = perf_counter()
        self.deadline = deadline
        self.waiting = deque(Work(self, index, message) for index, message in messages)
        self.tokens = sum(work.tokens for work in self.waiting)
        """Tokens of the messages that no batch has taken yet."""
        self.missing = len(self.waiting)
        self.outcomes: dict[int, Outcome] = {}
        loop = asyncio.get_running_loop()
        self.future: asyncio.Future[dict[int, Outcome]] = loop.create_future()
        self._timer = loop.call_later(max(0.0, deadline - self.admitted), self._expire)

    @property
    def open(self) -> bool:
        """Somebody still waits for the answer, and it can come in time."""
        return not self.future.done() and perf_counter() < self.deadline

    def behind(self, other: Ticket) -> int:
        """Tokens of another request that go first: messages are taken in turns, one of each."""
        if not other.waiting or not other.open:
            return 0
        turns = min(len(self.waiting), len(other.waiting))
        return other.tokens * turns // len(other.waiting)

    def deliver(self, index: int, outcome: Outcome) -> None:
        self.outcomes[index] = outcome
        self.missing -= 1
        if self.missing == 0:
            self._timer.cancel()
            if not self.future.done():
                self.future.set_result(self.outcomes)

    def fail(self, error: ShopintentError) -> None:
        """The whole request fails: its caller gets all answers or a reason."""
        self._timer.cancel()
        if not self.future.done():
            self.future.set_exception(error)

    def abandon(self) -> None:
        """Nobody waits any more."""
        self._timer.cancel()
        self.future.cancel()

    def _expire(self) -> None:
        self.fail(DeadlineExceeded("the deadline passed before there was an answer"))
