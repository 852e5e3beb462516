"""What the commands share: the screen, the settings, and how a failure is told to a person."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape

from app.errors import ShopintentError
from app.serving.background import share_memory_pools

if TYPE_CHECKING:
    from app.settings import Settings

screen = Console(stderr=True)
_SPINS = "200"
"""Looks of a GNU OpenMP thread at a barrier before it sleeps: some microseconds."""


@contextmanager
def told_plainly() -> Iterator[None]:
    """End with a sentence instead of a traceback when something foreseen happens."""
    try:
        yield
    except ShopintentError as error:
        # It quotes what was given, and brackets in that are no markup.
        screen.print(f"[red]{type(error).__name__}[/]: {escape(str(error))}", soft_wrap=True)
        raise typer.Exit(1) from None


def read_settings() -> Settings:
    """The settings; ends with a line for each that is wrong."""
    from app.settings import Settings

    try:
        return Settings()
    except ValidationError as error:
        for one in error.errors(include_url=False):
            name = "INTENT_" + "_".join(str(part) for part in one["loc"][:1]).upper()
            screen.print(f"[red]{name}[/]: {one['msg']}")
        raise typer.Exit(2) from None


def prepare_libraries() -> None:
    """Set what OpenMP and BLAS read when they load, and how memory is handed out.

    A command that runs a model calls it before it reads the settings, which load numpy.

    Passive waiting: two spinning teams on few cores turn milliseconds into seconds. But a thread that goes
    to sleep at once costs more to wake than most barriers last, so it first looks a few times whether
    the others are there (docs/benchmarks.md). One BLAS thread: the head is a small product, and a
    second pool would only take cores from the model.
    """
    if os.environ.setdefault("OMP_WAIT_POLICY", "passive").lower() == "passive":
        os.environ.setdefault("GOMP_SPINCOUNT", _SPINS)
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # llama.cpp asks back some 700 times a batch whether a node is wanted, and each time needs the
    # interpreter. Python's 5 ms turns would let a busy event loop stretch a batch fourfold.
    sys.setswitchinterval(0.0002)
    share_memory_pools()
