"""From one version to the next: who answers what, what a bad candidate can do, what stays behind."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections import Counter

import pytest

from app import metrics
from app.errors import ChangeUnderWay, FileDamaged, NotReady, UnknownModel
from app.serving.live_model import State
from app.serving.service import Decision, Service
from app.serving.slot import Change, ChangeState
from tests.conftest import PATIENCE
from tests.gated import GatedBackend
from tests.serving.test_service import in_thread, serving, until
from tests.versions import Versions

pytestmark = pytest.mark.anyio


async def ask(service: Service, text: str) -> Decision:
    (decision,) = await (await service.admit([text])).decisions()
    return decision


async def change_to(service: Service, version: str) -> Change:
    change = service.registry.slot().begin("activate", version)
    await asyncio.wait_for(change.ended.wait(), PATIENCE)
    return change


async def test_no_request_fails_while_versions_change() -> None:
    """Twelve callers, twenty changes, every third one to a damaged version: all are answered."""
    versions = Versions()
    versions.failing["3"] = FileDamaged("a file is not the one that was published")
    answered: Counter[str] = Counter()
    async with serving(versions.load) as service:
        stop = asyncio.Event()

        async def caller(number: int) -> None:
            turn = 0
            while not stop.is_set():
                turn += 1
                decision = await ask(service, f"where is my order {number} {turn}")
                answered[decision.model.version] += 1

        callers = [asyncio.create_task(caller(number)) for number in range(12)]
        for number in range(20):
            version = ("2", "3", "1")[number % 3]
            change = await change_to(service, version)
            refused = version == "3"
            assert change.state is (ChangeState.REFUSED if refused else ChangeState.LIVE)
            assert service.registry.get().ref.version == ("2" if refused else version)
            before = answered.total()
            await until(lambda before=before: answered.total() > before + 20)
        stop.set()
        await asyncio.gather(*callers)
        assert set(answered) == {"1", "2"}


async def test_each_request_is_answered_by_the_version_that_took_it() -> None:
    """What waits in the old version's queue at the switch is computed there; then it is closed."""
    old = GatedBackend(max_sequences=1)
    versions = Versions()
    versions.gated["1"] = old
    async with serving(versions.load) as service:
        held = [asyncio.create_task(ask(service, f"number {n}")) for n in range(3)]
        await in_thread(old.wait_until_busy)
        await change_to(service, "2")
        assert (await ask(service, "number four")).model.version == "2"
        assert not old.closed
        assert not any(task.done() for task in held)
        old.open()
        assert [(await task).model.version for task in held] == ["1", "1", "1"]
        assert old.batches == [["number 0"], ["number 1"], ["number 2"]]
        await until(lambda: old.closed)


async def test_request_caught_between_two_versions_goes_to_the_new_one() -> None:
    """A bulk request that is being tokenised at the switch finds the old queue closed and moves on."""
    versions = Versions()
    slow = GatedBackend()
    tokenising, go_on = threading.Event(), threading.Event()
    tokenise = slow.tokenise

    def wait_and_tokenise(text: str) -> object:
        if "item" in text:
            tokenising.set()
            assert go_on.wait(PATIENCE)
        return tokenise(text)

    slow.tokenise = wait_and_tokenise  # type: ignore[method-assign]
    slow.open()
    versions.gated["1"] = slow
    async with serving(versions.load) as service:
        texts = [f"i want to return item {n} " * 20 for n in range(30)]
        request = asyncio.create_task(service.admit(texts))
        await asyncio.to_thread(tokenising.wait, PATIENCE)
        await change_to(service, "2")
        await until(lambda: slow.closed)
        go_on.set()
        decisions = await (await request).decisions()
        assert {decision.model.version for decision in decisions} == {"2"}


async def test_refused_candidate_changes_nothing_and_says_why() -> None:
    """The reason is in the change and counted; the live version and its history are as before."""
    versions = Versions()
    versions.failing["2"] = FileDamaged("head.safetensors is missing")
    labels = {"model": "storefront", "kind": "activate", "result": "refused"}

    def refused() -> float:
        return metrics.REGISTRY.get_sample_value("intent_model_changes_total", labels) or 0.0

    before = refused()
    async with serving(versions.load) as service:
        live = service.registry.get()
        change = await change_to(service, "2")
        assert (change.state, change.reason) == (ChangeState.REFUSED, "head.safetensors is missing")
        assert service.registry.get() is live
        assert not service.registry.slot().history
        assert not service.registry.unready
        assert refused() == before + 1


async def test_candidate_gives_way_until_it_is_live() -> None:
    """It waits while the live version has work, and no more once it is the live version itself."""
    versions = Versions()
    live = versions.gated["1"] = GatedBackend()
    versions.held["2"] = threading.Event()
    async with serving(versions.load) as service:
        assert versions.give_way["1"] is None, "nobody is there yet to give way to"
        slot = service.registry.slot()
        change = slot.begin("activate", "2")
        asked = asyncio.create_task(ask(service, "where is my order"))
        await in_thread(live.wait_until_busy)
        assert service.registry.busy()
        live.open()
        await asked
        await until(lambda: not service.registry.busy())
        versions.held["2"].set()
        await change.ended.wait()
        give_way = versions.give_way["2"]
        assert give_way is not None
        assert not give_way()


