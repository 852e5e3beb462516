"""One version of a served model: its state, its queue, its thread."""

from __future__ import annotations

import asyncio
import hashlib
import math
import threading
from collections.abc import Callable, Sequence
from enum import Enum
from functools import partial
from time import perf_counter

import structlog

from app import metrics
from app.artifacts.manifest import Manifest
from app.domain import ModelRef, Prediction
from app.errors import NotReady, ShopintentError
from app.serving.background import PATIENCE, GiveWay
from app.serving.batcher import Batcher, Load, Loaded, Manner
from app.serving.drift import IntentWindow
from app.serving.queue import TokenQueue

log = structlog.get_logger()


class State(Enum):
    """Of one version of a served name."""

    LOADING = "loading"
    LIVE = "live"
    FAILED = "failed"
    CLOSED = "closed"


class LiveModel:
    """One version of a served name, with its queue and its thread. Event loop's thread only."""

    def __init__(
        self,
        name: str,
        load: Load,
        queue_tokens: int,
        load_lock: threading.Lock,
        *,
        version: str | None = None,
        manner: Manner = Manner.ALONE,
        pace: float | None = None,
        busy: Callable[[], bool] | None = None,
    ) -> None:
        """``version`` None is the active one; ``pace``, tokens a second, saves measuring it.

        ``busy`` tells, in any thread, whether those have work who go first.
        """
        self.name = name
        self.state = State.LOADING
        self.reason: str | None = None
        """Why it failed."""
        label = f"{name}:shadow" if manner is Manner.SHADOW else name
        self.queue = TokenQueue(queue_tokens, metrics.QUEUE_TOKENS.labels(label))
        if pace is not None:
            self.queue.expect(pace)
        self.settled = asyncio.Event()
        """Set once loading has ended, well or not."""
        self.digest = ""
        self.on_decisions: Callable[[Sequence[str], Sequence[Prediction]], None] | None = None
        """Told of the normalised texts of each answered request, and what was decided."""
        self.load_seconds = 0.0
        self._began = perf_counter()
        self._window = IntentWindow(None)
        self._loaded: Loaded | None = None
        self._ref: ModelRef | None = None
        self._on_state: Callable[[LiveModel], None] = lambda _: None
        # None is left out: a loader of whatever is active need not know versions.
        call = partial(load, name) if version is None else partial(load, name, version)
        give_way = None
        if busy is not None and manner is not Manner.ALONE:
            give_way = GiveWay(busy, math.inf if manner is Manner.SHADOW else PATIENCE)
            call = partial(load, name, version, give_way)
        self._batcher = Batcher(label, call, self.queue, self._settle, load_lock, manner, give_way)

    def start(self, on_state: Callable[[LiveModel], None] = lambda _: None) -> None:
        """Begin to load. ``on_state`` is called when that has ended, and when the thread breaks."""
        self._on_state = on_state
        self._batcher.start()

    @property
    def loaded(self) -> Loaded:
        """Raises :class:`NotReady` unless live."""
        if self.state is State.LIVE and self._loaded is not None:
            return self._loaded
        if self.state is State.LOADING:
            raise NotReady(f"the model {self.name!r} is still loading", retry_after=2.0)
        if self.state is State.FAILED:
            raise NotReady(f"the model {self.name!r} could not be loaded", retry_after=30.0)
        raise NotReady("the service is stopping")

    @property
    def ref(self) -> ModelRef:
        """Raises :class:`NotReady` unless it is live or has been."""
        if self._ref is None:
            manifest, classifier = self.loaded.manifest, self.loaded.classifier
            self._ref = ModelRef(manifest.name, manifest.version, classifier.backend.info.kind)
        return self._ref

    @property
    def has_ref(self) -> bool:
        """It is live, or has been."""
        return self._ref is not None

    @property
    def reads_carts(self) -> bool:
        """It is live and has heads for carts."""
        return self._loaded is not None and self._loaded.classifier.cart is not None

    def note(self, texts: Sequence[str], predictions: Sequence[Prediction]) -> None:
        """Decisions that were given out, with the normalised texts that they are about."""
        for prediction in predictions:
            self._window.add(prediction.intent)
        if self.on_decisions is not None:
            self.on_decisions(texts, predictions)

    def show_drift(self) -> None:
        """Let the drift gauges of this name tell of this version."""
        metrics.DRIFT.labels(self.name, "published").set_function(self._window.against_published)
        metrics.DRIFT.labels(self.name, "first").set_function(self._window.against_first)

    def _settle(self, result: Loaded | ShopintentError) -> None:
        if self.state is State.CLOSED:
            return
        if isinstance(result, Loaded):
            self._loaded = result
            self._window = IntentWindow(result.intent_shares)
            self.state = State.LIVE
            self.digest = digest_of(result.manifest)
            self.load_seconds = perf_counter() - self._began
            _ = self.ref
        else:
            self.state = State.FAILED
            self._loaded = None
            self.reason = str(result)
        self.settled.set()
        self._on_state(self)

    async def close(self, patience: float) -> None:
        """Finish what was admitted, then free the model."""
        self.queue.close()
        self._batcher.hurry()
        ended = await self._batcher.ended(patience)
        if not ended:
            log.warning("model thread did not end in time", model=self.name)
        self.state = State.CLOSED
        # Answered requests may hold on to this object; they need not keep the model in memory.
        self._loaded = None
        self.settled.set()


def digest_of(manifest: Manifest) -> str:
    """Two versions of equal digest give equal answers."""
    return hashlib.sha256(manifest.model_dump_json().encode()).hexdigest()
