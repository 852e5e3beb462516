from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from app.artifacts.manifest import PromptSpec, describe_file
from app.artifacts.store import Artifact
from app.backends.gguf_file import GgufFile
from app.backends.gguf_importance import measure_importance, read_importance, write_importance
from app.backends.gguf_quantise import dequantise
from app.backends.gguf_weights import build_weights
from app.errors import FileDamaged
from tests.backends.tiny_gguf import BOS, HIDDEN, LAYERS, MATRICES

PROMPT = PromptSpec(prefix="", suffix="")


def test_every_matrix_gets_one_number_a_column(tiny_gguf: Path):
    """All block matrices, by their names, positive and finite."""
    importance = measure_importance(tiny_gguf, PROMPT, ["where is my order", "ok"])
    assert importance.keys() == {
        f"blk.{layer}.{name}.weight" for layer in range(LAYERS) for name in MATRICES
    }
    for name, columns in importance.items():
        assert columns.shape == (MATRICES[name.split(".")[2]][1],)
        assert np.isfinite(columns).all()
        assert (columns > 0).any()


def test_the_numbers_are_the_mean_squared_inputs(tiny_gguf: Path):
    """The first matrices see the normalised embeddings, which numpy can compute."""
    text = "wher"
    measured = measure_importance(tiny_gguf, PROMPT, [text])["blk.0.attn_q.weight"]
    file = GgufFile(tiny_gguf)

    def array(name: str) -> np.ndarray:
        info = file.tensors[name]
        return dequantise(file.rows(name, 0, info.rows), info.type)

    token = 5 + 256 + 29 + 2  # the piece "wher" of the tiny vocabulary
    embedded = array("token_embd.weight")[[BOS, token]] * np.sqrt(HIDDEN)
    normalised = embedded / np.sqrt((embedded**2).mean(axis=1, keepdims=True) + 1e-6)
    inputs = normalised * array("blk.0.attn_norm.weight").ravel()
    np.testing.assert_allclose(measured, (inputs**2).mean(axis=0), rtol=1e-3)


def test_what_is_written_is_read(tmp_path: Path):
    """The file format round-trips, and noise is refused."""
    path = tmp_path / "importance.safetensors"
    write_importance(path, {"blk.0.attn_q.weight": np.arange(4, dtype=np.float32)})
    assert read_importance(path)["blk.0.attn_q.weight"].tolist() == [0, 1, 2, 3]
    path.write_bytes(b"noise")
    with pytest.raises(FileDamaged):
        read_importance(path)


def _with_importance(artifact: Artifact, tensors: dict[str, np.ndarray]) -> Artifact:
    path = artifact.directory / "importance.safetensors"
    save_file(tensors, path)
    manifest = artifact.manifest
    assert manifest.weights is not None
    changed = manifest.model_copy(
        update={
            "weights": manifest.weights.model_copy(update={"importance": path.name}),
            "files": (*manifest.files, describe_file(artifact.directory, path.name)),
        }
    )
    return Artifact(artifact.directory, changed)


def test_weights_are_quantised_by_it(tiny_artifact: Artifact):
    """It is part of the recipe: another file, another digest, other bytes."""
    plain = build_weights(tiny_artifact).read_bytes()
    columns = np.geomspace(1, 1e4, HIDDEN).astype(np.float32)
    weighed = _with_importance(tiny_artifact, {"blk.0.ffn_up.weight": columns})
    assert weighed.recipe_digest() != tiny_artifact.recipe_digest()
    assert build_weights(weighed).read_bytes() != plain


@pytest.mark.parametrize(
    "tensors",
    [{"blk.7.ffn_up.weight": np.ones(HIDDEN)}, {"blk.0.ffn_up.weight": np.ones(HIDDEN + 1)}],
    ids=["no such matrix", "wrong width"],
)
def test_importance_of_another_model_is_refused(
    tiny_artifact: Artifact, tensors: dict[str, np.ndarray]
):
    """Names and widths must be the base's."""
    other = {name: array.astype(np.float32) for name, array in tensors.items()}
    with pytest.raises(FileDamaged, match="not a matrix"):
        build_weights(_with_importance(tiny_artifact, other))
