"""Contenders in turn: all are loaded, one works at a time, and ratios are taken round by round.

So a slow minute of the machine counts on every side of a ratio.
"""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

from study.plan import TURN_TITLES, Trial
from study.weights import ChildFailed

if TYPE_CHECKING:
    from study.run import Study


class Seat:
    """One contender, loaded in a child of its own."""

    def __init__(self, study: Study, trial: Trial) -> None:
        from study.run import start_child

        self.trial = trial
        self._child: subprocess.Popen[str] = start_child(study.job(trial, "turns"), study.log)
        self.loaded: dict[str, Any] = self._hear()
        self._at = 0

    def turn(self, rows: int) -> dict[str, Any]:
        """Seconds of the next rows; in the same turn every contender has the same ones."""
        assert self._child.stdin is not None
        start, self._at = self._at, self._at + rows
        self._child.stdin.write(json.dumps({"start": start, "stop": self._at}) + "\n")
        self._child.stdin.flush()
        return self._hear()

    def leave(self) -> dict[str, Any]:
        """End the child; its memory as it was at the end."""
        assert self._child.stdin is not None
        self._child.stdin.close()
        last = self._hear()
        self._child.wait()
        return last

    def stop(self) -> None:
        if self._child.poll() is None:
            self._child.kill()
            self._child.wait()

    def _hear(self) -> dict[str, Any]:
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        if not line:
            raise ChildFailed(f"{self.trial.name} ended in the middle of its turns")
        heard: dict[str, Any] = json.loads(line)
        return heard


def take_turns(study: Study, trial: Trial) -> dict[str, Any]:
    """Seconds of every contender in every round; odd rounds go backwards."""
    seats: dict[str, Seat] = {}
    found: dict[str, dict[str, Any]] = {}
    try:
        for title, (name, task) in TURN_TITLES.items():
            seats[title] = Seat(study, Trial(trial.backbone, name, task))
            found[title] = {"rounds": [], **seats[title].loaded}
        for number in range(study.sizes.turns + 1):
            order = list(seats) if number % 2 else list(reversed(seats))
            for title in order:
                heard = seats[title].turn(study.sizes.turn_rows)
                if number:  # the first round warms up
                    found[title]["rounds"].append(heard["seconds"])
        for title, seat in seats.items():
            found[title] |= seat.leave()
    finally:
        for seat in seats.values():
            seat.stop()
    return {"contenders": found}
