"""Priorities of threads, as tests see them."""

from __future__ import annotations

import os
import sys
import threading

import pytest

linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has priorities of threads")


def priority() -> int:
    """The calling thread's niceness."""
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
