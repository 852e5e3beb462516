"""GPTQ checkpoints of an artifact: a directory of files, each verified before any is loaded.

They are made from the same base and adapters as the GGUF weights (`python -m training quantise`) and
lie beside them in ``weights/gptq``, or are published whole in ``gptq``.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from app.artifacts.manifest import describe_file, read_json, write_atomically
from app.artifacts.store import BUILD, Artifact
from app.errors import FileDamaged, WeightsNotBuilt

CHECKPOINT = "gptq"
_CONFIG = f"{CHECKPOINT}/config.json"


def has_checkpoint(artifact: Artifact) -> bool:
    """Whether there is a GPTQ checkpoint at all, whole or not."""
    return (artifact.weights_directory / CHECKPOINT).is_dir()


def verified_checkpoint(artifact: Artifact) -> Path:
    """The directory of the GPTQ checkpoint, its files as they were when it was sealed.

    Raises :class:`WeightsNotBuilt` when there is none on this machine, or none of this recipe, and
    :class:`FileDamaged` when a file has changed since, or one is there that was not sealed.
    """
    if _CONFIG in artifact.manifest.entries():
        return artifact.directory / CHECKPOINT  # verified with the artifact
    directory = artifact.weights_directory / CHECKPOINT
    if not (directory / BUILD).is_file():
        raise WeightsNotBuilt(f"{artifact.label} {_MAKE_IT.format(artifact.manifest.name)}")
    build = read_json(directory / BUILD)
    if build.get("recipe_digest") != checkpoint_digest(artifact):
        raise WeightsNotBuilt(
            f"{artifact.label} was quantised from other weights and "
            f"{_MAKE_IT.format(artifact.manifest.name)}"
        )
    if build.get("files") != _describe(directory):
        raise FileDamaged(
            f"{artifact.label}: the files of its GPTQ checkpoint are not those that were made; "
            "make it again"
        )
    return directory


_MAKE_IT = (
    "has no GPTQ weights on this machine: run `python -m training quantise --name {} --format gptq`"
)


def checkpoint_digest(artifact: Artifact) -> str:
    """sha256 over the base and the adapters' digests: what a checkpoint is quantised from."""
    recipe = artifact.recipe()
    entries = artifact.manifest.entries()
    parts = [recipe.base.model_dump_json(), *(entries[path].sha256 for path in recipe.adapters)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def install_checkpoint(artifact: Artifact, made: Path, built_with: str) -> Path:
    """Seal the directory ``made`` and put it in its place; returns the place.

    ``made`` must lie on the same file system. A reader sees the old checkpoint, none, or the new one.
    """
    marker = {
        "recipe_digest": checkpoint_digest(artifact),
        "files": _describe(made),
        "built_with": built_with,
    }
    write_atomically(made / BUILD, json.dumps(marker, indent=1).encode() + b"\n")
    place = artifact.weights_directory / CHECKPOINT
    if place.exists():
        shutil.rmtree(place)
    return made.rename(place)


def _describe(directory: Path) -> list[dict[str, Any]]:
    names = sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*"))
    return [
        describe_file(directory, name).model_dump()
        for name in names
        if name != BUILD and (directory / name).is_file()
    ]
