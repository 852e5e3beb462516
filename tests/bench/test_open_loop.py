"""Load by plan: what is late counts, and nobody waits for the one before."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from app.bench.open_loop import GOOD_WITHIN, Answer, LoadResult, arrivals, offer


def test_arrivals_are_a_plan() -> None:
    """Drawn ahead: same seed, same moments, in order, as many as the rate says."""
    moments = arrivals(50, 100, seed=1)
    assert moments == arrivals(50, 100, seed=1) != arrivals(50, 100, seed=2)
    assert moments == sorted(moments)
    assert moments[0] > 0
    assert moments[-1] < 100
    assert len(moments) == pytest.approx(5000, rel=0.1)


def test_latency_counts_from_the_planned_moment() -> None:
    """A request that the client itself could only send late has been late since its moment."""
    answers = [
        Answer(planned=1.0, sent=1.5, done=1.6, status=200),
        Answer(planned=1.0, sent=1.0, done=1.0 + GOOD_WITHIN + 0.1, status=200),
        Answer(planned=2.0, sent=2.0, done=2.01, status=429),
    ]
    result = LoadResult.of(answers, rate=2, seconds=4)
    assert result.latencies is not None
    assert result.latencies.p50 == pytest.approx(600)
    assert result.latencies.count == 2
    assert result.statuses == {"200": 2, "429": 1}
    assert result.goodput_per_s == pytest.approx(1 / 4)
    assert result.refusals is not None
    assert result.refusals.p99 == pytest.approx(10)
    assert result.latest_send_ms == pytest.approx(500)


def test_goodput_knows_the_tail() -> None:
    """Answers that come after the plan's end take their time into account."""
    result = LoadResult.of([Answer(0.5, 0.5, 1.0, 200), Answer(0.9, 0.9, 8.0, 200)], 2, 1)
    assert result.goodput_per_s == pytest.approx(1 / 8)


def test_without_an_answer_there_is_no_latency() -> None:
    """All refused is a result, not a crash."""
    assert LoadResult.of([Answer(0.1, 0.1, 0.2, 429)], 1, 1).latencies is None


def test_nobody_waits_for_the_one_before() -> None:
    """All are under way together although none is answered yet."""
    moments = [0.0, 0.001, 0.002]

    async def run() -> list[Answer]:
        together = asyncio.Barrier(len(moments))

        async def post(text: str) -> int:
            await together.wait()
            return 200

        return await asyncio.wait_for(offer(post, itertools.repeat("hi"), moments), 30)

    answers = asyncio.run(run())
    assert [answer.planned for answer in answers] == moments
    assert all(answer.sent >= answer.planned for answer in answers)
