"""Weights that keep some layers of their base."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from app.artifacts.manifest import BaseFile, PromptSpec, describe_file, sha256_of
from app.artifacts.store import Artifact
from app.backends.base import BackendOptions
from app.backends.gguf import GgufBackend
from app.backends.gguf_file import GgufFile
from app.backends.gguf_importance import write_importance
from app.backends.gguf_layers import Layers
from app.backends.gguf_quantise import dequantise
from app.backends.gguf_weights import build_weights
from app.errors import FileDamaged, ManifestInvalid, WeightsNotBuilt
from tests.backends.tiny_gguf import MATRICES, write_tiny_artifact, write_tiny_gguf

KEPT = (0, 3, 4, 6, 7, 11)
IMPORTANCE = "importance.safetensors"


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve layers, of which the sixth and the last attend to everything."""
    path = tmp_path_factory.mktemp("deep") / "deep.gguf"
    return write_tiny_gguf(path, layers=12, global_theta=1e6)


def artifact_of(
    store: Path,
    base: Path,
    layers: tuple[int, ...],
    tuned: tuple[int, ...] = KEPT,
    squares: dict[str, np.ndarray] | None = None,
    **more: object,
) -> Artifact:
    """Weights from ``base``, with an adapter that changes the queries of the layers ``tuned``."""
    written = write_tiny_artifact(store)
    directory = store / "tiny" / "1"
    (store / "base.gguf").write_bytes(base.read_bytes())
    rng = np.random.default_rng(2)
    rows, columns = MATRICES["attn_q"]
    pairs = {}
    for layer in tuned:
        name = f"blk.{layer}.attn_q.weight"
        pairs[f"{name}.lora_a"] = rng.standard_normal((4, columns)).astype(np.float32)
        pairs[f"{name}.lora_b"] = rng.standard_normal((rows, 4)).astype(np.float32)
    save_file(pairs, directory / "adapter.safetensors")
    if squares is not None:
        write_importance(directory / IMPORTANCE, squares)
    paths = sorted(path.name for path in directory.glob("*.safetensors"))
    assert written.weights is not None
    fields = {
        "base": BaseFile(path="base.gguf", sha256=sha256_of(base)),
        "layers": layers,
        "quantisation": "F32",
    }
    manifest = written.model_copy(
        update={
            "weights": written.weights.model_copy(update=fields | more),
            "files": tuple(describe_file(directory, path) for path in paths),
        }
    )
    return Artifact(directory, manifest)


def numbers(file: GgufFile, name: str) -> np.ndarray:
    info = file.tensors[name]
    return dequantise(file.rows(name, 0, info.rows), info.type)


def test_kept_layers_are_the_bases_and_are_counted_anew(tmp_path: Path, deep: Path):
    """Layer 11 of the base becomes layer 5, changed by what its adapter says of layer 11."""
    artifact = artifact_of(tmp_path, deep, KEPT)
    built, base = GgufFile(build_weights(artifact)), GgufFile(deep)
    assert built.uint32("gemma3.block_count") == 6
    assert len(built.tensors) == 2 + (len(base.tensors) - 2) // 2
    adapter = load_file(artifact.directory / "adapter.safetensors")
    for place, layer in enumerate(KEPT):
        for kind in ("attn_q", "ffn_down", "attn_norm"):
            name = f"blk.{layer}.{kind}.weight"
            expected = numbers(base, name)
            if kind == "attn_q":
                expected = expected + adapter[f"{name}.lora_b"] @ adapter[f"{name}.lora_a"]
            np.testing.assert_allclose(
                numbers(built, f"blk.{place}.{kind}.weight"), expected, atol=1e-5
            )
    for name in ("token_embd.weight", "output_norm.weight"):
        np.testing.assert_array_equal(numbers(built, name), numbers(base, name))


