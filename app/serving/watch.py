"""Looks at the store from time to time, and serves what has become the active version there.

A version is tried when its files have looked the same twice, so one that is still being copied or
whose weights are being built is left alone, and a refused one is not tried again before its files
change. What an operator chose through the service stays until the store changes.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TypeAlias

import structlog

from app.artifacts.manifest import read_manifest
from app.artifacts.store import Store
from app.errors import ChangeUnderWay, ShopintentError
from app.serving.live_model import State, digest_of
from app.serving.registry import Registry
from app.serving.slot import Slot

log = structlog.get_logger()

Files: TypeAlias = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True, slots=True)
class Look:
    """The active version and its files: path, size, time of the last change in nanoseconds."""

    version: str
    files: Files


class StoreWatch:
    """Event loop's thread only; the disk is asked in other threads."""

    def __init__(self, registry: Registry, store: Store, seconds: float) -> None:
        self.registry = registry
        self.store = store
        self.seconds = seconds
        self._handled: dict[str, Look | None] = {}
        self._seen: dict[str, Look | None] = {}

    async def run(self) -> None:
        """Until cancelled."""
        for name, slot in self.registry.slots.items():
            await slot.current.settled.wait()
            try:
                found = await asyncio.to_thread(look, self.store, name)
            except OSError as error:  # it is looked at again like one that has changed
                log.warning("store cannot be read", model=name, reason=error.strerror)
                continue
            # A name that is not live may be waiting for the very files that are there now.
            live = slot.current.state is State.LIVE
            if found and live and found.version == slot.current.ref.version:
                self._handled[name] = found
        while True:
            await asyncio.sleep(self.seconds)
            for slot in self.registry.slots.values():
                try:
                    await self._visit(slot)
                except OSError as error:
                    log.warning("store cannot be read", model=slot.name, reason=error.strerror)

    async def _visit(self, slot: Slot) -> None:
        found = await asyncio.to_thread(look, self.store, slot.name)
        before, self._seen[slot.name] = self._seen.get(slot.name), found
        if found is None or found == self._handled.get(slot.name) or found != before:
            return
        if not await asyncio.to_thread(self._is_live, slot, found.version):
            try:
                slot.begin("watch", found.version)
            except ChangeUnderWay:
                return
        self._handled[slot.name] = found

    def _is_live(self, slot: Slot, version: str) -> bool:
        current = slot.current
        if current.state is not State.LIVE or current.ref.version != version:
            return False
        try:
            published = read_manifest(self.store.root / slot.name / version)
        except ShopintentError:
            return False
        return digest_of(published) == current.digest


def look(store: Store, name: str) -> Look | None:
    """What the store holds for a name now; None where nothing can be served."""
    try:
        version = store.active_version(name)
    except ShopintentError:
        return None
    directory = store.root / name / version
    files = []
    for path in sorted(directory.rglob("*")):
        if path.is_file():
            found = path.stat()
            files.append((str(path.relative_to(directory)), found.st_size, found.st_mtime_ns))
    return Look(version, tuple(files))
