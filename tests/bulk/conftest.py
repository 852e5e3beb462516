"""Jobs on the fake model, and what their output must be."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from app.artifacts.store import Store
from app.backends.base import BackendOptions
from app.bulk.job import Job
from app.bulk.labelling import ModelChoice
from app.bulk.source import Columns
from tests.fake_artifact import EXAMPLES

TEXTS = [text for texts in EXAMPLES.values() for text in texts]


def write_lines(path: Path, count: int) -> Path:
    """``count`` messages, no two alike, each with an id."""
    path.write_text(
        "".join(
            json.dumps({"id": f"m{n}", "text": f"{TEXTS[n % len(TEXTS)]} {n}"}) + "\n"
            for n in range(count)
        )
    )
    return path


@pytest.fixture
def choice(fake_store: Path) -> ModelChoice:
    return ModelChoice(Store(fake_store), "storefront", "1", None, BackendOptions(threads=1))


@pytest.fixture
def new_job(tmp_path: Path, choice: ModelChoice) -> Callable[..., Job]:
    """A job from messages of the given number, or from a file."""

    def make(messages: int | Path = 10, **changes: object) -> Job:
        given = {
            "input": write_lines(tmp_path / "in.jsonl", messages)
            if isinstance(messages, int)
            else messages,
            "output": tmp_path / "out.parquet",
            "columns": Columns(keep=("id",)),
            "model": choice,
            "part_rows": 4,
        }
        return Job(**(given | changes))  # type: ignore[arg-type]

    return make
