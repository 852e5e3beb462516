"""A model cut to its first layers: the file, and what a new head makes of its states."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt

from app.backends.gguf_file import Bytes, GgufFile, TensorInfo, write_gguf
from app.classification.head import unit
from app.classification.loading import batches
from app.domain import OUT_OF_SCOPE
from study.contender import Row
from study.labels import Labels

_ROWS = 8192


def layers_of(gguf: Path) -> int:
    """Blocks of a model."""
    return 1 + max(int(n.split(".")[1]) for n in GgufFile(gguf).tensors if n.startswith("blk."))


def cut(source: Path, layers: int, output: Path) -> None:
    """Write ``source`` with its first ``layers`` blocks only."""
    given = GgufFile(source)
    kept = [
        info
        for name, info in given.tensors.items()
        if not name.startswith("blk.") or int(name.split(".")[1]) < layers
    ]
    counts = dict.fromkeys(("gemma3.block_count", "llama.block_count"), layers)

    def content(info: TensorInfo) -> Iterator[Bytes]:
        for start in range(0, info.rows, _ROWS):
            yield given.rows(info.name, start, start + _ROWS)

    partial = output.with_name(f"{output.name}.partial")
    write_gguf(partial, given.metadata_with(counts), given.metadata_count, kept, content)
    partial.replace(output)


class CutLabels(Labels):
    """A cut model: its own head is fitted on training messages, for the old one knows no such states."""

    def everything(self, rows: Sequence[Row]) -> dict[str, Any]:
        train = json.loads(Path(self._job.train).read_bytes())
        singles = [self.answer(row) for row in rows[: self._job.sizes["singles"]]]
        started = perf_counter()
        test_states = self._states(rows)
        seconds = perf_counter() - started
        found = {
            "seconds": [one.seconds for one in singles],
            "all_seconds": seconds,
            "all_messages": len(rows),
        }
        guesses = fitted_guesses(self._states(train), train, test_states)
        inside = [i for i, row in enumerate(rows) if row["intent"] != OUT_OF_SCOPE]
        found["hits"] = [bool(guesses[i] == rows[i]["intent"]) for i in inside]
        return found

    def _states(self, rows: Sequence[Row]) -> npt.NDArray[np.float32]:
        messages = [self._classifier.prepare(row["text"]) for row in rows]
        return np.concatenate(
            [
                self._backend.embed([message.tokens for message in batch])
                for batch in batches(messages, self._backend.info)
            ]
        )


def fitted_guesses(
    train_states: npt.NDArray[np.float32], train: Sequence[Row], states: npt.NDArray[np.float32]
) -> list[str]:
    """The in-scope intents that a logistic regression on the training states gives the others."""
    from sklearn.linear_model import LogisticRegression

    inside = [i for i, row in enumerate(train) if row["intent"] != OUT_OF_SCOPE]
    head = LogisticRegression(C=1.0, max_iter=300)
    scale = np.sqrt(train_states.shape[1])
    head.fit(unit(train_states[inside]) / scale * 8, [train[i]["intent"] for i in inside])
    return list(head.predict(unit(states) / scale * 8))
