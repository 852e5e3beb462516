"""An artifact's base with its adapters added, as a model directory that ``transformers`` loads.

What GGUF weights are built from without torch (:mod:`app.backends.gguf_weights`), for everything else.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from app.artifacts.base_package import Progress, assemble_base, silent
from app.artifacts.manifest import BaseFile, BasePackage, read_json, sha256_of
from app.artifacts.store import Artifact
from app.backends.gguf_vocabulary import Ids
from app.errors import FileDamaged, InputError
from training.adapter_files import Adapter, read_adapter
from training.bases import as_checkpoint
from training.layouts import adapter_from_gguf
from training.trimming import trim
from training.tuning import apply_adapter


def base_directory(artifact: Artifact, progress: Progress = silent) -> Path:
    """The artifact's base, unpacked into the store's cache; raises as :func:`base_file`."""
    gguf, sha256 = base_file(artifact, progress)
    return as_checkpoint(gguf, _cache(artifact) / f"base-{sha256[:16]}-hf")


def base_file(artifact: Artifact, progress: Progress = silent) -> tuple[Path, str]:
    """The artifact's base as GGUF, assembled in the store's cache where it is packaged, and its sha256.

    Raises :class:`InputError` where the weights were published whole, so that there is none, and where
    they keep only some of its layers.
    """
    base, layers = artifact.recipe().base, artifact.recipe().layers
    if layers is not None:
        raise InputError(
            f"{artifact.label} keeps {len(layers)} layers of its base, which only GGUF weights can: "
            "take a model with all of them, such as 'storefront'"
        )
    store = artifact.directory.parent.parent
    if isinstance(base, BasePackage):
        return assemble_base(base, _cache(artifact), progress), base.sha256
    if isinstance(base, BaseFile):
        found = [root / base.path for root in (artifact.directory, store)]
        gguf = next((path for path in found if path.is_file()), found[0])
        if not gguf.is_file() or sha256_of(gguf) != base.sha256:
            raise FileDamaged(f"{artifact.label}: its base {base.path} is not in the store")
        return gguf, base.sha256
    raise InputError(f"{artifact.label} was published whole: there are no adapters to merge")


def _cache(artifact: Artifact) -> Path:
    cache = artifact.directory.parent.parent / ".cache"
    cache.mkdir(exist_ok=True)
    return cache


def merge_artifact(
    artifact: Artifact,
    directory: Path,
    dtype: torch.dtype,
    progress: Progress = silent,
    kept: Ids | None = None,
) -> None:
    """A published version's base and adapters as one model in ``directory``.

    With ``kept``, ids in ascending order, its vocabulary has no other pieces.
    """
    base = base_directory(artifact, progress)
    config = read_json(base / "config.json")
    adapters = [
        adapter_from_gguf(read_adapter(artifact.directory / path), config)
        for path in artifact.recipe().adapters
    ]
    merge(base, adapters, directory, progress, dtype)
    if kept is not None:
        trim(directory, kept)


def merge(
    base: Path,
    adapters: Sequence[Adapter],
    directory: Path,
    progress: Progress = silent,
    dtype: torch.dtype = torch.bfloat16,
) -> None:
    """Base plus adapters as a causal language model, tokeniser included.

    The factors are ordered as ``transformers`` orders the matrices (:mod:`training.layouts`).
    """
    progress("merge", 0, 0)
    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    for adapter in adapters:
        apply_adapter(model.base_model, adapter)
    model.to(dtype).save_pretrained(directory)
    AutoTokenizer.from_pretrained(base).save_pretrained(directory)
