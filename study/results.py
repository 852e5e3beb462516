"""Results on disk: one JSON file a trial, named by a digest of what the figures depend on.

A result is written when it is whole. What is there is not measured again; what has changed since has
another name. So a killed study goes on where it stood, and loses one trial.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from app.artifacts.manifest import write_atomically
from study.plan import Trial

Arrays = dict[str, npt.NDArray[np.float32]]


def key_of(trial: Trial, facts: Mapping[str, Any]) -> str:
    """A digest of the trial and of all that its figures depend on."""
    content = json.dumps([trial.name, facts], sort_keys=True, default=str)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def digest_of(paths: list[Path]) -> str:
    """Of the contents of files, in the order given."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


class Results:
    """A directory of results. Holds no state: every question looks at the disk."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)

    def path(self, trial: Trial, key: str) -> Path:
        return self.directory / f"{trial.name.replace('/', '.')}.{key}.json"

    def arrays_path(self, trial: Trial, key: str) -> Path:
        """Beside the result: what is too large for JSON."""
        return self.path(trial, key).with_suffix(".npz")

    def read(self, trial: Trial, key: str) -> dict[str, Any] | None:
        """The result, or None when it has not been measured, or not to its end."""
        try:
            content: dict[str, Any] = json.loads(self.path(trial, key).read_bytes())
        except (OSError, ValueError):
            return None
        return content

    def arrays(self, trial: Trial, key: str) -> Arrays:
        with np.load(self.arrays_path(trial, key)) as stored:
            return {name: stored[name] for name in stored.files}

    def write(self, trial: Trial, key: str, content: Mapping[str, Any]) -> None:
        text = json.dumps(content, indent=1, sort_keys=True, default=float)
        write_atomically(self.path(trial, key), text.encode() + b"\n")
