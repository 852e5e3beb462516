"""JSON answers: the loop, the grammar, and llama.cpp's part of it on a tiny model."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from app.artifacts.manifest import CartSpec, write_manifest
from study.contender import Job
from study.generation import JsonAnswers, grammar, parse
from study.plan import QUICK
from tests.backends.tiny_gguf import write_tiny_gguf
from tests.fake_artifact import write_fake_artifact

CATALOG = ["tea", 'a "b" \\ c', "kava"]
ROW = {"text": "two teas", "catalog": CATALOG}


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """On an artifact that reads carts."""
    manifest = write_fake_artifact(tmp_path / "store")
    directory = tmp_path / "store" / manifest.name / manifest.version
    cart = CartSpec(heads=manifest.files[0].path, calibration=manifest.files[0].path)
    write_manifest(directory, manifest.model_copy(update={"cart": cart}))
    return Job(
        task="json", family="gguf", artifact=str(directory), weights="", precision="float32",
        vocabulary="", rows="", train="", arrays="", threads=1, sizes={"rows": QUICK.generated},
    )  # fmt: skip


class Scripted:
    """A model that says one text, byte by byte, whatever it is asked."""

    end = 256

    def __init__(self, says: str) -> None:
        self._says = [*says.encode(), self.end]
        self.asked: list[int] = []
        self._left: Iterator[int] = iter(())

    def tokenise(self, text: str) -> list[int]:
        return list(text.encode())

    def start(self, tokens: Sequence[int]) -> np.ndarray:
        self.asked = list(tokens)
        self._left = iter(self._says)
        return self.step(0)

    def step(self, token: int) -> np.ndarray:
        logits = np.zeros(257, np.float32)
        logits[next(self._left)] = 20.0
        return logits

    def text(self, tokens: Sequence[int]) -> str:
        return bytes(t for t in tokens if t != self.end).decode(errors="replace")

    def constrain(self, rules: str) -> None:
        raise AssertionError(f"nothing is constrained here: {rules}")

    def close(self) -> None: ...


def test_an_answer_ends_with_its_brace(job: Job) -> None:
    """Nothing after it is asked for; its tokens, product and confidence are told."""
    said = {"action": "add", "product": "tea", "quantity": 2}
    model = Scripted(json.dumps(said) + " and so on")
    answered = JsonAnswers(job, model).answer(ROW)
    assert answered.said == said
    assert answered.generated_tokens == len(json.dumps(said))
    assert answered.probability == pytest.approx(1.0, abs=1e-3)
    assert answered.prompt_seconds is not None
    assert answered.prompt_seconds <= answered.seconds


def test_the_prompt_ends_where_the_answer_begins(job: Job) -> None:
    """Catalog and message as in training, without the slots that choice decoding reads."""
    model = Scripted('{"action": "none"}')
    JsonAnswers(job, model).answer(ROW)
    assert bytes(model.asked).decode().startswith("Catalog:\ntea\n")
    assert bytes(model.asked).decode().endswith("Message: two teas\n")


@pytest.mark.parametrize("says", ["", "no json at all", '{"action": "add"}', '{"action": '])
def test_what_is_no_answer_is_none(job: Job, says: str) -> None:
    """An answer that ends too early, never, or without product is invalid."""
    assert JsonAnswers(job, Scripted(says)).answer(ROW).said is None


@pytest.mark.parametrize(
    "text",
    ["[]", "1", "{}", '{"action": "buy", "product": "a", "quantity": 1}',
     '{"action": "add", "product": "a", "quantity": "1"}', '{"action": "none", "product": "a"}'],
)  # fmt: skip
def test_only_the_papers_schema_is_valid(text: str) -> None:
    """JSON of another shape does not count as an answer."""
    assert parse(text) is None


def test_none_is_valid() -> None:
    """A message that changes no cart has an answer too."""
    assert parse('{"action": "none"}') == {"action": "none"}


def test_products_are_written_once_and_escaped() -> None:
    """A name with quotes and backslashes is one literal of the grammar."""
    rules = grammar(["tea", "tea", 'a "b"'])
    assert rules.splitlines()[-2] == 'product ::= "\\"tea\\"" | "\\"a \\\\\\"b\\\\\\"\\""'


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf")


def test_a_grammar_makes_any_model_answer_validly(job: Job, tiny: Path) -> None:
    """Random weights, and yet a product of the catalog and a whole number, or none."""
    from dataclasses import replace

    from study.llama_generation import LlamaDecoder

    decoder = LlamaDecoder(tiny, threads=1)
    answers = JsonAnswers(replace(job, task="grammar"), decoder)
    answered = answers.answer(ROW)
    answers.close()
    assert answered.said is not None
    assert answered.said["action"] in {"add", "remove", "none"}
    if answered.said["action"] != "none":
        assert answered.said["product"] in CATALOG
        assert 1 <= answered.said["quantity"] <= 999


def test_a_text_is_the_same_in_one_piece_and_token_by_token(tiny: Path) -> None:
    """What the memory holds of the tokens before is what computing them anew gives."""
    from study.llama_generation import LlamaDecoder

    decoder = LlamaDecoder(tiny, threads=1)
    tokens = decoder.tokenise("where is my")
    whole = decoder.start(tokens).copy()
    decoder.start(tokens[:2])
    for token in tokens[2:]:
        stepped = decoder.step(token)
    np.testing.assert_allclose(stepped, whole, atol=2e-2)
    decoder.close()
