"""The live models: which names are served, in which state each is, and what it takes to reach them."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import Callable, Sequence
from enum import Enum

import structlog

from app import metrics
from app.domain import ModelRef
from app.errors import NotReady, ShopintentError, UnknownModel
from app.serving.batcher import Batcher, Load, Loaded
from app.serving.queue import TokenQueue

log = structlog.get_logger()


class State(Enum):
    """Of one served name."""

    LOADING = "loading"
    LIVE = "live"
    FAILED = "failed"
    CLOSED = "closed"


class LiveModel:
    """One served name with its queue and its thread. Event loop's thread only."""

    def __init__(self, name: str, load: Load, queue_tokens: int, load_lock: threading.Lock) -> None:
        self.name = name
        self.state = State.LOADING
        self.reason: str | None = None
        """Why it failed."""
        self.queue = TokenQueue(queue_tokens, metrics.QUEUE_TOKENS.labels(name))
        self.settled = asyncio.Event()
        """Set once loading has ended, well or not."""
        self.digest = ""
        self._loaded: Loaded | None = None
        self._ref: ModelRef | None = None
        self._batcher = Batcher(name, load, self.queue, self._settle, load_lock)

    def start(self) -> None:
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
        """Raises :class:`NotReady` unless live."""
        if self._ref is None:
            manifest, classifier = self.loaded.manifest, self.loaded.classifier
            self._ref = ModelRef(manifest.name, manifest.version, classifier.backend.info.kind)
        return self._ref

    def _settle(self, result: Loaded | ShopintentError) -> None:
        if isinstance(result, Loaded):
            self._loaded = result
            self.state = State.LIVE
            self.digest = hashlib.sha256(result.manifest.model_dump_json().encode()).hexdigest()
            ref = self.ref
            metrics.MODEL_INFO.labels(ref.name, ref.version, ref.backend).set(1)
            metrics.MODEL_LOADS.labels(self.name, "live").inc()
            log.info("model is live", model=ref.name, version=ref.version, backend=ref.backend)
        else:
            if self.state is State.LIVE:
                metrics.MODEL_INFO.remove(self.ref.name, self.ref.version, self.ref.backend)
            self.state = State.FAILED
            self.reason = str(result)
            metrics.MODEL_LOADS.labels(self.name, "failed").inc()
            log.error("model could not be loaded", model=self.name, reason=self.reason)
        self.settled.set()

    async def close(self, patience: float) -> None:
        """Finish what was admitted, then free the model."""
        self.queue.close()
        if not await asyncio.to_thread(self._batcher.join, patience):
            log.warning("model thread did not end in time", model=self.name)
        if self.state is State.LIVE:
            metrics.MODEL_INFO.remove(self.ref.name, self.ref.version, self.ref.backend)
        self.state = State.CLOSED


class Registry:
    """All served names, in the operator's order; the first is the default."""

    def __init__(self, names: Sequence[str], load: Load, queue_tokens: int) -> None:
        load_lock = threading.Lock()
        self.models = {name: LiveModel(name, load, queue_tokens, load_lock) for name in names}
        self.default = names[0]

    def start(self, on_settled: Callable[[], None]) -> None:
        """Begin to load all; ``on_settled`` is called when the last has come to life or failed."""
        for model in self.models.values():
            model.start()
        self._watch = asyncio.create_task(self._settled(on_settled))

    async def _settled(self, on_settled: Callable[[], None]) -> None:
        for model in self.models.values():
            await model.settled.wait()
        on_settled()

    def get(self, name: str | None = None) -> LiveModel:
        """The model to ask, by default the first. Raises :class:`UnknownModel`."""
        model = self.models.get(name or self.default)
        if model is None:
            raise UnknownModel(f"no such model here; served: {', '.join(self.models)}")
        return model

    @property
    def unready(self) -> dict[str, str]:
        """Name and reason of every model that is not live."""
        return {
            name: model.reason or model.state.value
            for name, model in self.models.items()
            if model.state is not State.LIVE
        }

    @property
    def started(self) -> bool:
        """Every model has come to life or failed, and at least one lives."""
        states = [model.state for model in self.models.values()]
        return State.LOADING not in states and State.LIVE in states

    async def close(self, patience: float) -> None:
        """Close all at once, each finishing what it was given within ``patience`` seconds."""
        self._watch.cancel()
        await asyncio.gather(*(model.close(patience) for model in self.models.values()))
