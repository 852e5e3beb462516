"""A candidate beside the live version: seen by the metrics only."""

from __future__ import annotations

import asyncio
import threading

import pytest

from app.errors import ChangeUnderWay, FileDamaged
from app.serving.live_model import State
from app.serving.service import Service
from app.serving.shadow import Shadow
from app.serving.slot import ChangeState
from tests.conftest import PATIENCE
from tests.gated import GatedBackend
from tests.serving.test_service import in_thread, serving, until
from tests.serving.test_slot import ask, change_to
from tests.versions import Versions

pytestmark = pytest.mark.anyio


async def begin(service: Service, share: float = 1.0) -> Shadow:
    shadow = service.registry.slot().begin_shadow("2", share)
    await shadow.candidate.settled.wait()
    return shadow


async def test_same_decisions_agree() -> None:
    """Each message of the share is compared once, whether alone or in a batch."""
    async with serving(Versions().load) as service:
        shadow = await begin(service)
        assert (await ask(service, "where is my order")).model.version == "1"
        await until(lambda: shadow.counts == {"agreed": 1})
        pending = await service.admit(["can i pay with paypal", "tell me a joke"])
        await pending.decisions()
        await until(lambda: shadow.counts == {"agreed": 3})


async def test_only_the_share_is_shown() -> None:
    """A quarter of the messages means one in four."""
    async with serving(Versions().load, cache_bytes=1 << 20) as service:
        shadow = await begin(service, 0.25)
        pending = await service.admit([f"where is order {n}" for n in range(40)])
        await pending.decisions()
        await until(lambda: shadow.counts.total() == 10)


async def test_under_load_the_shadow_goes_first() -> None:
    """While the live model has work, nothing is shown to the shadow: it is counted as dropped."""
    versions = Versions()
    live = GatedBackend(max_sequences=1)
    versions.gated["1"] = live
    async with serving(versions.load) as service:
        shadow = await begin(service)
        first = asyncio.create_task(ask(service, "first"))
        await in_thread(live.wait_until_busy)
        live._gate.set()
        await first
        live._gate.clear()
        second = asyncio.create_task(ask(service, "second"))
        await in_thread(live.wait_until_busy)
        await until(lambda: shadow.counts["dropped"] == 1)
        live.open()
        await second
        await until(lambda: shadow.counts.total() == 2)


async def test_a_slow_or_failing_shadow_never_delays_an_answer() -> None:
    """The candidate is stuck; live answers come all the same, and what piles up is dropped."""
    versions = Versions()
    stuck = versions.gated["2"] = GatedBackend()
    async with serving(versions.load) as service:
        shadow = await begin(service)
        for number in range(30):
            await ask(service, f"where is my order number {number}, the one of last week")
            await asyncio.sleep(0.025)
        assert shadow.counts["dropped"] > 5
        assert "agreed" not in shadow.counts
        stuck.open()


async def test_a_candidate_that_cannot_be_loaded_says_why() -> None:
    """The live version is not touched."""
    versions = Versions()
    versions.failing["2"] = FileDamaged("half a file")
    async with serving(versions.load) as service:
        shadow = await begin(service)
        assert shadow.candidate.state is State.FAILED
        assert shadow.candidate.reason == "half a file"
        await ask(service, "hello there")
        assert not shadow.counts


async def test_a_change_ends_the_shadow() -> None:
    """So that no third set of weights is in memory for long."""
    versions = Versions()
    async with serving(versions.load) as service:
        await begin(service)
        await change_to(service, "3")
        assert service.registry.slot().shadow is None
        await until(lambda: versions.in_memory == ["3"])
        await ask(service, "hello there")


async def test_no_shadow_during_a_change() -> None:
    """One at a time."""
    async with serving(Versions().load) as service:
        slot = service.registry.slot()
        change = slot.begin("activate", "2")
        with pytest.raises(ChangeUnderWay):
            slot.begin_shadow("3", 0.5)
        await change.ended.wait()


async def test_a_second_shadow_takes_the_place_of_the_first() -> None:
    """What the first leaves behind does not take the messages from it."""
    async with serving(Versions().load) as service:
        first = await begin(service)
        second = await begin(service)
        await until(lambda: first.candidate.state is State.CLOSED)
        await ask(service, "where is my order")
        await until(lambda: second.counts == {"agreed": 1})
        assert not first.counts


async def test_a_change_begins_when_the_shadow_has_freed_its_memory() -> None:
    """Also one that is still loading: never three versions at once."""
    versions = Versions()
    held = versions.held["2"] = threading.Event()
    async with serving(versions.load) as service:
        slot = service.registry.slot()
        shadow = slot.begin_shadow("2", 1.0)
        await until(lambda: "2" in versions.give_way)
        change = slot.begin("activate", "3")
        await asyncio.sleep(0.1)
        assert "3" not in versions.give_way
        held.set()
        await asyncio.wait_for(change.ended.wait(), PATIENCE)
        assert change.state is ChangeState.LIVE
        assert shadow.candidate.state is State.CLOSED


async def test_stopping_does_not_wait_for_a_shadow_that_loads() -> None:
    """Its thread is left behind when the patience is over."""
    versions = Versions()
    held = versions.held["2"] = threading.Event()
    async with serving(versions.load) as service:
        slot = service.registry.slot()
        slot.begin_shadow("2", 1.0)
        await until(lambda: "2" in versions.give_way)
        async with asyncio.timeout(PATIENCE / 2):
            await slot.close(0.2)
        held.set()
