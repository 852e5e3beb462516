"""One part of the messages through the classifier: the same preparation, batches and decisions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa

from app.artifacts.store import Store
from app.backends.base import BackendOptions
from app.bulk.source import Part
from app.classification.classifier import Classifier, Message
from app.classification.loading import batches, load_classifier
from app.domain import Prediction
from app.errors import EmptyText

RANKING = pa.list_(pa.struct([("intent", pa.string()), ("confidence", pa.float32())]))
ANSWER = (
    ("intent", pa.string()),
    ("confidence", pa.float32()),
    ("in_scope", pa.bool_()),
    ("ranking", RANKING),
    ("model", pa.string()),
    ("error", pa.string()),
)
"""Columns that labelling adds. A row that cannot be labelled has only ``model`` and ``error``."""

NO_TEXT, EMPTY, TOO_LONG = "no_text", "empty_text", "text_too_long"


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """Which model labels. It can be sent to another machine that has the same store."""

    store: Store
    name: str
    version: str
    backend: str | None
    options: BackendOptions

    @property
    def label(self) -> str:
        return f"{self.name}/{self.version}"

    def load(self) -> Classifier:
        """Raises :class:`app.errors.ShopintentError`, as the service does when it starts."""
        artifact = self.store.resolve(self.name, self.version)
        return load_classifier(artifact, self.options, self.backend)


class Labeller:
    """Owns a loaded model; one thread may call it."""

    def __init__(self, model: ModelChoice, top_k: int, max_text_chars: int) -> None:
        self._label = model.label
        self._top_k = top_k
        self._max_text_chars = max_text_chars
        self._classifier = model.load()

    def label(self, part: Part, labelled: Callable[[int], None] | None = None) -> pa.Table:
        """The kept columns and the answers, row by row. ``labelled`` hears of rows as they are done.

        Messages that read the same are computed once.
        """
        tell = labelled or _nobody
        messages = [self._prepare(text) for text in part.texts]
        errors = [message if isinstance(message, str) else None for message in messages]
        copies = Counter(m.text for m in messages if isinstance(m, Message))
        distinct = {m.text: m for m in messages if isinstance(m, Message)}
        answers: dict[str, Prediction] = {}
        for batch in batches(distinct.values(), self._classifier.backend.info):
            for message, answer in zip(batch, self._classifier.classify(batch), strict=True):
                answers[message.text] = answer
            tell(sum(copies[message.text] for message in batch))
        tell(len(messages) - copies.total())
        found = [answers[m.text] if isinstance(m, Message) else None for m in messages]
        return self._table(part.kept, found, errors)

    def close(self) -> None:
        self._classifier.close()

    def _prepare(self, text: str | None) -> Message | str:
        """The message, or why there is none."""
        if text is None:
            return NO_TEXT
        if len(text) > self._max_text_chars:
            return TOO_LONG
        try:
            return self._classifier.prepare(text)
        except EmptyText:
            return EMPTY

    def _table(
        self, kept: pa.Table, found: list[Prediction | None], errors: list[str | None]
    ) -> pa.Table:
        columns = {
            "intent": [one and one.intent for one in found],
            "confidence": [one and one.confidence for one in found],
            "in_scope": [one and one.in_scope for one in found],
            "ranking": [one and self._ranking(one) for one in found],
            "model": [self._label] * len(found),
            "error": errors,
        }
        table = kept
        for name, kind in ANSWER:
            table = table.append_column(name, pa.array(columns[name], kind))
        return table

    def _ranking(self, answer: Prediction) -> list[dict[str, str | float]]:
        return [
            {"intent": score.intent, "confidence": score.confidence}
            for score in answer.ranking[: self._top_k]
        ]


def _nobody(rows: int) -> None:
    """Where nobody watches."""
