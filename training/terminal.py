"""The terminal of the commands: progress of long steps, plain lines where there is none; and threads."""

from __future__ import annotations

import os
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from app.cpu import cpu_budget

console = Console(stderr=True)


def model_threads(asked: int) -> int:
    """As many as asked for; for 0 what this machine gives."""
    return asked or cpu_budget().model_threads


def limit_threads(asked: int) -> None:
    """Before torch or llama.cpp load: they read these once. Passive waiting spares busy machines."""
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("OMP_NUM_THREADS", str(model_threads(asked)))
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


class ProgressLine:
    """A :class:`app.artifacts.base_package.Progress`: one bar, or a line a step for logs."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar = Progress(
            TextColumn("{task.description:<34}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("begin", total=None)
        self._step = ""
        self._said = 0.0
        self._began = time.monotonic()

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def __call__(self, step: str, done: int, total: int) -> None:
        name = step.partition(" (")[0]
        if name != self._step:
            self._step = name
            self._bar.reset(self._task, total=total or None)
        self._bar.update(self._task, description=step, completed=done, total=total or None)
        now = time.monotonic()
        if not self._console.is_terminal and (done == total or now - self._said > 20):
            self._said = now
            share = f" {done}/{total}" if total else ""
            self._console.print(f"{now - self._began:6.0f} s  {step}{share}", highlight=False)
