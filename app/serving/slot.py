"""One served name through its versions: a candidate proves itself beside the live one, then takes over.

load -> verify -> warm up -> golden answers, all in the background and while others rest -> switch
between two turns of the event loop -> the old version answers what it has taken, and is freed.
Whatever goes wrong before the switch leaves the old version as it is. Meanwhile two sets of weights
are in memory.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from time import perf_counter
from typing import Literal, TypeAlias, get_args

import structlog

from app import metrics
from app.domain import ModelRef
from app.errors import ChangeUnderWay, NotReady, ShopintentError
from app.serving.background import in_background
from app.serving.batcher import Load, Manner
from app.serving.live_model import LiveModel, State
from app.serving.shadow import Shadow

log = structlog.get_logger()

Kind: TypeAlias = Literal["activate", "rollback", "reload", "watch"]

_RETIRE_SECONDS = 600.0
"""The longest that a replaced version may take for what it has admitted."""
_COUNTED = 4
"""Versions of a name whose series are kept; those of older ones are dropped from the metrics."""
_REMEMBERED = 16


class ChangeState(Enum):
    """Of a change of the served version."""

    LOADING = "loading"
    LIVE = "live"
    REFUSED = "refused"


@dataclass(eq=False, slots=True)
class Change:
    """One attempt to serve another version. Event loop's thread only."""

    kind: Kind
    version: str
    state: ChangeState = ChangeState.LOADING
    reason: str | None = None
    """Why it was refused."""
    kept: bool | None = None
    """Whether the store remembers it, so that a restart serves it too; None where it was not asked."""
    began: datetime = field(default_factory=lambda: datetime.now(UTC))
    seconds: float | None = None
    """From the call to the switch or the refusal."""
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class Slot:
    """A served name. Event loop's thread only."""

    def __init__(
        self,
        name: str,
        load: Load,
        queue_tokens: int,
        load_lock: threading.Lock,
        busy: Callable[[], bool],
    ) -> None:
        """``busy`` tells, in any thread, whether a live version of any name has work."""
        self.name = name
        self._busy = busy
        self.change: Change | None = None
        """The last one, or the one under way."""
        self.history: list[str] = []
        """Versions that were live before this one in this process, the last of them last."""
        self.live_since: datetime | None = None
        self.shadow: Shadow | None = None
        self._load = load
        self._queue_tokens = queue_tokens
        self._load_lock = load_lock
        self._candidate: LiveModel | None = None
        self._counted: list[str] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._leaving: set[asyncio.Task[None]] = set()
        """Of them, those that free what is no longer asked."""
        self._closing = False
        self.current = LiveModel(name, load, queue_tokens, load_lock)
        # From 0 on, or the first of each would be invisible to a rate.
        for result in ("live", "failed"):
            metrics.MODEL_LOADS.labels(name, result)
        for kind in get_args(Kind):
            for result in ("live", "refused"):
                metrics.MODEL_CHANGES.labels(name, kind, result)

    def start(self) -> None:
        self.current.start(self._on_first)

    @property
    def changing(self) -> bool:
        """The first version or a candidate is on its way."""
        return self._candidate is not None or self.current.state is State.LOADING

    def begin(self, kind: Kind, version: str, keep: Callable[[], object] | None = None) -> Change:
        """Bring up a version; on success it takes over, and then ``keep`` is called in a thread.

        Raises :class:`ChangeUnderWay` and, once closed, :class:`NotReady`. Ends a shadow, and waits
        for what is still being freed: no more than two sets of weights shall be in memory.
        """
        if self._closing:
            raise NotReady("the service is stopping")
        if self.changing:
            raise ChangeUnderWay(f"another change of the model {self.name!r} is under way")
        self.end_shadow()
        live = self.current.state is State.LIVE
        self.change = change = Change(kind, version)
        began = perf_counter()
        self._candidate = candidate = LiveModel(
            self.name,
            self._load,
            self._queue_tokens,
            self._load_lock,
            version=version,
            manner=Manner.SUCCESSOR if live else Manner.ALONE,
            pace=self.current.queue.pace if live else None,
            busy=self._busy,
        )

        def settled(candidate: LiveModel) -> None:
            if candidate is self._candidate and not self._closing:
                change.seconds = perf_counter() - began
                self._settle(candidate, change, keep)
            elif candidate is self.current:
                self._broke(candidate)

        def start() -> None:
            if candidate is self._candidate and not self._closing:
                candidate.start(settled)

        log.info("model change begins", model=self.name, version=version, kind=kind)
        self._once_alone(start)
        return change

    def _settle(
        self, candidate: LiveModel, change: Change, keep: Callable[[], object] | None
    ) -> None:
        self._candidate = None
        if candidate.state is not State.LIVE:
            change.state, change.reason = ChangeState.REFUSED, candidate.reason
            metrics.MODEL_LOADS.labels(self.name, "failed").inc()
            metrics.MODEL_CHANGES.labels(self.name, change.kind, "refused").inc()
            log.error(
                "model change refused",
                model=self.name,
                version=change.version,
                kind=change.kind,
                reason=change.reason,
            )
            change.ended.set()
            return
        old, self.current = self.current, candidate
        if old.state is State.LIVE:
            self._remember(old.ref, going_back=change.kind == "rollback")
            metrics.MODEL_INFO.remove(old.ref.name, old.ref.version, old.ref.backend)
        self._announce()
        change.state = ChangeState.LIVE
        metrics.MODEL_CHANGES.labels(self.name, change.kind, "live").inc()
        self._leave(old.close(_RETIRE_SECONDS))
        self._spawn(self._end(change, keep))

    async def _end(self, change: Change, keep: Callable[[], object] | None) -> None:
        try:
            if keep is not None:
                await asyncio.to_thread(in_background, f"keep-{self.name}", keep)
                change.kept = True
        except OSError as error:
            change.kept = False
            log.warning("store cannot be written", model=self.name, reason=error.strerror)
        except ShopintentError as error:  # its files have changed since they were loaded
            change.kept = False
            log.warning("store cannot keep the version", model=self.name, reason=str(error))
        finally:
            change.ended.set()

    def _remember(self, old: ModelRef, *, going_back: bool) -> None:
        version = self.current.ref.version
        if going_back and version in self.history:
            while self.history.pop() != version:
                pass
        elif not going_back and version != old.version:
            self.history = [*self.history, old.version][-_REMEMBERED:]

    def _on_first(self, model: LiveModel) -> None:
        if model is not self.current or self._closing:
            return
        if model.state is State.LIVE:
            self._announce()
        else:
            self._broke(model)

    def _broke(self, model: LiveModel) -> None:
        """It could not be loaded, or its thread has ended."""
        if model.has_ref:
            metrics.MODEL_INFO.remove(model.ref.name, model.ref.version, model.ref.backend)
        metrics.MODEL_LOADS.labels(self.name, "failed").inc()
        log.error("model could not be loaded", model=self.name, reason=model.reason)

    def _announce(self) -> None:
        """The current version has gone live."""
        model, ref = self.current, self.current.ref
        self.live_since = datetime.now(UTC)
        metrics.MODEL_INFO.labels(ref.name, ref.version, ref.backend).set(1)
        metrics.MODEL_LOADS.labels(self.name, "live").inc()
        metrics.MODEL_LOAD_SECONDS.labels(self.name).set(model.load_seconds)
        model.show_drift()
        self._counted = [*(one for one in self._counted if one != ref.version), ref.version]
        for version in self._counted[:-_COUNTED]:
            for metric in (metrics.PREDICTIONS, metrics.CONFIDENCE, metrics.CART_DECISIONS):
                metric.remove_by_labels({"model": self.name, "version": version})
        self._counted = self._counted[-_COUNTED:]
        log.info(
            "model is live",
            model=ref.name,
            version=ref.version,
            backend=ref.backend,
            seconds=round(model.load_seconds, 2),
        )

    def begin_shadow(self, version: str, share: float) -> Shadow:
        """Let a version answer a share of the messages too, for nobody but the metrics.

        Raises :class:`NotReady` unless live, and :class:`ChangeUnderWay`.
        """
        if self._closing:
            raise NotReady("the service is stopping")
        if self._candidate is not None:
            raise ChangeUnderWay(f"a change of the model {self.name!r} is under way")
        _ = self.current.loaded
        self.end_shadow()
        for metric in (metrics.SHADOW_MESSAGES, metrics.SHADOW_DIFFERENCE):
            metric.remove_by_labels({"model": self.name})
        shadow = Shadow(self.current, self._load, self._load_lock, version, share, self._busy)
        self.shadow = shadow

        def start() -> None:
            if shadow is self.shadow and not self._closing:
                shadow.start()

        self._once_alone(start)
        return shadow

    def end_shadow(self) -> None:
        """Stop asking a shadow, if there is one, and free it."""
        if self.shadow is not None:
            ended, self.shadow = self.shadow, None
            self._leave(ended.close(_RETIRE_SECONDS))

    def _leave(self, closing: Coroutine[None, None, None]) -> None:
        task = self._spawn(closing)
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    def _once_alone(self, start: Callable[[], None]) -> None:
        """Start when nothing but the live version is in memory; at once where that is so."""
        if self._leaving:
            self._spawn(self._start_alone(start))
        else:
            start()

    async def _start_alone(self, start: Callable[[], None]) -> None:
        while self._leaving:
            await asyncio.wait(self._leaving)
        start()

    def _spawn(self, coroutine: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def close(self, patience: float) -> None:
        """Finish what was admitted, then free all that is loaded; after ``patience`` seconds end anyhow."""
        self._closing = True
        end = perf_counter() + patience
        self.end_shadow()
        models = [self.current, *([self._candidate] if self._candidate else [])]
        live = self.current.state is State.LIVE
        await asyncio.gather(*(model.close(patience) for model in models))
        if live:
            ref = self.current.ref
            metrics.MODEL_INFO.remove(ref.name, ref.version, ref.backend)
        if self.change is not None:
            self.change.ended.set()
        if self._tasks:  # what was replaced may be at work for long yet
            await asyncio.wait(self._tasks, timeout=max(0.1, end - perf_counter()))
