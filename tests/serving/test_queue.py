"""The bounded queue: admission, fairness, packing, dropping, pace."""

from __future__ import annotations

import threading
from time import perf_counter

import pytest
from prometheus_client import Gauge

from app.backends.base import MarkedTokens
from app.classification.cart_reader import CartMessage
from app.classification.classifier import Message
from app.errors import DeadlineExceeded, NotReady, QueueFull
from app.serving.queue import TokenQueue
from app.serving.ticket import Ticket, Work

pytestmark = pytest.mark.anyio


@pytest.fixture
def queue() -> TokenQueue:
    return TokenQueue(100, Gauge("tokens", "For one test.", registry=None))


def ticket(name: str, *lengths: int, seconds: float = 60.0) -> Ticket:
    messages = [(i, Message(f"{name}{i}", range(n))) for i, n in enumerate(lengths)]
    return Ticket(messages, perf_counter() + seconds)


def names(batch: list[Work]) -> list[str]:
    return [work.message.text for work in batch]


async def test_requests_take_turns(queue: TokenQueue) -> None:
    """A single message is in the next batch, however many a bulk request before it has."""
    queue.enter(ticket("bulk", 1, 1, 1, 1, 1))
    queue.enter(ticket("single", 1))
    assert names(queue.take(3, 100)) == ["bulk0", "single0", "bulk1"]
    assert names(queue.take(3, 100)) == ["bulk2", "bulk3", "bulk4"]


async def test_batch_keeps_both_bounds(queue: TokenQueue) -> None:
    """At most so many messages and so many tokens; a message over the token bound goes alone."""
    queue.enter(ticket("a", 6, 6, 20, 1, 1, 1))
    taken = []
    for expected in (["a0"], ["a1"], ["a2"], ["a3", "a4"], ["a5"]):
        batch = queue.take(2, 10)
        taken.append(names(batch))
        assert taken[-1] == expected


def cart(tokens: int, seconds: float = 60.0) -> Ticket:
    part = MarkedTokens(tuple(range(tokens)), (0,))
    message = CartMessage(("tea",), part, part, tokens)
    return Ticket([(0, message)], perf_counter() + seconds)


async def test_a_cart_goes_alone_and_in_its_turn(queue: TokenQueue) -> None:
    """Between batches of intents; nothing waits behind it longer than one turn."""
    queue.enter(ticket("a", 1, 1))
    queue.enter(cart(9))
    queue.enter(ticket("b", 1, 1))
    assert names(queue.take(3, 100)) == ["a0"]
    assert queue.take(3, 100)[0].alone
    assert queue.tokens == 12
    assert names(queue.take(3, 100)) == ["b0", "a1", "b1"]


async def test_a_cart_teaches_no_pace(queue: TokenQueue) -> None:
    """Its tokens are a guess: what the backend remembers of the catalog costs nothing."""
    queue.expect(1000)
    queue.enter(cart(90))
    queue.take(3, 100)
    queue.done(0.001)
    assert queue.pace == 1000
    queue.enter(ticket("a", 90))
    queue.take(3, 100)
    queue.done(0.001)
    assert queue.pace is not None
    assert queue.pace > 1000


async def test_tokens_count_until_their_batch_is_done(queue: TokenQueue) -> None:
    """Waiting and computing tokens are held against the bound alike."""
    queue.enter(ticket("a", 60))
    assert queue.tokens == 60
    queue.take(16, 1000)
    assert queue.tokens == 60
    with pytest.raises(QueueFull):
        queue.enter(ticket("b", 41))
    queue.done(0.1)
    assert queue.tokens == 0
    queue.enter(ticket("b", 41))


async def test_empty_message_still_counts(queue: TokenQueue) -> None:
    """A message without tokens takes a place of one, so no number of them is free."""
    queue.enter(ticket("a", *[0] * 100))
    with pytest.raises(QueueFull):
        queue.enter(ticket("b", 0))


