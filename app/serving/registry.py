"""The live models: which names are served, and by what."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence

from app import metrics
from app.errors import UnknownModel
from app.serving.batcher import Load
from app.serving.live_model import LiveModel, State
from app.serving.slot import Slot


class Registry:
    """All served names, in the operator's order; the first is the default."""

    def __init__(self, names: Sequence[str], load: Load, queue_tokens: int) -> None:
        load_lock = threading.Lock()
        self.slots = {name: Slot(name, load, queue_tokens, load_lock, self.busy) for name in names}
        self.default = names[0]
        metrics.QUEUE_LIMIT.set(queue_tokens)

    @property
    def models(self) -> dict[str, LiveModel]:
        """Name and the version that answers to it now."""
        return {name: slot.current for name, slot in self.slots.items()}

    def busy(self) -> bool:
        """Whether any live version has work. From any thread."""
        return any(slot.current.queue.tokens for slot in self.slots.values())

    def start(self, on_settled: Callable[[], None]) -> None:
        """Begin to load all; ``on_settled`` is called when the last has come to life or failed."""
        for slot in self.slots.values():
            slot.start()
        self._watch = asyncio.create_task(self._settled(on_settled))

    async def _settled(self, on_settled: Callable[[], None]) -> None:
        for model in self.models.values():
            await model.settled.wait()
        on_settled()

    def slot(self, name: str | None = None) -> Slot:
        """The place of a name, by default the first. Raises :class:`UnknownModel`."""
        slot = self.slots.get(name or self.default)
        if slot is None:
            raise UnknownModel(f"no such model here; served: {', '.join(self.slots)}")
        return slot

    def get(self, name: str | None = None) -> LiveModel:
        """The version to ask now, by default of the first name. Raises :class:`UnknownModel`."""
        return self.slot(name).current

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
        await asyncio.gather(*(slot.close(patience) for slot in self.slots.values()))