def test_the_file_is_one_that_llama_cpp_serves(tmp_path: Path, deep: Path):
    """And another order of the same layers is another model."""
    states = []
    for number, layers in enumerate([KEPT, (0, 4, 3, 6, 7, 11)]):
        path = build_weights(artifact_of(tmp_path / str(number), deep, layers))
        backend = GgufBackend(path, PromptSpec(prefix="", suffix="\n"), 64, BackendOptions(1))
        states.append(backend.embed([backend.tokenise("where is my order")])[0])
        backend.close()
    assert np.isfinite(states).all()
    cosine = states[0] @ states[1] / np.linalg.norm(states[0]) / np.linalg.norm(states[1])
    assert cosine < 0.99


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        ((0, 1, 2, 3, 4, 6), r"layer 6 .* attends nearby .* place 5, where gemma3 .* everything"),
        ((0, 1, 5), r"layer 5 .* attends to everything .* place 2,.* one of 5, 11, and no other"),
        ((0, 12), r"layer 12 cannot be kept: the base has 0 to 11"),
    ],
)
def test_a_layer_where_the_other_kind_belongs_is_refused(
    tmp_path: Path, deep: Path, layers: tuple[int, ...], said: str
):
    """llama.cpp would compute it wrongly and say nothing."""
    with pytest.raises(ManifestInvalid, match=said):
        build_weights(artifact_of(tmp_path, deep, layers, tuned=()))


def test_a_base_whose_pattern_is_unknown_is_refused(tmp_path: Path):
    """Better no weights than wrong ones."""
    base = write_tiny_gguf(tmp_path / "other.gguf", architecture="cohere2")
    with pytest.raises(ManifestInvalid, match="gemma3 and llama only, not of 'cohere2'"):
        build_weights(artifact_of(tmp_path / "store", base, (0,), tuned=()))


def test_llama_may_keep_any_layers(tmp_path: Path):
    """All of its layers are of one kind."""
    base = GgufFile(write_tiny_gguf(tmp_path / "llama.gguf", layers=4, architecture="llama"))
    layers = Layers((3, 0))
    layers.check(base)
    assert layers.values(base) == {"llama.block_count": 2}
    assert layers.tensors(base)["blk.0.attn_q.weight"] == "blk.3.attn_q.weight"
    assert layers.in_base("blk.0.attn_q.weight") == "blk.3.attn_q.weight"


def test_an_adapter_of_a_layer_that_is_left_out_is_refused(tmp_path: Path, deep: Path):
    """Nothing of an adapter is lost in silence."""
    artifact = artifact_of(tmp_path, deep, KEPT, tuned=(0, 5))
    with pytest.raises(FileDamaged, match=r"blk\.5\.attn_q\.weight belongs to a layer .* not kept"):
        build_weights(artifact)


def test_importance_is_looked_up_by_the_bases_numbers(tmp_path: Path, deep: Path):
    """A matrix is quantised by the inputs of its own layer, wherever it stands now."""
    matrices = []
    for column in (0, 1):
        squares = np.full(MATRICES["attn_v"][1], 1e-4, np.float32)
        squares[column] = 1e4
        store = tmp_path / str(column)
        artifact = artifact_of(
            store,
            deep,
            KEPT,
            tuned=(),
            squares={"blk.11.attn_v.weight": squares},
            importance=IMPORTANCE,
            quantisation="IQ4_NL",
        )
        matrices.append(numbers(GgufFile(build_weights(artifact)), "blk.5.attn_v.weight"))
    expected = numbers(GgufFile(deep), "blk.11.attn_v.weight")
    errors = [np.abs(matrix - expected).mean(axis=0) for matrix in matrices]
    assert errors[0][0] < errors[1][0]
    assert errors[1][1] < errors[0][1]


def test_other_layers_are_another_recipe(tmp_path: Path, deep: Path):
    """Weights that were built of other layers are not served; a recipe of all keeps its digest."""
    artifact = artifact_of(tmp_path, deep, KEPT)
    build_weights(artifact)
    weights = artifact.manifest.weights
    assert weights is not None
    other = weights.model_copy(update={"layers": (0, 4, 3, 6, 7, 11)})
    with pytest.raises(WeightsNotBuilt, match="another recipe"):
        Artifact(
            artifact.directory, artifact.manifest.model_copy(update={"weights": other})
        ).weights_path()
    assert "layers" not in weights.model_copy(update={"layers": None}).model_dump_json()
