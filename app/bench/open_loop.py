"""Load whose arrivals are drawn ahead, so that a slow service cannot hide behind its callers' patience.

A caller who waits for an answer before asking again slows down with the service and measures the
queue only once ("coordinated omission", Gil Tene). Here each request has its planned moment, is sent
then whatever became of the others, and its latency counts from that moment.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from app.bench.latency import Latencies

GOOD_WITHIN = 2.0
"""Seconds from the planned arrival within which an answer is worth something to a waiting customer.

Sent as the deadline of every request, so that the service may refuse what would come too late."""
_OK, _REFUSED = 200, 429


def arrivals(rate: float, seconds: float, seed: int) -> list[float]:
    """Moments of a Poisson process of ``rate`` a second, from 0 to ``seconds``."""
    draw = random.Random(seed)  # noqa: S311 - draws samples, not secrets
    moments: list[float] = []
    moment = draw.expovariate(rate)
    while moment < seconds:
        moments.append(moment)
        moment += draw.expovariate(rate)
    return moments


@dataclass(frozen=True, slots=True)
class Answer:
    """One request's fate: planned, sent and done in seconds from the start, and the status."""

    planned: float
    sent: float
    done: float
    status: int

    @property
    def latency(self) -> float:
        return self.done - self.planned


@dataclass(frozen=True, slots=True)
class LoadResult:
    """What one load did. ``latencies`` are those of the answers with status 200."""

    offered_per_s: float
    seconds: float
    requests: int
    statuses: dict[str, int]
    latencies: Latencies | None
    refusals: Latencies | None
    """How soon those with status 429 were told."""
    goodput_per_s: float
    """Answers within :data:`GOOD_WITHIN` a second."""
    latest_send_ms: float
    """How far the client itself fell behind the plan, at worst."""

    @classmethod
    def of(cls, answers: Sequence[Answer], rate: float, seconds: float) -> LoadResult:
        served = [answer.latency for answer in answers if answer.status == _OK]
        refused = [answer.latency for answer in answers if answer.status == _REFUSED]
        statuses = Counter(str(answer.status) for answer in answers)
        # What is still answered after the last arrival took time, too.
        lasted = max([seconds, *(answer.done for answer in answers)])
        return cls(
            offered_per_s=rate,
            seconds=seconds,
            requests=len(answers),
            statuses=dict(sorted(statuses.items())),
            latencies=Latencies.of(served) if served else None,
            refusals=Latencies.of(refused) if refused else None,
            goodput_per_s=sum(latency <= GOOD_WITHIN for latency in served) / lasted,
            latest_send_ms=max((a.sent - a.planned for a in answers), default=0.0) * 1e3,
        )


async def offer(
    post: Callable[[str], Coroutine[Any, Any, int]],
    messages: Iterator[str],
    moments: Sequence[float],
) -> list[Answer]:
    """Send one message at each of ``moments``; ``post`` answers with the HTTP status."""
    start = perf_counter()

    async def one(planned: float, text: str) -> Answer:
        sent = perf_counter() - start
        status = await post(text)
        return Answer(planned, sent, perf_counter() - start, status)

    tasks = []
    for planned in moments:
        delay = start + planned - perf_counter()
        if delay > 0:
            await asyncio.sleep(delay)
        tasks.append(asyncio.create_task(one(planned, next(messages))))
    return list(await asyncio.gather(*tasks))
