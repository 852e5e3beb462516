"""What a person sees of a bulk job: a bar, a line now and then in a pipe, and a word at the end."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from app.bulk.job import Job, Runner, errors_of, run

_QUIET_SECONDS = 15.0
"""Between two lines where there is no terminal."""


def run_watched(job: Job, runner: Runner, screen: Console) -> None:
    """Run the job and tell of it; Ctrl-C leaves what is saved and says so."""
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=screen,
        disable=not screen.is_terminal,
    )
    try:
        with bar:
            new = run(job, runner, _Watch(bar, screen))
    except KeyboardInterrupt:
        screen.print("Stopped. What is saved stays: the same command goes on from there.")
        raise
    if not new:
        screen.print(f"{job.output} is there already, from this very job.", soft_wrap=True)
    for reason, rows in errors_of(job.output).items():
        screen.print(f"[yellow]{rows} rows[/] could not be labelled: {reason}")
    screen.print(f"[green]✓[/] {job.output}", soft_wrap=True)


class _Watch:
    """Draws the bar, or prints a line now and then."""

    def __init__(self, bar: Progress, screen: Console) -> None:
        self._bar = bar
        self._screen = screen

    def __call__(self, done: int, total: int) -> Callable[[int], None]:
        if done:
            self._screen.print(f"{done} of {total} rows are labelled already")
        task = self._bar.add_task("messages", completed=done, total=total)
        began = said = monotonic()
        labelled = done

        def progress(rows: int) -> None:
            nonlocal labelled, said
            labelled += rows
            self._bar.update(task, completed=labelled)
            now = monotonic()
            if not self._screen.is_terminal and now - said > _QUIET_SECONDS:
                said = now
                rate = (labelled - done) / (now - began)
                self._screen.print(f"{labelled} of {total} rows, {rate:.0f} a second")

        return progress
