"""The service from inside: what admission, batcher and registry promise to one another."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from app import metrics
from app.classification.cascade import Stages
from app.errors import DeadlineExceeded, NotReady, QueueFull
from app.serving.background import COMPUTING
from app.serving.batcher import Load, Loaded
from app.serving.cache import PredictionCache
from app.serving.lifecycle import Lifecycle
from app.serving.limits import Limits
from app.serving.live_model import State
from app.serving.registry import Registry
from app.serving.service import Pending, Service
from tests.conftest import PATIENCE
from tests.fake_artifact import fake_classifier, fake_manifest
from tests.gated import GatedBackend
from tests.priorities import linux, priority

pytestmark = pytest.mark.anyio

LIMITS = Limits(
    text_chars=2000, batch_messages=256, body_bytes=1 << 20, queue_tokens=10_000, deadline=PATIENCE
)


@asynccontextmanager
async def serving(
    load: Load, *names: str, cache_bytes: int = 0, stages: Stages = "off"
) -> AsyncIterator[Service]:
    """A started service; every model has settled."""
    registry = Registry(names or ("storefront",), load, LIMITS.queue_tokens)
    settled = asyncio.Event()
    registry.start(settled.set)
    try:
        await asyncio.wait_for(settled.wait(), PATIENCE)
        yield Service(registry, PredictionCache(cache_bytes), LIMITS, Lifecycle(), stages)
    finally:
        await registry.close(PATIENCE)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - the condition changes in another thread
            await asyncio.sleep(0.005)


def in_thread(call: Callable[[], None]) -> Awaitable[None]:
    return asyncio.to_thread(call)


@linux
async def test_the_event_loop_goes_before_what_computes() -> None:
    """A refusal or a cached answer is due at once; a batch takes as long as it takes."""
    computing: list[int] = []

    def load(name: str) -> Loaded:
        computing.append(priority())
        return Loaded(fake_manifest(name), fake_classifier())

    async with serving(load):
        assert computing == [max(priority(), COMPUTING)]


async def test_order_is_kept_over_several_batches() -> None:
    """A request that takes many batches is put together again in its order."""
    classifier = fake_classifier(max_sequences=3)
    async with serving(lambda _: Loaded(fake_manifest(), classifier)) as service:
        texts = [f"where is my order {number}" * (number % 4 + 1) for number in range(20)]
        pending = await service.admit(texts)
        together = [d.prediction for d in await pending.decisions()]
        alone = [(await (await service.admit([t])).decisions())[0].prediction for t in texts]
        assert [p.intent for p in together] == [p.intent for p in alone]
        for one, other in zip(together, alone, strict=True):
            assert one.confidence == pytest.approx(other.confidence, abs=1e-5)


async def test_times_are_told_apart() -> None:
    """Waiting and computing are measured for each message, and the total holds both."""
    backend = GatedBackend(max_sequences=1)
    async with serving(backend.load) as service:
        pending = await service.admit(["first", "second"])
        await in_thread(backend.wait_until_busy)
        await asyncio.sleep(0.05)
        backend.open()
        first, second = await pending.decisions()
        assert first.timings.inference >= 0.05
        assert second.timings.queue >= 0.05 > first.timings.queue
        for one in (first, second):
            assert one.timings.queue + one.timings.inference <= one.timings.total


async def test_only_what_is_new_is_computed() -> None:
    """A batch that the cache knows in part sends only the rest to the model."""
    backend = GatedBackend()
    backend.open()
    async with serving(backend.load, cache_bytes=1 << 20) as service:
        await (await service.admit(["one"])).decisions()
        pending = await service.admit(["zero", "one", "two"])
        decisions = await pending.decisions()
        assert backend.batches == [["one"], ["zero", "two"]]
        assert decisions[1].timings.inference == 0


async def test_cancelled_caller_frees_the_queue() -> None:
    """A cancelled task gives back its place at once."""
    backend = GatedBackend()
    async with serving(backend.load) as service:
        queue = service.registry.get().queue
        held = await service.admit(["held"])
        await in_thread(backend.wait_until_busy)
        waiting = asyncio.create_task((await service.admit(["gone"])).decisions())
        await asyncio.sleep(0)
        assert queue.tokens == 8
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert queue.tokens == 4
        backend.open()
        await held.decisions()
        assert backend.batches == [["held"]]


async def test_broken_owner_thread_leaves_nobody_waiting() -> None:
    """If the thread that owns the model dies, callers get an error and the model is closed."""

    class Dying(GatedBackend):
        def embed(self, messages: list[list[int]]) -> object:  # type: ignore[override]
            states = super().embed(messages)
            if self.batches:
                raise SystemExit
            return states

    backend = Dying(max_sequences=1)
    async with serving(backend.load) as service:
        pending = await service.admit(["a", "b"])
        await in_thread(backend.wait_until_busy)
        backend.open()
        with pytest.raises(NotReady):
            await asyncio.wait_for(pending.decisions(), PATIENCE)
        await until(lambda: backend.closed)
        with pytest.raises(NotReady):
            await service.admit(["c"])
        assert "storefront" in service.registry.unready


async def test_models_load_one_after_the_other() -> None:
    """Two models never load at the same time, and each is loaded in the thread that owns it."""
    loading = threading.Lock()
    threads: dict[str, str] = {}

    def load(name: str) -> Loaded:
        assert loading.acquire(blocking=False)
        threads[name] = threading.current_thread().name
        loading.release()
        return Loaded(fake_manifest(name), fake_classifier())

    async with serving(load, "one", "two") as service:
        assert threads == {"one": "model-one", "two": "model-two"}
        assert not service.registry.unready


async def test_closing_frees_every_model() -> None:
    """After close each backend is closed and each model says so."""
    backend = GatedBackend()
    async with serving(backend.load) as service:
        pass
    assert backend.closed
    assert service.registry.get().state is State.CLOSED
    with pytest.raises(NotReady):
        await service.admit(["too late"])


async def test_bulk_text_does_not_hold_up_the_loop() -> None:
    """Many characters are prepared beside the event loop, not in it."""
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0)

    classifier = fake_classifier()
    async with serving(lambda _: Loaded(fake_manifest(), classifier)) as service:
        ticker = asyncio.create_task(tick())
        pending = await service.admit(["where is my order " * 100] * 30)
        assert ticks > 1
        ticker.cancel()
        assert len(await pending.decisions()) == 30


def _asked_first(result: str) -> float:
    return metrics.FIRST_STAGE.labels("storefront", result)._value.get()


async def test_sure_ngrams_answer_before_the_queue() -> None:
    """While the language model is stuck, what n-grams know is answered; the rest waits for it."""
    backend = GatedBackend(max_sequences=1)
    async with serving(backend.load_staged, stages="careful", cache_bytes=1 << 16) as service:
        before = _asked_first("answered"), _asked_first("passed")
        easy, hard = "where is my order", "xyzzy plugh"
        pending = await service.admit([hard, easy])
        await in_thread(backend.wait_until_busy)
        (known,) = await (await service.admit([easy.upper()])).decisions()
        assert known.prediction.intent == "order_status"
        assert known.timings.queue == 0
        backend.open()
        second, first = (d.prediction for d in await pending.decisions())
        assert first.intent == "order_status"
        assert len(second.ranking) == len(first.ranking)
        assert _asked_first("answered") - before[0] == 2
        assert _asked_first("passed") - before[1] == 1
        assert service.cache.bytes > 0


async def test_ngrams_wait_their_turn_where_the_cascade_is_off() -> None:
    """The same model answers everything with both halves unless the operator says otherwise."""
    backend = GatedBackend(max_sequences=1)
    async with serving(backend.load_staged) as service:
        pending = await service.admit(["where is my order"])
        await in_thread(backend.wait_until_busy)
        assert not pending.done
        backend.open()
        await pending.decisions()


async def fill(service: Service, text: str) -> list[Pending]:
    """Ask until there is no more room for it."""
    admitted = []
    while True:
        try:
            admitted.append(await service.admit([text]))
        except QueueFull:
            return admitted


async def test_in_relief_ngrams_answer_only_what_would_be_refused() -> None:
    """As long as there is room both halves decide; beyond it sure messages are answered, not refused."""
    backend = GatedBackend(max_sequences=1)
    async with serving(backend.load_staged, stages="relief") as service:
        easy, other, hard = "where is my order", "track my parcel", "xyzzy plugh"
        first = await service.admit([easy])
        await in_thread(backend.wait_until_busy)
        assert not first.done
        filling = [
            pending for text in ("plugh " * 40, hard) for pending in await fill(service, text)
        ]
        (known,) = await (await service.admit([easy])).decisions()
        assert known.prediction.intent == "order_status"
        together = await service.admit([easy, other])
        assert [d.prediction.intent for d in await together.decisions()] == ["order_status"] * 2
        with pytest.raises(QueueFull):
            await service.admit([easy, hard])
        filling.pop().abandon()
        mixed = await service.admit([easy, hard])
        assert not mixed.done
        backend.open()
        assert len(await mixed.decisions()) == 2
        for pending in (first, *filling):
            await pending.decisions()


async def test_relief_that_comes_too_late_is_none() -> None:
    """An answer after its deadline is told as a deadline that has passed."""
    backend = GatedBackend(max_sequences=1)
    async with serving(backend.load_staged, stages="relief") as service:
        live = service.registry.get()
        live.queue.expect(1.0)  # tokens a second: nothing can be in time
        with pytest.raises(DeadlineExceeded):
            await service.admit(["where is my order"], deadline=1e-6)
        (known,) = await (await service.admit(["where is my order"], deadline=5.0)).decisions()
        assert known.prediction.intent == "order_status"
