"""The paper's way in a child: the answer generated as JSON, greedily, with a grammar or without.

Both libraries run through the same loop. It ends with the closing brace, without asking for the token
that ends the text. What is reckoned for the record only (probabilities) is not timed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from math import exp
from time import perf_counter
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from app.classification.prompt import CartPrompt, normalise, normalise_lines
from study.carts import answer_all
from study.contender import Answered, Job, Row

LONGEST = 80
"""Tokens after which an answer that has not ended is given up."""
Logits: TypeAlias = npt.NDArray[np.float32]


class Decoder(Protocol):
    """A language model that is asked for one token after another."""

    end: int
    """The token that ends a text."""

    def tokenise(self, text: str) -> list[int]: ...

    def start(self, tokens: Sequence[int]) -> Logits:
        """Forget what was; logits after ``<bos>`` and these tokens. Valid until the next call."""
        ...

    def step(self, token: int) -> Logits:
        """Logits after one more token."""
        ...

    def text(self, tokens: Sequence[int]) -> str: ...

    def constrain(self, rules: str) -> Chooser:
        """A greedy choice under a GBNF grammar."""
        ...

    def close(self) -> None: ...


class Chooser(Protocol):
    """Which token comes next."""

    def choose(self, logits: Logits) -> int: ...

    def close(self) -> None: ...


class Greedy:
    """The likeliest token."""

    def choose(self, logits: Logits) -> int:
        return int(logits.argmax())

    def close(self) -> None:
        """Nothing to free."""


class JsonAnswers:
    """Cart rows answered in JSON: the prompt of training, then token by token."""

    def __init__(self, job: Job, decoder: Decoder) -> None:
        spec = job.manifest.cart
        if spec is None:
            raise ValueError("the artifact reads no carts")
        self._decoder = decoder
        self._grammar = job.task == "grammar"
        self._slots = len(spec.prompt.slots)
        self._prompt = CartPrompt(spec.prompt, decoder.tokenise)
        self.answer({"text": "two green teas please", "catalog": ["Green tea", "Coffee beans"]})

    def tokens(self, row: Row) -> list[int]:
        """Token ids up to where the answer begins."""
        products = [self._decoder.tokenise(normalise(product)) for product in row["catalog"]]
        message = self._prompt.message(self._decoder.tokenise(normalise_lines(row["text"])))
        whole = [*self._prompt.catalog(products).tokens, *message.tokens]
        return whole[: len(whole) - self._slots]

    def answer(self, row: Row) -> Answered:
        started = perf_counter()
        prompt = self.tokens(row)
        logits = self._decoder.start(prompt)
        prompt_seconds = perf_counter() - started
        at = perf_counter()
        chooser: Chooser = (
            self._decoder.constrain(grammar(row["catalog"])) if self._grammar else Greedy()
        )
        choosing = perf_counter() - at
        aside = 0.0
        surprise = 0.0
        told: list[int] = []
        while len(told) < LONGEST:
            at = perf_counter()
            token = chooser.choose(logits)
            choosing += perf_counter() - at
            at = perf_counter()
            surprise -= _log_probability(logits, token)
            aside += perf_counter() - at
            told.append(token)
            if token == self._decoder.end or "}" in self._decoder.text([token]):
                break
            logits = self._decoder.step(token)
        chooser.close()
        return Answered(
            perf_counter() - started - aside,
            prompt_tokens=len(prompt),
            generated_tokens=len(told),
            said=parse(self._decoder.text([t for t in told if t != self._decoder.end])),
            probability=exp(-surprise),
            prompt_seconds=prompt_seconds,
            choosing_seconds=choosing,
        )

    def everything(self, rows: Sequence[Row]) -> dict[str, Any]:
        return answer_all(self, rows)

    def close(self) -> None:
        self._decoder.close()


def _log_probability(logits: Logits, token: int) -> float:
    best = float(logits.max())
    return float(logits[token]) - best - float(np.log(np.exp(logits - best).sum()))


def parse(text: str) -> dict[str, Any] | None:
    """The answer in the paper's schema, or None where the text is no such answer."""
    try:
        said = json.loads(text)
    except ValueError:
        return None
    if not isinstance(said, dict):
        return None
    if said == {"action": "none"}:
        return said
    valid = (
        said.keys() == {"action", "product", "quantity"}
        and said["action"] in {"add", "remove"}
        and isinstance(said["product"], str)
        and isinstance(said["quantity"], int)
    )
    return said if valid else None


def grammar(catalog: Sequence[str]) -> str:
    """GBNF of the paper's answer with a product of the catalog, or of no action."""
    names = " | ".join(_literal(json.dumps(p, ensure_ascii=False)) for p in dict.fromkeys(catalog))
    return "\n".join(
        (
            f"root ::= {_literal('{' + json.dumps('action') + ': ')} (none | change)",
            f"none ::= {_literal(json.dumps('none') + '}')}",
            (
                f"change ::= verb {_literal(', ' + json.dumps('product') + ': ')} product "
                f"{_literal(', ' + json.dumps('quantity') + ': ')} quantity {_literal('}')}"
            ),
            f"verb ::= {_literal(json.dumps('add'))} | {_literal(json.dumps('remove'))}",
            f"product ::= {names}",
            "quantity ::= [1-9] [0-9]? [0-9]?",
        )
    )


def _literal(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
