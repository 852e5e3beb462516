"""Drafts that keep some layers of their base: tuned in torch, built and served by llama.cpp."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")
pytest.importorskip("llama_cpp")

from app.artifacts.base_package import silent  # noqa: E402
from app.artifacts.manifest import BaseFile, PromptSpec, sha256_of  # noqa: E402
from app.artifacts.store import Artifact  # noqa: E402
from app.backends.base import BackendOptions  # noqa: E402
from app.backends.gguf import GgufBackend  # noqa: E402
from app.backends.gguf_file import GgufFile  # noqa: E402
from app.backends.gguf_importance import read_importance  # noqa: E402
from app.backends.gguf_layers import Layers  # noqa: E402
from app.backends.gguf_quantise import dequantise  # noqa: E402
from app.backends.llama_context import LlamaModel  # noqa: E402
from app.classification.prompt import Prompt  # noqa: E402
from app.errors import InputError  # noqa: E402
from tests.backends.tiny_gguf import MATRICES, write_tiny_gguf  # noqa: E402
from tests.fake_artifact import fake_manifest, fake_model  # noqa: E402
from training.backbones import find_backbone  # noqa: E402
from training.bases import Base  # noqa: E402
from training.drafts import Draft, build_draft  # noqa: E402
from training.examples import Example  # noqa: E402
from training.gemma import Gemma, Shape, last_states, unit_states  # noqa: E402
from training.merged import base_directory  # noqa: E402
from training.padding import padded  # noqa: E402
from training.storefront import FAST  # noqa: E402

pytestmark = pytest.mark.train
KEPT = (0, 3, 4, 6, 7, 11)
GLOBAL_THETA = 1e6
TEXTS = ["where is my order or my other order", "my order? where or when, my order!"]


@pytest.fixture(scope="module")
def draft(tmp_path_factory: pytest.TempPathFactory) -> Draft:
    """Six of twelve random layers with an adapter that is large enough to tell."""
    root = tmp_path_factory.mktemp("base")
    path = write_tiny_gguf(root / "base.gguf", layers=12, global_theta=GLOBAL_THETA)
    (root / "config.json").write_text(json.dumps({"model_type": "gemma3_text"}))
    rng = np.random.default_rng(4)
    adapter = {}
    for layer in KEPT:
        for kind, (rows, columns) in MATRICES.items():
            a, b = rng.standard_normal((4, columns)), rng.standard_normal((rows, 4))
            adapter[f"blk.{layer}.{kind}.weight"] = (
                (a / np.sqrt(columns)).astype(np.float32),
                (b / 2).astype(np.float32),
            )
    model, manifest = fake_model(), fake_manifest("tiny")
    return Draft(
        name="tiny",
        labels=manifest.labels,
        head=model.head,
        ngrams=lambda _: model.ngrams,
        adapters=[adapter],
        base=Base(root, BaseFile(path=path.name, sha256=sha256_of(path)), "Apache-2.0"),
        prompt=Prompt(),
        quantisation="F32",
        languages=("en",),
        trained_on=("nothing",),
        layers=KEPT,
    )


def build(draft: Draft, directory: Path) -> Artifact:
    directory.mkdir(parents=True)
    store = draft.base.directory
    rows = [Example(text, "a") for text in TEXTS]
    return build_draft(draft, directory, "1", rows, store, 1, silent)


def torch_states(draft: Draft, prompts: list[list[int]], theta: float) -> np.ndarray:
    """What training sees: the picked layers, the adapter merged."""
    file = GgufFile(draft.base.directory / "base.gguf")
    tensors = {
        name: torch.from_numpy(dequantise(file.rows(name, 0, info.rows), info.type).copy())
        for name, info in file.tensors.items()
    }
    tensors = {n: t.reshape(-1) if n.endswith("norm.weight") else t for n, t in tensors.items()}
    for name, (a, b) in draft.adapters[0].items():
        tensors[name] = tensors[name] + torch.from_numpy(b @ a)
    shape = Shape(window=64, global_theta=theta)
    model = Gemma(tensors, tensors["token_embd.weight"], layers=draft.layers, shape=shape)
    model.merge()
    ids, lengths = padded(prompts, "cpu")
    with torch.no_grad():
        return last_states(model(ids, lengths), lengths).numpy()


def test_llama_cpp_computes_what_was_tuned(draft: Draft, tmp_path: Path, one_thread: None):
    """The same states as in training; with the global layer's positions turned as the others': not."""
    weights = build(draft, tmp_path / "artifact").weights_path()
    prompt = Prompt()
    spec = PromptSpec(prefix=prompt.prefix, suffix=prompt.suffix)
    backend = GgufBackend(weights, spec, 64, BackendOptions(1))
    served = backend.embed([backend.tokenise(text) for text in TEXTS])
    backend.close()
    reader = LlamaModel(weights, vocabulary_only=True)
    pieces = [(prompt.prefix, text, prompt.suffix) for text in TEXTS]
    prompts = [
        [*reader.beginning(), *(i for piece in three if piece for i in reader.tokenise(piece))]
        for three in pieces
    ]
    reader.close()
    served = unit_states(torch.from_numpy(served)).numpy()
    width = served.shape[1]
    same = (served * torch_states(draft, prompts, GLOBAL_THETA)).sum(1) / width
    other = (served * torch_states(draft, prompts, 1e4)).sum(1) / width
    assert same.min() > 0.999
    assert (2 * (1 - same) < 1 - other).all()


def test_measured_importance_is_kept_by_the_bases_numbers(draft: Draft, tmp_path: Path):
    """As adapters are, so that a recipe reads alike whatever layers it keeps."""
    artifact = build(replace(draft, quantisation="IQ4_NL"), tmp_path / "artifact")
    importance = read_importance(artifact.directory / "importance.safetensors")
    assert set(importance) == set(draft.adapters[0])
    assert artifact.recipe().layers == KEPT


def test_the_fast_storefront_keeps_layers_that_the_base_allows(tmp_path: Path):
    """Gemma 3 270M has eighteen layers, of which every sixth attends to everything."""
    base = GgufFile(write_tiny_gguf(tmp_path / "base.gguf", layers=18))
    Layers(FAST.layers).check(base)


def test_what_needs_whole_bases_says_so(draft: Draft, tmp_path: Path):
    """Shops do not start from the fast model, and GPTQ checkpoints are not made of it."""
    with pytest.raises(InputError, match="storefront-fast keeps only some layers"):
        find_backbone(FAST.name, tmp_path, silent)
    artifact = build(draft, tmp_path / "artifact")
    with pytest.raises(InputError, match="tiny/1 keeps 6 layers of its base, which only GGUF"):
        base_directory(artifact)
