"""Cart rows in a child: the pointer heads, what a known catalog saves, and n-grams as a baseline."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, replace
from math import prod
from pathlib import Path
from time import perf_counter
from typing import Any

from app.backends.base import Backend
from app.classification.cart_reader import CartReader
from app.classification.model_files import read_cart, read_model
from app.classification.prompt import normalise, normalise_lines
from app.classification.shortlist import ShortlistIndex
from app.domain import CartDecision
from study.contender import Answered, Contender, Job, Row, open_weights
from study.machine import EnergyCounter

_ASKED_AGAIN = 40
_NUMBER = re.compile(r"(?<![\w.,])\d{1,3}(?![\w.,])")


def answer_all(contender: Contender, rows: Sequence[Row]) -> dict[str, Any]:
    """Raw figures of rows answered one by one."""
    counter = EnergyCounter()
    before = counter.read()
    started = perf_counter()
    answers = [asdict(contender.answer(row)) for row in rows]
    return {
        "answers": answers,
        "all_seconds": perf_counter() - started,
        "joules": counter.joules_since(before),
    }


def as_paper(decision: CartDecision) -> dict[str, Any]:
    """A decision in the paper's schema: its one action, or none."""
    if decision.outcome != "actions" or not decision.actions:
        return {"action": "none"}
    first = decision.actions[0]
    if len(decision.actions) > 1:
        return {"action": "several"}
    return {"action": first.action, "product": first.product, "quantity": first.quantity}


class Pointers:
    """Products pointed at, action and number chosen from one pass: no text is generated."""

    def __init__(self, job: Job) -> None:
        manifest = job.manifest
        if manifest.cart is None:
            raise ValueError(f"{manifest.name}/{manifest.version} has no cart heads")
        self._backend: Backend = open_weights(job)
        model = read_cart(Path(job.artifact), manifest.cart, manifest.hidden_size)
        self._reader = CartReader(self._backend, model)
        # Only this backend remembers catalogs; a part of the rows tells how long a known one takes.
        self._again = _ASKED_AGAIN if self._backend.info.kind == "gguf" else 0
        self.answer({"text": "two green teas please", "catalog": ["Green tea", "Coffee beans"]})

    def answer(self, row: Row) -> Answered:
        started = perf_counter()
        catalog = self._reader.catalog(row["catalog"])
        message = self._reader.prepare(normalise_lines(row["text"]), catalog)
        decision = self._reader.decide(message)
        seconds = perf_counter() - started
        again = None
        if self._again > 0:
            self._again -= 1
            started = perf_counter()
            self._reader.decide(self._reader.prepare(normalise_lines(row["text"]), catalog))
            again = perf_counter() - started
        confidences = [action.confidence for action in decision.actions]
        return Answered(
            seconds,
            prompt_tokens=len(message.prefix.tokens) + len(message.message.tokens),
            said=as_paper(decision),
            probability=prod(confidences) if confidences else decision.confidence,
            again_seconds=again,
        )

    def everything(self, rows: Sequence[Row]) -> dict[str, Any]:
        return answer_all(self, rows)

    def close(self) -> None:
        self._backend.close()


class NgramCarts:
    """No language model: the likeliest product by n-grams, the verb by the n-gram intents, a number."""

    def __init__(self, job: Job) -> None:
        self._model = read_model(Path(job.artifact), job.manifest)
        self.answer({"text": "two green teas please", "catalog": ["Green tea", "Coffee beans"]})

    def answer(self, row: Row) -> Answered:
        started = perf_counter()
        text = normalise_lines(row["text"])
        scores, _ = self._model.ngrams.score(text)
        order = scores.argsort()[::-1]
        intent = next(
            (self._model.labels[i] for i in order if self._model.labels[i].startswith("cart_")), ""
        )
        said: dict[str, Any] = {"action": "none"}
        if self._model.labels[int(order[0])] in {"cart_add", "cart_remove", "cart_update"}:
            catalog = [normalise(product) for product in row["catalog"]]
            best = int(next(iter(ShortlistIndex(catalog).ranking(text))))
            number = _NUMBER.search(text)
            said = {
                "action": "remove" if intent == "cart_remove" else "add",
                "product": row["catalog"][best],
                "quantity": int(number[0]) if number and int(number[0]) else 1,
            }
        return Answered(perf_counter() - started, prompt_tokens=0, said=said)

    def everything(self, rows: Sequence[Row]) -> dict[str, Any]:
        return answer_all(self, rows)

    def close(self) -> None:
        """Nothing to free."""


class PrefixCache(Pointers):
    """The same rows with their catalog in memory and without, in turn."""

    def everything(self, rows: Sequence[Row]) -> dict[str, Any]:
        found: dict[str, list[float]] = {"new": [], "known": [], "tokens": []}
        for row in rows:
            answered = self.answer(row)
            found["new"].append(answered.seconds)
            found["known"].append(answered.again_seconds or answered.seconds)
            found["tokens"].append(answered.prompt_tokens)
        return dict(found)


class KnownCatalog(Pointers):
    """As a shop asks: the catalog has been seen before, the message has not."""

    def answer(self, row: Row) -> Answered:
        first = super().answer({**row, "text": "two green teas please"})
        started = perf_counter()
        catalog = self._reader.catalog(row["catalog"])
        self._reader.decide(self._reader.prepare(normalise_lines(row["text"]), catalog))
        return replace(first, seconds=perf_counter() - started)
