from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from app.artifacts.manifest import (
    MANIFEST,
    BaseFile,
    Manifest,
    PromptSpec,
    describe_file,
    write_manifest,
)
from app.artifacts.store import BUILD, Artifact, Store
from app.backends.base import BackendOptions
from app.backends.gguf import GgufBackend
from app.backends.gguf_file import GgufFile
from app.backends.gguf_quantise import dequantise
from app.backends.gguf_weights import build_weights
from app.errors import ArtifactError, FileDamaged, WeightsNotBuilt
from tests.backends.tiny_gguf import write_tiny_artifact


def artifact_of(store: Path, quantisation: str) -> Artifact:
    write_tiny_artifact(store, quantisation)
    return Store(store).resolve("tiny")


def numbers(file: GgufFile, name: str) -> np.ndarray:
    info = file.tensors[name]
    return dequantise(file.rows(name, 0, info.rows), info.type)


@pytest.mark.parametrize(
    ("quantisation", "tolerance"), [("F32", 1e-6), ("F16", 1e-3), ("Q8_0", 6e-3)]
)
def test_merged_weights_are_base_plus_adapter(tmp_path: Path, quantisation: str, tolerance: float):
    """Each matrix equals what numpy gets from base and adapter, to the type's precision."""
    artifact = artifact_of(tmp_path, quantisation)
    built, base = GgufFile(build_weights(artifact)), GgufFile(tmp_path / "base.gguf")
    adapter = load_file(artifact.directory / "adapter.safetensors")
    assert list(built.tensors) == list(base.tensors)
    for name, info in base.tensors.items():
        expected = numbers(base, name)
        if len(info.shape) == 2 and name.startswith("blk."):
            expected = expected + adapter[f"{name}.lora_b"] @ adapter[f"{name}.lora_a"]
        np.testing.assert_allclose(
            numbers(built, name), expected, atol=tolerance * np.abs(expected).max()
        )


def test_what_no_adapter_touches_is_copied_as_it_is(tmp_path: Path):
    """Embedding, norms and tokeniser are the base's bytes."""
    built = GgufFile(build_weights(artifact_of(tmp_path, "Q4_0")))
    base = GgufFile(tmp_path / "base.gguf")
    assert built.metadata == base.metadata_with({"general.file_type": 2})
    for name, info in base.tensors.items():
        if name == "token_embd.weight" or len(info.shape) == 1:
            assert built.tensors[name] == info
            rows = info.rows
            assert built.rows(name, 0, rows).tobytes() == base.rows(name, 0, rows).tobytes()


def test_built_weights_serve(tmp_path: Path):
    """llama.cpp loads the result, and quantising moves hidden states only a little."""
    states = []
    for quantisation in ("F32", "Q8_0"):
        path = build_weights(artifact_of(tmp_path / quantisation, quantisation))
        backend = GgufBackend(
            path, PromptSpec(prefix="", suffix="\n"), 64, BackendOptions(threads=1)
        )
        states.append(backend.embed([backend.tokenise("where is my order")])[0])
        backend.close()
    cosine = states[0] @ states[1] / np.linalg.norm(states[0]) / np.linalg.norm(states[1])
    assert cosine > 0.99


def test_the_same_recipe_gives_the_same_bytes(tmp_path: Path):
    """Building is deterministic."""
    first = build_weights(artifact_of(tmp_path / "1", "Q4_0")).read_bytes()
    assert build_weights(artifact_of(tmp_path / "2", "Q4_0")).read_bytes() == first


def test_building_again_does_nothing(tiny_artifact: Artifact):
    """When all is there and right the file is not touched and no step is shown."""
    path = build_weights(tiny_artifact)
    before, steps = path.stat().st_mtime_ns, []
    assert build_weights(tiny_artifact, lambda *step: steps.append(step)) == path
    assert (path.stat().st_mtime_ns, steps) == (before, [])


def test_before_the_build_there_is_a_sentence_that_says_what_to_do(tiny_artifact: Artifact):
    """The error names the command."""
    with pytest.raises(WeightsNotBuilt, match="shopintent models build tiny"):
        tiny_artifact.weights_path()


def test_an_interrupted_build_serves_nothing_and_can_be_repeated(tiny_artifact: Artifact):
    """Stopped in the middle of the file: not built; the next build is whole."""

    def stop(step: str, done: int, total: int) -> None:
        if done > total / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_weights(tiny_artifact, stop)
    with pytest.raises(WeightsNotBuilt):
        tiny_artifact.weights_path()
    assert build_weights(tiny_artifact) == tiny_artifact.weights_path()


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize("damage", [_flip, _cut, Path.unlink])
def test_damaged_weights_are_refused_and_built_anew(
    tiny_artifact: Artifact, damage: Callable[[Path], None]
):
    """One bit, a missing tail or no file: never served, and one build mends it."""
    path = build_weights(tiny_artifact)
    damage(path)
    with pytest.raises(FileDamaged, match="build it again"):
        tiny_artifact.weights_path()
    assert build_weights(tiny_artifact) == tiny_artifact.weights_path()


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"recipe_digest": 1}'])
def test_a_marker_that_says_nothing_true_does_not_count(tiny_artifact: Artifact, content: str):
    """Without a true marker weights are not served."""
    build_weights(tiny_artifact)
    (tiny_artifact.weights_directory / BUILD).write_text(content)
    with pytest.raises(ArtifactError):
        tiny_artifact.weights_path()


