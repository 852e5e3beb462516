"""What must not slow the answers down."""

from __future__ import annotations

import os
import sys
import threading

import pytest

from app.serving.background import (
    BEHIND,
    LAST,
    give_memory_back,
    in_background,
    share_memory_pools,
    step_back,
)

linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has priorities of threads")


def priority() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


@linux
def test_background_work_has_a_low_priority_and_so_have_its_threads() -> None:
    """The caller keeps its own; threads that the work starts, as model libraries do, inherit it."""

    def work() -> tuple[int, int]:
        seen: list[int] = []
        child = threading.Thread(target=lambda: seen.append(priority()))
        child.start()
        child.join()
        return priority(), seen[0]

    before = priority()
    assert in_background("work", work) == (max(before, BEHIND),) * 2
    assert priority() == before


def test_errors_come_back() -> None:
    """What the work raises is raised where its result is awaited."""
    with pytest.raises(ZeroDivisionError):
        in_background("work", lambda: 1 / 0)


def test_all_are_harmless_anywhere() -> None:
    """None of them ever fails, whatever the system lacks."""
    give_memory_back()
    share_memory_pools()
    stepping = threading.Thread(target=step_back, args=(LAST,))
    stepping.start()
    stepping.join()
