"""Bases that no package index has: converted, checked against torch, kept in the store."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("peft")
pytest.importorskip("llama_cpp")

import torch

from app.artifacts.base_package import silent
from app.artifacts.manifest import BaseFile, sha256_of
from app.backends.gguf_file import GgufFile
from app.errors import InputError
from tests.training.tiny_checkpoints import write_tiny_gemma, write_tiny_llama
from training import base_sources, hf_gguf
from training.base_sources import find_base

pytestmark = [pytest.mark.train, pytest.mark.usefixtures("one_thread")]

LLAMA_3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def store_of(tmp_path: Path) -> Path:
    store = tmp_path / "store"
    store.mkdir()
    return store


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"dtype": torch.bfloat16},
        {"rope_parameters": LLAMA_3},
        {"begin": False},
        {"tie_word_embeddings": False, "head_dim": 32},
    ],
    ids=["plain", "bfloat16", "llama 3 rope", "no first token", "untied, wide heads"],
)
def test_a_llama_checkpoint_is_served_as_it_was_trained(tmp_path: Path, settings: dict):
    """llama.cpp makes the tokens and states of torch; the file bears its digest and its source."""
    store = store_of(tmp_path)
    directory = write_tiny_llama(tmp_path / "Tiny Llama", **settings)
    base = find_base(str(directory), store, silent)
    assert isinstance(base.origin, BaseFile)
    assert base.origin.source == "Tiny Llama"
    assert base.origin.path == f"bases/tiny-llama-{base.origin.sha256[:16]}.gguf"
    assert sha256_of(store / base.origin.path) == base.origin.sha256
    assert base.directory == directory


def test_a_gemma_checkpoint_is_served_as_it_was_trained(tmp_path: Path):
    """Its norms, its near and far layers and its pieces with bytes."""
    directory = write_tiny_gemma(tmp_path / "gemma")
    base = find_base(str(directory), store_of(tmp_path), silent)
    assert isinstance(base.origin, BaseFile)


def test_the_same_checkpoint_gives_the_same_file(tmp_path: Path):
    """So a missing base can be made again."""
    directory = write_tiny_llama(tmp_path / "llama")
    digests = set()
    for name in ("one.gguf", "two.gguf"):
        hf_gguf.write_checkpoint(directory, tmp_path / name)
        digests.add(sha256_of(tmp_path / name))
    assert len(digests) == 1


def test_a_checkpoint_is_converted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Until one of its files changes, or the converted one has gone."""
    store, directory = store_of(tmp_path), write_tiny_llama(tmp_path / "llama")
    first = find_base(str(directory), store, silent)
    converted = []
    write = hf_gguf.write_checkpoint
    monkeypatch.setattr(
        base_sources, "write_checkpoint", lambda *given: (converted.append(given), write(*given))
    )
    assert find_base(str(directory), store, silent) == first
    assert not converted
    (store / first.origin.path).unlink()
    assert find_base(str(directory), store, silent).origin == first.origin
    assert len(converted) == 1


def test_licence_texts_travel_with_the_base(tmp_path: Path):
    """And the model card's word on the licence is what the manifest will say."""
    directory = write_tiny_llama(tmp_path / "llama")
    (directory / "LICENSE.txt").write_text("terms")
    (directory / "README.md").write_text("---\nlicense: llama3.2\n---\n# Llama\n")
    base = find_base(str(directory), store_of(tmp_path), silent)
    assert [notice.name for notice in base.notices] == ["LICENSE.txt"]
    assert base.licence == "llama3.2 (weights), Apache-2.0 (code)"


def test_a_gguf_file_is_a_base(tmp_path: Path):
    """Dequantised for torch, and kept in the store as it is."""
    directory = write_tiny_llama(tmp_path / "llama")
    hf_gguf.write_checkpoint(directory, tmp_path / "model.gguf")
    store = store_of(tmp_path)
    by_name = find_base(str(tmp_path / "model.gguf"), store, silent)
    assert isinstance(by_name.origin, BaseFile)
    assert by_name.origin.source == "model.gguf"
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "model.gguf").rename(folder / "model.gguf")
    assert find_base(str(folder), store, silent).origin == by_name.origin
    weights = GgufFile(store / by_name.origin.path)
    assert "blk.2.attn_q.weight" in weights.tensors


