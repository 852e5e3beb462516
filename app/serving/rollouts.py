"""What an operator can do to the served versions. The store knows which there are and remembers."""

from __future__ import annotations

import asyncio
from functools import partial

from app.artifacts.store import Store
from app.errors import ManifestInvalid, UnknownModel
from app.serving.live_model import State
from app.serving.registry import Registry
from app.serving.shadow import Shadow
from app.serving.slot import Change, Slot


class Rollouts:
    """Event loop's thread only; the disk is asked in other threads.

    All raise :class:`UnknownModel` for what is not served or not in the store, and
    :class:`app.errors.ChangeUnderWay`. The change they return goes on by itself.
    """

    def __init__(self, registry: Registry, store: Store) -> None:
        self.registry = registry
        self.store = store

    async def activate(self, name: str, version: str) -> Change:
        """Serve a version, and after a restart too."""
        slot = self.registry.slot(name)
        await self._must_exist(name, version)
        keep = partial(self.store.activate, name, version, _live(slot))
        return slot.begin("activate", version, keep)

    async def roll_back(self, name: str) -> Change:
        """Serve the version that was live before: in this process, else by the store's memory."""
        slot = self.registry.slot(name)
        if slot.history:
            version = slot.history[-1]
        else:
            version = await asyncio.to_thread(self.store.previous_version, name, _live(slot))
        return slot.begin("rollback", version, partial(self.store.roll_back, name, version))

    async def reload(self, name: str) -> Change:
        """Serve what the store says is active, loaded anew."""
        slot = self.registry.slot(name)
        return slot.begin("reload", await asyncio.to_thread(self.store.active_version, name))

    async def begin_shadow(self, name: str, version: str, share: float) -> Shadow:
        """Let a version answer a share of the messages beside the live one, unseen."""
        slot = self.registry.slot(name)
        await self._must_exist(name, version)
        return slot.begin_shadow(version, share)

    def end_shadow(self, name: str) -> None:
        self.registry.slot(name).end_shadow()

    def in_store(self, name: str) -> tuple[tuple[str, ...], str | None]:
        """Published versions of a name, and the active one if that can be told. Asks the disk."""
        try:
            versions = self.store.versions(name)
            return versions, self.store.active_version(name)
        except UnknownModel:
            return (), None
        except ManifestInvalid:
            return self.store.versions(name), None

    async def _must_exist(self, name: str, version: str) -> None:
        if version not in await asyncio.to_thread(self.store.versions, name):
            raise UnknownModel(f"no version {version[:16]!r} of the model {name!r} in the store")


def _live(slot: Slot) -> str | None:
    """The version that a slot serves, None for none."""
    return slot.current.ref.version if slot.current.state is State.LIVE else None
