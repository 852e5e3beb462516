"""Work that must not slow the answers down: threads that step back, and memory that is given back."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from time import monotonic, sleep
from typing import TypeVar

T = TypeVar("T")

_M_ARENA_MAX = -8
"""As in glibc's malloc.h."""

COMPUTING = 5
"""Niceness of what computes answers. The event loop needs little of a core, but at once: who is refused,
or is answered from the cache or by n-grams, must not wait behind a batch."""
BEHIND = 15
"""Niceness of work that must end in time: about a tenth of a core that answers want too."""
LAST = 19
"""Niceness of work that may starve: a seventieth."""


_LONGEST_WAIT = 0.05
"""Seconds, each time it is called."""
PATIENCE = 5.0
"""Seconds that a load waits in all. Where others never rest, it goes on beside them after that."""
_LOOK_EVERY = 0.002


class GiveWay:
    """Lets the work of one model wait while others serve: called between its steps, from its thread.

    A low priority alone does not do it. Where the quota of a container is what is scarce, and not its
    CPUs, all threads run at once and are then held up together; and a thread that was pushed aside may
    be holding what the others need: the interpreter, a barrier, memory that the cache has room for once.
    """

    def __init__(self, busy: Callable[[], bool], patience: float = PATIENCE) -> None:
        """``busy`` tells whether others have work, from any thread; ``patience`` is in seconds."""
        self._busy = busy
        self._left = patience
        self._over = False

    def __call__(self) -> bool:
        """Wait until the others rest, but not for ever; whether to be called again."""
        began = monotonic()
        end = began + min(_LONGEST_WAIT, self._left)
        while not self._over and self._busy() and monotonic() < end:
            sleep(_LOOK_EVERY)
        self._left -= monotonic() - began
        return not self._over and self._left > 0

    def stop(self) -> None:
        """From now on the model is one of the others."""
        self._over = True


def step_back(niceness: int) -> None:
    """Lower the priority of the calling thread, and of those that it starts from now on.

    For good: without a privilege nobody may raise a priority again. Only Linux gives threads
    priorities of their own; elsewhere nothing happens.
    """
    if sys.platform == "linux":
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), niceness)


def in_background(name: str, call: Callable[[], T]) -> T:
    """The result of ``call``, or what it raised, from a thread :data:`BEHIND` the others."""
    result: Future[T] = Future()

    def run() -> None:
        step_back(BEHIND)
        try:
            result.set_result(call())
        except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
            result.set_exception(error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return result.result()


def share_memory_pools() -> None:
    """Let all threads allocate from two pools. glibc only; to be called before there are threads.

    By default each new thread gets a pool of its own. Every version is loaded by new threads, and
    what little each leaves behind in its pool keeps whole pages: some 100 MB after a few changes.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None and sys.platform == "linux":
        mallopt(_M_ARENA_MAX, 2)


def give_memory_back() -> None:
    """Let the C library return what freed models have left to the system. glibc only."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
