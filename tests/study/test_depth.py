"""Models cut to their first layers."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from app.backends.llama_context import LlamaModel
from app.backends.llama_log import route_logs
from study.depth import cut, fitted_guesses, layers_of
from tests.backends.tiny_gguf import LAYERS, write_tiny_gguf


def test_a_cut_model_loads(tmp_path: Path) -> None:
    """llama.cpp takes the file, and it has as many layers as were asked for."""
    whole = write_tiny_gguf(tmp_path / "whole.gguf")
    cut(whole, 1, tmp_path / "cut.gguf")
    assert (layers_of(whole), layers_of(tmp_path / "cut.gguf")) == (LAYERS, 1)
    route_logs()
    model = LlamaModel(tmp_path / "cut.gguf")
    assert model.hidden_size == LlamaModel(whole).hidden_size
    model.close()


def test_a_new_head_reads_states_that_tell_apart() -> None:
    """Two intents in two directions are told apart; out of scope is no intent to learn."""
    rng = np.random.default_rng(0)
    directions = {"gift": [1, 0, 0, 0], "review": [0, 1, 0, 0], "out_of_scope": [0, 0, 1, 0]}
    train = [{"intent": intent} for intent in directions for _ in range(10)]
    states = np.array([directions[row["intent"]] for row in train], np.float32)
    states += rng.normal(0, 0.05, states.shape).astype(np.float32)
    guesses = fitted_guesses(states, train, states)
    assert guesses[:20] == [row["intent"] for row in train[:20]]
    assert "out_of_scope" not in guesses