async def test_shadow_gives_way_for_good() -> None:
    """A shadow is nobody's answer, so it goes last as long as it is there."""
    versions = Versions()
    async with serving(versions.load) as service:
        shadow = service.registry.slot().begin_shadow("2", 1.0)
        await shadow.candidate.settled.wait()
        give_way = versions.give_way["2"]
        assert give_way is not None
        assert give_way()


@pytest.mark.parametrize(
    "error",
    [FileDamaged("head.safetensors"), UnknownModel("no version 2"), OSError(30, "read-only")],
)
async def test_what_cannot_be_kept_serves_all_the_same(error: Exception) -> None:
    """The change ends, and says that the store does not remember it."""

    def keep() -> None:
        raise error

    async with serving(Versions().load) as service:
        change = service.registry.slot().begin("activate", "2", keep)
        await asyncio.wait_for(change.ended.wait(), 5)
        assert (change.state, change.kept) == (ChangeState.LIVE, False)
        assert service.registry.get().ref.version == "2"


async def test_one_change_at_a_time() -> None:
    """While a candidate loads, another is refused, and the live version answers."""
    versions = Versions()
    versions.held["2"] = threading.Event()
    async with serving(versions.load) as service:
        slot = service.registry.slot()
        change = slot.begin("activate", "2")
        with pytest.raises(ChangeUnderWay):
            slot.begin("activate", "3")
        assert (await ask(service, "hello there")).model.version == "1"
        versions.held["2"].set()
        await change.ended.wait()
        assert (await ask(service, "hello there")).model.version == "2"


async def test_the_next_change_begins_when_the_replaced_version_has_freed_its_memory() -> None:
    """What answers its last messages yet is a set of weights too: never three versions at once."""
    versions = Versions()
    old = versions.gated["1"] = GatedBackend()
    async with serving(versions.load) as service:
        last = asyncio.create_task(ask(service, "where is my order"))
        await in_thread(old.wait_until_busy)
        await change_to(service, "2")
        change = service.registry.slot().begin("activate", "3")
        await asyncio.sleep(0.1)
        assert "3" not in versions.give_way
        assert (await ask(service, "hello there")).model.version == "2"
        old.open()
        assert (await last).model.version == "1"
        await asyncio.wait_for(change.ended.wait(), PATIENCE)
        assert change.state is ChangeState.LIVE
        assert old.closed


async def test_replaced_versions_leave_memory_at_once() -> None:
    """No cycle keeps a replaced model: with the garbage collector off, at most the live one is there."""
    versions = Versions()
    gc.disable()
    try:
        async with serving(versions.load) as service:
            for number in range(20):
                await ask(service, f"where is my order {number}")
                await change_to(service, str(number % 2 + 1))
                await until(lambda: len(versions.in_memory) == 1)
    finally:
        gc.enable()


async def test_failed_name_comes_to_life_later() -> None:
    """A name that could not be loaded at the start is served once a good version is activated."""
    versions = Versions()
    versions.failing["1"] = FileDamaged("broken")
    async with serving(versions.load) as service:
        with pytest.raises(NotReady):
            await service.admit(["hello there"])
        await change_to(service, "2")
        assert (await ask(service, "hello there")).model.version == "2"
        assert not service.registry.unready


async def test_closing_while_a_candidate_loads_frees_both() -> None:
    """The candidate never goes live, and nothing stays in memory."""
    versions = Versions()
    versions.held["2"] = threading.Event()
    async with serving(versions.load) as service:
        change = service.registry.slot().begin("activate", "2")
        asyncio.get_running_loop().call_later(0.1, versions.held["2"].set)
    assert change.ended.is_set()
    assert change.state is ChangeState.LOADING
    assert service.registry.get().state is State.CLOSED
    assert not versions.in_memory


async def test_going_back_follows_what_was_live() -> None:
    """Versions that were live are remembered in order, and going back forgets those after it."""
    async with serving(Versions().load) as service:
        slot = service.registry.slot()
        for version in ("2", "3", "5"):
            await change_to(service, version)
        assert slot.history == ["1", "2", "3"]
        change = slot.begin("rollback", "3")
        await change.ended.wait()
        assert slot.history == ["1", "2"]


async def test_series_of_old_versions_are_dropped() -> None:
    """However often the version changes, the metrics hold the decisions of the last four."""
    async with serving(Versions().load) as service:
        for number in range(9):
            await change_to(service, str(number + 100))
            await ask(service, "where is my order")
        versions = {
            sample.labels["version"]
            for family in metrics.REGISTRY.collect()
            if family.name in {"intent_predictions", "intent_confidence"}
            for sample in family.samples
            if sample.labels["version"].startswith("10")
        }
        assert versions == {"105", "106", "107", "108"}


async def test_queue_gauge_counts_both_versions() -> None:
    """While the old version drains, its messages and its successor's count together."""

    def tokens() -> float:
        return metrics.REGISTRY.get_sample_value("intent_queue_tokens", {"model": "gauged"}) or 0.0

    versions = Versions()
    for version in ("1", "2"):
        versions.gated[version] = GatedBackend()
    versions.gated["2"]._armed = True  # a successor inherits the pace and measures none
    async with serving(versions.load, "gauged") as service:
        first = asyncio.create_task(ask(service, "0123456789"))
        await in_thread(versions.gated["1"].wait_until_busy)
        await change_to(service, "2")
        second = asyncio.create_task(ask(service, "0123456789"))
        await until(lambda: tokens() == 20)
        versions.gated["1"].open()
        await first
        await until(lambda: tokens() == 10)
        versions.gated["2"].open()
        await second
        await until(lambda: tokens() == 0)
