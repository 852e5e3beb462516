"""What must not slow the answers down."""

from __future__ import annotations

import threading

import pytest

from app.serving.background import (
    BEHIND,
    LAST,
    GiveWay,
    give_memory_back,
    in_background,
    share_memory_pools,
    step_back,
)
from tests.priorities import linux, priority


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


def test_work_waits_while_others_serve_and_goes_on_when_they_rest() -> None:
    """It asks again and again, and is told to ask on."""
    looks = iter([True] * 5)
    give_way = GiveWay(lambda: next(looks, False))
    assert give_way()
    assert next(looks, None) is None


def test_work_does_not_wait_for_ever() -> None:
    """A service that never rests gets its new version all the same."""
    assert GiveWay(lambda: True)(), "one wait is short"
    give_way = GiveWay(lambda: True, patience=0.06)
    assert give_way()
    assert not give_way(), "and all of them together have an end"


def test_work_that_has_become_one_of_the_others_does_not_wait() -> None:
    """Nobody is asked any more, and the caller may forget to call."""
    asked: list[bool] = []
    give_way = GiveWay(lambda: asked.append(True) or True)
    give_way.stop()
    assert not give_way()
    assert not asked


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
