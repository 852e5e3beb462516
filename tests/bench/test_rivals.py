"""The service's rivals on a tiny real model: they compute what they claim to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("llama_cpp", reason="the extra `cpu` is not installed")

from app.artifacts.store import Store
from app.backends.llama_context import LlamaError
from app.bench.rivals import BareDecoder, JsonGenerator, Weights, grammar
from tests.backends.tiny_gguf import write_tiny_artifact, write_tiny_gguf


@pytest.fixture
def weights(tmp_path: Path):
    write_tiny_artifact(tmp_path / "store")
    manifest = Store(tmp_path / "store").resolve("tiny").manifest
    opened = Weights(write_tiny_gguf(tmp_path / "tiny.gguf"), manifest)
    yield opened
    opened.close()


def test_grammar_names_every_intent() -> None:
    """One alternative an intent, in the shape of the answer."""
    assert grammar(["a", "b_c"]) == (
        'root ::= "{\\"intent\\": \\"" intent "\\"}"\nintent ::= "a" | "b_c"\n'
    )


def test_prompt_holds_the_message_and_what_stands_around_it(weights: Weights) -> None:
    """As the service decodes it: from the token that begins a text to the suffix."""
    prompt = weights.prompt("hi")
    assert prompt[: len(weights.model.beginning())] == weights.model.beginning()
    assert len(weights.prompt("hi there")) > len(prompt) >= 3
    assert prompt[-1:] == weights.prompt("hi there")[-1:]


def test_bare_decode_takes_one_and_many(weights: Weights) -> None:
    """Unequal lengths in one pass, as often as wanted; too many tokens are refused, not written."""
    bare = BareDecoder(weights, threads=1, sequences=4, tokens=64)
    prompts = [weights.prompt(text) for text in ("hi", "where is it", "x", "ok then")]
    for _ in range(3):
        assert bare.time(prompts[:1]) > 0
        assert bare.time(prompts) > 0
    with pytest.raises(LlamaError, match="64"):
        bare.time([[5] * 65])
    bare.close()


def test_generated_json_names_an_intent(weights: Weights) -> None:
    """Every answer is the JSON of the grammar, also the second one and those after."""
    intents = ["order_status", "refund", "out_of_scope"]
    generator = JsonGenerator(weights, intents, threads=1, tokens=64)
    for text in ("hi", "where is it", "hi"):
        made = generator.generate(weights.prompt(text))
        assert json.loads(made.text)["intent"] in intents
        assert 1 <= made.tokens <= 64
        assert 0 < made.choosing_seconds < made.seconds
    generator.close()