def test_a_base_that_llama_cpp_reads_otherwise_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Here rows that were left in torch's order: the file loads, and its states are others."""
    monkeypatch.setattr(hf_gguf, "turned_heads", lambda _config: {})
    directory = write_tiny_llama(tmp_path / "llama")
    with pytest.raises(InputError, match="cosine"):
        find_base(str(directory), store_of(tmp_path), silent)


def test_other_kinds_go_through_the_converter_of_llama_cpp(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """What is not written here is handed on, and checked like all."""
    directory = write_tiny_llama(tmp_path / "llama")
    known = tmp_path / "known.gguf"
    hf_gguf.write_checkpoint(directory, known)

    def refuse(given: Path, output: Path) -> None:
        raise hf_gguf.UnknownKind("of another kind")

    def convert(given: Path, output: Path, cache: Path, progress: object) -> None:
        known.rename(output)

    monkeypatch.setattr(base_sources, "write_checkpoint", refuse)
    monkeypatch.setattr(base_sources, "convert", convert)
    base = find_base(str(directory), store_of(tmp_path), silent)
    assert isinstance(base.origin, BaseFile)


@pytest.mark.parametrize("settings", [{"attention_bias": True}, {"hidden_act": "gelu"}])
def test_a_llama_with_more_than_is_known_is_not_written(tmp_path: Path, settings: dict):
    """No tensor is dropped in silence."""
    directory = write_tiny_llama(tmp_path / "llama", **settings)
    with pytest.raises(hf_gguf.UnknownKind):
        hf_gguf.write_checkpoint(directory, tmp_path / "out.gguf")


def test_bases_that_are_none_are_told(tmp_path: Path):
    """Unknown names, empty folders and files that are no model, each with what to do or what is wrong."""
    store = store_of(tmp_path)
    with pytest.raises(InputError, match="'gemma-3-270m'"):
        find_base("gemma", store, silent)
    with pytest.raises(InputError, match="0 GGUF files"):
        find_base(str(tmp_path), store, silent)
    (tmp_path / "noise.gguf").write_bytes(b"GGUF" + b"\1" * 100)
    with pytest.raises(InputError, match="not a causal language model"):
        find_base(str(tmp_path / "noise.gguf"), store, silent)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match="not a causal language model"):
        find_base(str(tmp_path), store, silent)


def test_a_hub_that_cannot_be_reached_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The message names the model and the two ways on."""
    huggingface_hub = pytest.importorskip("huggingface_hub")

    def fail(*_: object, **__: object) -> str:
        raise OSError("no route")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(InputError, match=r"Llama-3.2-1B.*no route.*hf auth login.*local directory"):
        find_base("meta-llama/Llama-3.2-1B", store_of(tmp_path), silent)


def test_a_hub_model_is_named_by_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The recipe can be followed again: the source holds id and revision."""
    huggingface_hub = pytest.importorskip("huggingface_hub")
    snapshot = write_tiny_llama(tmp_path / "0123abcd")
    asked = {}

    def download(model: str, **given: object) -> str:
        asked.update(given, model=model)
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    base = find_base("acme/tiny-llama@v1", store_of(tmp_path), silent)
    assert (asked["model"], asked["revision"]) == ("acme/tiny-llama", "v1")
    assert isinstance(base.origin, BaseFile)
    assert base.origin.source == "acme/tiny-llama@0123abcd"
    assert base.origin.path.startswith("bases/tiny-llama-")


def test_long_waves_turn_slower_in_llama_3():
    """Short waves as ever, long ones by the whole factor, those between by something between."""
    factors = hf_gguf.llama3_factors(LLAMA_3 | {"rope_theta": 500000.0}, 64)
    assert factors.shape == (32,)
    assert factors[0] == pytest.approx(1.0)
    assert factors[-1] == pytest.approx(32.0)
    assert (np.diff(factors) >= 0).all()