def test_weights_of_another_recipe_do_not_count(tiny_artifact: Artifact):
    """After a change of the recipe the old file is not served."""
    build_weights(tiny_artifact)
    manifest = tiny_artifact.manifest
    assert manifest.weights is not None
    changed = manifest.model_copy(
        update={"weights": manifest.weights.model_copy(update={"quantisation": "Q8_0"})}
    )
    other = Artifact(tiny_artifact.directory, changed)
    with pytest.raises(WeightsNotBuilt, match="another recipe"):
        other.weights_path()
    build_weights(other)
    with pytest.raises(WeightsNotBuilt):
        tiny_artifact.weights_path()


def test_the_marker_tells_what_built_it(tiny_artifact: Artifact):
    """Recipe, digest, size and library versions are on record."""
    path = build_weights(tiny_artifact)
    marker = json.loads((tiny_artifact.weights_directory / BUILD).read_text())
    assert marker["recipe_digest"] == tiny_artifact.recipe_digest()
    assert marker["bytes"] == path.stat().st_size
    assert "llama-cpp-python" in marker["built_with"]


def test_two_builders_do_not_disturb_each_other(tiny_artifact: Artifact):
    """The second waits, says so, and finds the work done."""
    inside, go_on, steps = threading.Event(), threading.Event(), []

    def slow(step: str, done: int, total: int) -> None:
        inside.set()
        assert go_on.wait(30)

    def note(step: str, done: int, total: int) -> None:
        steps.append(step)
        go_on.set()

    first = threading.Thread(target=build_weights, args=(tiny_artifact, slow))
    first.start()
    assert inside.wait(30)
    path = build_weights(tiny_artifact, note)
    first.join()
    assert steps == ["wait: another process builds tiny/1"]
    assert path == tiny_artifact.weights_path()


def test_a_base_that_is_not_there_says_where_it_comes_from(tiny_artifact: Artifact):
    """Which file, its digest, what it was made from, and the two ways to get it."""
    manifest = tiny_artifact.manifest
    assert manifest.weights is not None
    assert isinstance(manifest.weights.base, BaseFile)
    base = manifest.weights.base.model_copy(update={"source": "acme/tiny@v1"})
    weights = manifest.weights.model_copy(update={"base": base})
    other = Artifact(tiny_artifact.directory, manifest.model_copy(update={"weights": weights}))
    (tiny_artifact.directory.parent.parent / "base.gguf").unlink()
    with pytest.raises(WeightsNotBuilt) as told:
        build_weights(other)
    for part in ("tiny/1", "base.gguf", base.sha256, "copy the file", "training base acme/tiny@v1"):
        assert part in str(told.value)


def test_a_base_may_lie_in_another_store(tiny_artifact: Artifact, tmp_path: Path):
    """A version that is still being made is built from the store that it will go to."""
    home = tmp_path / "home"
    home.mkdir()
    (tiny_artifact.directory.parent.parent / "base.gguf").rename(home / "base.gguf")
    assert build_weights(tiny_artifact, store=home) == tiny_artifact.weights_path()


def test_another_base_than_the_adapter_was_tuned_on_is_refused(tiny_artifact: Artifact):
    """The base's digest is part of the recipe."""
    _flip(tiny_artifact.directory.parent.parent / "base.gguf")
    with pytest.raises(FileDamaged, match="not the base"):
        build_weights(tiny_artifact)


@pytest.mark.parametrize(
    "change",
    [
        {"blk.0.attn_q.weight.lora_a": None},
        {"blk.9.attn_q.weight.lora_a": (4, 64), "blk.9.attn_q.weight.lora_b": (64, 4)},
        {"blk.0.attn_q.weight.lora_a": (4, 32)},
        {"blk.0.attn_q.weight.lora_b": (64, 3)},
        {"blk.0.attn_q.weight.extra": (4, 4)},
    ],
    ids=["half a pair", "no such tensor", "wrong width", "wrong rank", "unknown key"],
)
def test_an_adapter_that_does_not_fit_the_base_is_refused(
    tiny_artifact: Artifact, change: dict[str, tuple[int, int] | None]
):
    """Nothing of an adapter is left out in silence."""
    path = tiny_artifact.directory / "adapter.safetensors"
    tensors = load_file(path)
    for name, shape in change.items():
        tensors.pop(name, None)
        if shape:
            tensors[name] = np.zeros(shape, np.float32)
    save_file(tensors, path)
    manifest = _republished(tiny_artifact)
    with pytest.raises(FileDamaged, match="adapter"):
        build_weights(Artifact(tiny_artifact.directory, manifest))


def _republished(artifact: Artifact) -> Manifest:
    entry = describe_file(artifact.directory, "adapter.safetensors")
    manifest = artifact.manifest.model_copy(update={"files": (entry,)})
    (artifact.directory / MANIFEST).unlink()
    write_manifest(artifact.directory, manifest)
    return manifest