async def test_empty_queue_takes_any_request(queue: TokenQueue) -> None:
    """A request larger than the bound is not refused for ever."""
    queue.enter(ticket("huge", *[50] * 10))
    assert queue.full
    with pytest.raises(QueueFull):
        queue.enter(ticket("b", 1))


async def test_those_who_left_are_dropped(queue: TokenQueue) -> None:
    """Abandoned and expired requests free their tokens and never reach a batch."""
    gone, late, stays = ticket("gone", 10, 10), ticket("late", 10, seconds=0.01), ticket("stays", 5)
    for one in (gone, late, stays):
        queue.enter(one)
    gone.abandon()
    queue.leave(gone)
    assert queue.tokens == 15
    while late.open:
        pass
    assert names(queue.take(16, 100)) == ["stays0"]
    late.abandon()
    assert queue.tokens == 5


async def test_leaving_half_computed_keeps_the_account(queue: TokenQueue) -> None:
    """A request that goes while part of it is computed frees only what still waited."""
    one = ticket("a", 10, 20)
    queue.enter(one)
    assert names(queue.take(1, 100)) == ["a0"]
    one.abandon()
    queue.leave(one)
    assert queue.tokens == 10
    queue.done(0.1)
    assert queue.tokens == 0


async def test_retry_after_follows_the_measured_pace(queue: TokenQueue) -> None:
    """The refusal names the time in which enough tokens drain at the last measured pace."""
    queue.learn(tokens=10, seconds=1.0)
    queue.enter(ticket("a", 90))
    with pytest.raises(QueueFull) as refused:
        queue.enter(ticket("b", 50))
    assert refused.value.retry_after == pytest.approx(4.0)


async def test_hopeless_deadline_is_refused_at_the_door(queue: TokenQueue) -> None:
    """What cannot be in time because of others is 429; what never could is 504, at once."""
    queue.learn(tokens=10, seconds=1.0)
    with pytest.raises(DeadlineExceeded):
        queue.enter(ticket("alone too long", 50, seconds=4.0))
    queue.enter(ticket("a", 10, 10, 10, 10, 10))
    with pytest.raises(QueueFull):
        queue.enter(ticket("b", 8, 8, 8, 8, 8, seconds=6.0))
    queue.enter(ticket("one turn is enough", 8, seconds=6.0))
    assert queue.tokens == 58


async def test_small_batches_only_raise_the_pace(queue: TokenQueue) -> None:
    """A lone message is slower for each token: it may show that the pace is better, never worse."""
    queue.learn(tokens=100, seconds=1.0)
    queue.learn(tokens=1, seconds=1.0)
    assert queue._seconds(100) == pytest.approx(1.0)
    queue.learn(tokens=10, seconds=0.01)
    assert queue._seconds(100) < 1.0


async def test_pace_follows_a_change_of_speed(queue: TokenQueue) -> None:
    """After some batches the pace is that of now, slower or faster."""
    queue.learn(tokens=100, seconds=1.0)
    for seconds in (4.0, 0.5):
        for _ in range(30):
            queue.learn(tokens=100, seconds=seconds)
        assert queue._seconds(100) == pytest.approx(seconds, rel=0.05)


async def test_closed_queue_hands_out_the_rest(queue: TokenQueue) -> None:
    """After closing nothing enters, what waits is still taken, then the owner is told to stop."""
    queue.enter(ticket("a", 1))
    queue.close()
    with pytest.raises(NotReady):
        queue.enter(ticket("b", 1))
    assert names(queue.take(16, 100)) == ["a0"]
    assert queue.take(16, 100) == []


async def test_owner_wakes_when_work_comes(queue: TokenQueue) -> None:
    """take() sleeps until a request enters or the queue closes."""
    taken: list[list[str]] = []

    def own() -> None:
        while batch := queue.take(16, 100):
            taken.append(names(batch))

    owner = threading.Thread(target=own)
    owner.start()
    queue.enter(ticket("a", 1))
    queue.close()
    owner.join(30)
    assert taken == [["a0"]]
