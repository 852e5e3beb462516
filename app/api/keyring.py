"""The keys that are in force: those of the environment, and those of a file that is read again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from time import monotonic

import structlog

from app import metrics
from app.api.keys import BadKeyList, Key, read_keys

log = structlog.get_logger()

_LOOK_AGAIN = 1.0
"""Seconds between two looks at the file: as long as a revoked key may still work."""

Stamp = tuple[int, int, int]


class KeyRing:
    """Keys by order of their lines. Event loop's thread only.

    A file that cannot be read or has a bad line changes nothing: the keys read last stay in force,
    the log says so, and the metric ``intent_keys_unreadable`` is 1 until it is mended.
    """

    def __init__(
        self, fixed: str = "", path: Path | None = None, clock: Callable[[], float] = monotonic
    ) -> None:
        """Raises :class:`BadKeyList` or ``OSError`` when the first reading fails."""
        self.path = path
        self._clock = clock
        self._fixed = read_keys(fixed)
        self._stamp = self._look() if path else None
        self._keys = self._read()
        self._next_look = clock() + _LOOK_AGAIN
        metrics.KEYS_UNREADABLE.set(0)

    @property
    def keys(self) -> tuple[Key, ...]:
        """Those in force now."""
        if self.path and self._clock() >= self._next_look:
            self._next_look = self._clock() + _LOOK_AGAIN
            self._refresh()
        return self._keys

    def _refresh(self) -> None:
        try:
            stamp = self._look()
            if stamp == self._stamp:
                return
            keys = self._read()
        except (OSError, ValueError) as error:
            stamp = None
            if self._stamp is not None:  # said once, not every second
                reason = str(error) if isinstance(error, BadKeyList) else type(error).__name__
                log.warning("key file cannot be used; the keys read last stay", reason=reason)
            metrics.KEYS_UNREADABLE.set(1)
        else:
            self._keys = keys
            metrics.KEYS_UNREADABLE.set(0)
            log.info("key file was read again", keys=len(keys))
        self._stamp = stamp

    def _look(self) -> Stamp:
        assert self.path is not None
        found = self.path.stat()
        return found.st_mtime_ns, found.st_size, found.st_ino

    def _read(self) -> tuple[Key, ...]:
        listed = read_keys(self.path.read_text("utf-8-sig")) if self.path else ()
        return (*self._fixed, *listed)
