"""What a child measures: something that answers rows one by one, and all of them as it does best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from app.artifacts.manifest import Manifest, read_manifest
from app.backends.base import Backend, BackendOptions
from study.plan import Family, Task

Row = Mapping[str, Any]
SEQUENCES, TOKENS = 16, 1024
"""As the service packs messages."""


@dataclass(frozen=True, slots=True)
class Job:
    """What the parent asks of a child."""

    task: Task
    family: Family
    artifact: str
    """Directory of the artifact: manifest, heads, n-grams, calibration."""
    weights: str
    """A GGUF file, or a directory for torch; empty for the n-grams."""
    precision: str
    vocabulary: str
    """A GGUF file with the whole vocabulary, for the grammar of torch's answers."""
    rows: str
    train: str
    arrays: str
    """Where arrays may be left."""
    threads: int
    sizes: Mapping[str, Any]
    turns: bool = False

    @property
    def manifest(self) -> Manifest:
        return read_manifest(Path(self.artifact))


@dataclass(frozen=True, slots=True)
class Answered:
    """One answer and what it cost."""

    seconds: float
    prompt_tokens: int
    generated_tokens: int = 0
    said: Any = None
    """What the decoding answered, in JSON's types."""
    probability: float | None = None
    """That the answer gives itself, from 0 to 1."""
    prompt_seconds: float | None = None
    choosing_seconds: float | None = None
    """Spent in the grammar and the choice of tokens, not in the model."""
    again_seconds: float | None = None
    """Of the same row once more: what its catalog has in memory is not computed again."""


class Contender(Protocol):
    """Something loaded that answers rows of its task."""

    def answer(self, row: Row) -> Answered: ...

    def everything(self, rows: Sequence[Row]) -> dict[str, Any]:
        """The task's raw figures on all rows, in JSON's types."""
        ...

    def close(self) -> None: ...


def open_weights(job: Job) -> Backend:
    """The service's own backends, on any weights."""
    manifest = job.manifest
    options = BackendOptions(threads=job.threads, max_sequences=SEQUENCES * 2, max_tokens=TOKENS)
    if job.family == "gguf":
        from app.backends.gguf import GgufBackend

        return GgufBackend(Path(job.weights), manifest.prompt, manifest.max_message_tokens, options)
    from app.backends.gptq import GptqBackend

    return GptqBackend(
        Path(job.weights),
        manifest.prompt,
        manifest.max_message_tokens,
        options,
        device="cpu",
        precision="bfloat16" if job.precision == "bfloat16" else "float32",
    )
