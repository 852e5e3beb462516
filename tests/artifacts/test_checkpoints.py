from __future__ import annotations

import json
from pathlib import Path

import pytest

from app.artifacts.checkpoints import install_checkpoint, verified_checkpoint
from app.artifacts.manifest import BaseFile, WeightsRecipe, describe_file
from app.artifacts.store import Artifact
from app.errors import FileDamaged, WeightsNotBuilt
from tests.fake_artifact import fake_manifest


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    directory = tmp_path / "store" / "shop" / "1"
    (directory / "weights").mkdir(parents=True)
    (directory / "adapter.safetensors").write_bytes(b"factors")
    recipe = WeightsRecipe(
        base=BaseFile(path="base.gguf", sha256="0" * 64),
        adapters=("adapter.safetensors",),
        quantisation="Q4_0",
        output="model.gguf",
    )
    manifest = fake_manifest("shop").model_copy(
        update={
            "weights": recipe,
            "files": (describe_file(directory, "adapter.safetensors"),),
        }
    )
    return Artifact(directory, manifest)


@pytest.fixture
def installed(artifact: Artifact) -> Path:
    return install_checkpoint(artifact, make(artifact), "a test")


def make(artifact: Artifact, content: str = "{}") -> Path:
    made = artifact.weights_directory / "made"
    made.mkdir()
    (made / "config.json").write_text(content)
    (made / "model.safetensors").write_bytes(b"tensors")
    return made


def test_what_was_installed_is_found(artifact: Artifact, installed: Path):
    """The directory, every file as it was sealed; what made it is on record."""
    assert verified_checkpoint(artifact) == installed == artifact.weights_directory / "gptq"
    assert json.loads((installed / "build.json").read_text())["built_with"] == "a test"


def test_a_newer_one_takes_its_place(artifact: Artifact, installed: Path):
    """Nothing of the older one stays behind."""
    (installed / "stale").write_text("")
    install_checkpoint(artifact, make(artifact, '{"new": true}'), "a test")
    assert (verified_checkpoint(artifact) / "config.json").read_text() == '{"new": true}'
    assert not (installed / "stale").exists()


def test_none_is_named(artifact: Artifact):
    """The reader is told what to run."""
    with pytest.raises(WeightsNotBuilt, match="training quantise --name shop"):
        verified_checkpoint(artifact)


def test_half_of_one_does_not_count(artifact: Artifact):
    """Without the marker that is written last there is no checkpoint."""
    make(artifact).rename(artifact.weights_directory / "gptq")
    with pytest.raises(WeightsNotBuilt):
        verified_checkpoint(artifact)


@pytest.mark.parametrize("damage", ["changed", "missing", "added"])
def test_files_that_are_not_those_that_were_sealed(
    artifact: Artifact, installed: Path, damage: str
):
    """A changed, a missing and a foreign file are all refused: nothing unverified is loaded."""
    if damage == "changed":
        (installed / "model.safetensors").write_bytes(b"tensorz")
    elif damage == "missing":
        (installed / "config.json").unlink()
    else:
        (installed / "more.safetensors").write_bytes(b"")
    with pytest.raises(FileDamaged, match="make it again"):
        verified_checkpoint(artifact)


def test_other_adapters_other_weights(artifact: Artifact, installed: Path):
    """A checkpoint counts only for what it was quantised from; how the GGUF is made does not matter."""
    recipe = artifact.recipe()
    other_gguf = recipe.model_copy(update={"quantisation": "Q8_0", "output": "other.gguf"})
    manifest = artifact.manifest.model_copy(update={"weights": other_gguf})
    assert verified_checkpoint(Artifact(artifact.directory, manifest)) == installed
    (artifact.directory / "adapter.safetensors").write_bytes(b"new factors")
    entries = (describe_file(artifact.directory, "adapter.safetensors"),)
    manifest = artifact.manifest.model_copy(update={"files": entries})
    with pytest.raises(WeightsNotBuilt, match="other weights"):
        verified_checkpoint(Artifact(artifact.directory, manifest))


def test_published_whole(artifact: Artifact):
    """Files of the manifest were verified with the artifact; there is nothing to build."""
    made = make(artifact).rename(artifact.directory / "gptq")
    entries = tuple(
        describe_file(artifact.directory, f"gptq/{path.name}") for path in sorted(made.iterdir())
    )
    manifest = artifact.manifest.model_copy(update={"files": entries, "weights": None})
    assert verified_checkpoint(Artifact(artifact.directory, manifest)) == made
