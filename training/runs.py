"""A run directory: the outputs of a recipe's steps by name, and a record of each that is written last.

A step is done when its record stands and was made from the same things: its own knobs and the records of
the steps before it. So a killed run goes on where it stood, and a changed knob redoes what depends on it.
"""

from __future__ import annotations

import gc
import hashlib
import json
import resource
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from app.artifacts.manifest import write_atomically
from app.errors import InputError

RECORDS = "steps"
_BEFORE: Mapping[str, tuple[str, ...]] = {
    "prepare": (),
    "rehearse": ("prepare",),
    "tune": ("prepare",),
    "merge": ("tune",),
    "quantise": ("tune",),
    "calibrate": ("rehearse",),
    "evaluate": ("merge", "quantise", "calibrate"),
    "publish": ("evaluate",),
}
"""What each step is made from. ``rehearse`` is the first half of the command ``tune``."""


@dataclass(frozen=True, slots=True)
class StepRecord:
    """What a finished step says of itself."""

    key: str
    made_from: Mapping[str, str]
    """The keys that the steps before it had."""
    seconds: float
    peak_mb: float
    """Greatest resident memory of the process during the step, in 10**6 bytes."""
    device: str = "cpu"
    device_peak_mb: float | None = None
    """Greatest memory of the accelerator, where there was one."""


class Run:
    """One run directory. Holds no state: every question looks at the disk."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def __truediv__(self, name: str) -> Path:
        return self.directory / name

    def key(self, step: str, own: object = None) -> str:
        """Digest of a step's knobs and of all that it is made from.

        Raises :class:`app.errors.InputError` when a step before it is not done, or has to be done again.
        """
        content = json.dumps([step, own, self._before(step)], sort_keys=True, default=str)
        return hashlib.sha256(content.encode()).hexdigest()

    def record(self, step: str) -> StepRecord | None:
        path = self / RECORDS / f"{step}.json"
        if not path.is_file():
            return None
        try:
            return StepRecord(**json.loads(path.read_bytes()))
        except (ValueError, TypeError):
            return None  # written by another version: the step is done again

    def require(self, step: str) -> StepRecord:
        """The record of a finished step.

        Raises :class:`app.errors.InputError` without one, and where a step before it has changed since.
        """
        found = self.record(step)
        if found is not None and found.made_from == self._before(step):
            return found
        command = "tune" if step == "rehearse" else step
        why = "nothing to go on from" if found is None else f"what `{command}` left is out of date"
        raise InputError(
            f"{self.directory}: {why}: first run `python -m training {command} --run {self.directory}`"
        )

    def _before(self, step: str) -> dict[str, str]:
        """Keys of the steps that a step is made from; all of them must be done and up to date."""
        return {name: self.require(name).key for name in _BEFORE[step]}

    def records(self) -> dict[str, StepRecord]:
        """All finished steps, in the order of the recipe."""
        found = {step: self.record(step) for step in _BEFORE}
        return {step: record for step, record in found.items() if record is not None}

    def done(self, step: str, key: str) -> bool:
        """Whether a step stands and was made from the same things."""
        found = self.record(step)
        return found is not None and found.key == key

    @contextmanager
    def doing(self, step: str, key: str, device: str = "cpu") -> Iterator[None]:
        """Measures a step and writes its record when it has ended well."""
        path = self / RECORDS / f"{step}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        before = self._before(step)
        gc.collect()  # models refer to themselves: the last step's would count here
        _reset_peak(device)
        began = time.monotonic()
        yield
        seconds = round(time.monotonic() - began, 2)
        record = StepRecord(key, before, seconds, _peak_mb(), device, _device_peak_mb(device))
        write_atomically(path, json.dumps(asdict(record), indent=1).encode() + b"\n")

    def read(self, name: str) -> Any:
        """A JSON file of the run."""
        try:
            return json.loads((self / name).read_bytes())
        except (OSError, ValueError) as error:
            raise InputError(f"{self / name} cannot be read: {error}") from error

    def write(self, name: str, content: object) -> None:
        path = self / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(content, indent=1, default=_plain).encode() + b"\n")


def _plain(value: Any) -> Any:
    """numpy's numbers as Python's, and paths as text."""
    return value.item() if hasattr(value, "item") else str(value)


def _reset_peak(device: str) -> None:
    with suppress(OSError):  # Linux only; elsewhere the peak is that of the whole process
        Path("/proc/self/clear_refs").write_text("5")
    if device.startswith("cuda"):
        import torch

        torch.cuda.reset_peak_memory_stats(device)


def _peak_mb() -> float:
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return round(int(line.split()[1]) * 1024 / 1e6, 1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak * (1 if sys.platform == "darwin" else 1024) / 1e6, 1)


def _device_peak_mb(device: str) -> float | None:
    if not device.startswith("cuda"):
        return None
    import torch

    peak: int = torch.cuda.max_memory_allocated(device)
    return round(peak / 1e6, 1)
