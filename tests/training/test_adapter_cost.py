"""Adapters that llama.cpp adds while it computes, as far as the measurement relies on them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("llama_cpp")

from app.artifacts.store import Store
from app.backends.gguf_weights import build_weights
from app.errors import InferenceFailed
from tests.backends.tiny_gguf import write_tiny_artifact
from training.adapter_cost import (
    architecture_of,
    measure_shapes,
    random_adapter,
    states,
    write_adapter_gguf,
)
from training.adapter_files import read_adapter

TEXTS = ["where is my order", "or my where"]


def test_an_adapter_at_run_time_is_the_merged_one(tmp_path: Path):
    """The same hidden states, to the adapter's 16 bits, and others than without it."""
    write_tiny_artifact(tmp_path, "F32")
    artifact = Store(tmp_path).resolve("tiny")
    merged = states(build_weights(artifact), None, TEXTS, 1)
    adapter = read_adapter(artifact.directory / "adapter.safetensors")
    path, base = tmp_path / "adapter.gguf", tmp_path / "base.gguf"
    write_adapter_gguf(path, adapter, architecture_of(base))
    np.testing.assert_allclose(states(base, path, TEXTS, 1), merged, atol=2e-2)
    assert np.abs(states(base, None, TEXTS, 1) - merged).max() > 0.1


def test_an_adapter_of_another_kind_of_model_is_refused(tmp_path: Path):
    """By name, before it is used."""
    write_tiny_artifact(tmp_path)
    base, path = tmp_path / "base.gguf", tmp_path / "adapter.gguf"
    write_adapter_gguf(path, random_adapter(base, 2, [0]), "llama")
    with pytest.raises(InferenceFailed, match=r"adapter\.gguf"):
        states(base, path, TEXTS, 1)


def test_every_shape_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Times are positive, and the weights alone are among them."""
    monkeypatch.setattr("training.adapter_cost.MESSAGE_TOKENS", 4)
    monkeypatch.setattr("training.adapter_cost.FIRST_TOKEN", 200)
    write_tiny_artifact(tmp_path)
    found = measure_shapes(tmp_path / "base.gguf", threads=1, rounds=1)
    assert next(iter(found)) == "none"
    assert len(found) == 5
    assert all(timing.single_least > 0 and timing.batch_cpu > 0 for timing in found.values())
