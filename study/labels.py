"""Label scoring in a child: evidence on all messages, latency one by one, and by batch size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from app.backends.base import Backend
from app.classification.classifier import Classifier, IntentModel, Message
from app.classification.decision import Evidence
from app.classification.head import log_softmax
from app.classification.loading import batches
from app.classification.model_files import read_model
from app.classification.prompt import normalise
from study.contender import SEQUENCES, Answered, Job, Row, open_weights
from study.machine import EnergyCounter
from study.plan import BATCHES


class Labels:
    """The classifier as it is served, on the job's weights."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._backend: Backend = open_weights(job)
        self._model: IntentModel = read_model(Path(job.artifact), job.manifest)
        self._classifier = Classifier(self._backend, self._model)
        message = self._classifier.prepare("where is my order? it should have come on tuesday")
        for count in (1, SEQUENCES, 1):
            self._classifier.classify([message] * count)

    def answer(self, row: Row) -> Answered:
        started = perf_counter()
        message = self._classifier.prepare(row["text"])
        (prediction,) = self._classifier.classify([message])
        return Answered(
            perf_counter() - started,
            prompt_tokens=message.size,
            said=prediction.intent,
            probability=prediction.confidence,
        )

    def everything(self, rows: Sequence[Row]) -> dict[str, Any]:
        job = self._job
        singles = [self.answer(row) for row in rows[: job.sizes.get("singles", 0)]]
        found: dict[str, Any] = {
            "seconds": [one.seconds for one in singles],
            "single_tokens": [one.prompt_tokens for one in singles],
            "batches": self._by_batch(rows, job.sizes.get("batch_rounds", 0)),
        }
        counter = EnergyCounter()
        before = counter.read()
        started = perf_counter()
        evidence, tokens = self._weigh(rows)
        found |= {
            "all_seconds": perf_counter() - started,
            "all_tokens": tokens,
            "all_messages": len(rows),
            "joules": counter.joules_since(before),
        }
        np.savez(
            job.arrays,
            lm=evidence.lm,
            ngram=evidence.ngram,
            prototype_cosine=evidence.prototype_cosine,
            known_share=evidence.known_share,
        )
        return found

    def _weigh(self, rows: Sequence[Row]) -> tuple[Evidence, int]:
        """Evidence in the order of the rows; like lengths go together, as torch pads."""
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]["text"]))
        messages = [self._classifier.prepare(rows[i]["text"]) for i in order]
        hidden = np.concatenate(
            [
                self._backend.embed([message.tokens for message in batch])
                for batch in batches(messages, self._backend.info)
            ]
        )
        back = np.argsort(order)
        texts = [normalise(row["text"]) for row in rows]
        return self._classifier.evidence(hidden[back], texts), sum(m.size for m in messages)

    def _by_batch(self, rows: Sequence[Row], rounds: int) -> dict[str, list[float]]:
        """Seconds of one batch of each size, the sizes in turn, messages in their random order."""
        found: dict[str, list[float]] = {str(size): [] for size in BATCHES}
        at = 0
        for _ in range(rounds):
            for size in BATCHES:
                texts = [rows[(at + i) % len(rows)]["text"] for i in range(size)]
                at += size
                started = perf_counter()
                self._classify_all([self._classifier.prepare(text) for text in texts])
                found[str(size)].append(perf_counter() - started)
        return found

    def _classify_all(self, messages: Sequence[Message]) -> None:
        for batch in batches(messages, self._backend.info):
            self._classifier.classify(batch)

    def close(self) -> None:
        self._classifier.close()


class NgramLabels:
    """The n-gram model alone: the baseline of every table."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._model: IntentModel = read_model(Path(job.artifact), job.manifest)
        self.answer({"text": "where is my order"})

    def answer(self, row: Row) -> Answered:
        started = perf_counter()
        scores, _ = self._model.ngrams.score(normalise(row["text"]))
        best = int(scores.argmax())
        return Answered(
            perf_counter() - started,
            prompt_tokens=0,
            said=self._model.labels[best],
            probability=float(np.exp(log_softmax(scores)[best])),
        )

    def everything(self, rows: Sequence[Row]) -> dict[str, Any]:
        job = self._job
        counter = EnergyCounter()
        before = counter.read()
        started = perf_counter()
        scored = [self._model.ngrams.score(normalise(row["text"])) for row in rows]
        seconds = perf_counter() - started
        joules = counter.joules_since(before)
        ngram = np.stack([row for row, _ in scored])
        np.savez(
            job.arrays,
            lm=ngram,
            ngram=ngram,
            prototype_cosine=np.zeros(len(rows), np.float32),
            known_share=np.array([known for _, known in scored], np.float32),
        )
        singles = [self.answer(row) for row in rows[: job.sizes.get("singles", 0)]]
        return {
            "seconds": [one.seconds for one in singles],
            "single_tokens": [],
            "batches": {},
            "all_seconds": seconds,
            "all_tokens": 0,
            "all_messages": len(rows),
            "joules": joules,
        }

    def close(self) -> None:
        """Nothing to free."""
