"""Where a shop starts: a base, the adapters upon it, and what the artifact says of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from app.artifacts.base_package import Progress
from app.artifacts.manifest import BaseModelId
from app.artifacts.store import Store
from app.backends.gguf_importance import read_importance
from app.classification.prompt import Prompt
from app.errors import InputError
from training.adapter_files import Adapter, read_adapter
from training.base_sources import find_base
from training.bases import (
    DEFAULT_QUANTISATION,
    Base,
    load_decoder,
    load_model,
    packaged_base,
)
from training.layouts import adapter_from_gguf
from training.storefront import FAST
from training.tuning import apply_adapter

STOREFRONT = "storefront"
_SHALLOW = (
    "{} keeps only some layers of its base, and a shop cannot start from that: take 'storefront' or a "
    "whole base"
)


@dataclass(frozen=True, slots=True)
class Backbone:
    """Weights that a shop's own adapter is tuned on."""

    base: Base
    digest: str
    """Equal digests, equal weights: what an interrupted run may be resumed by."""
    adapters: tuple[Adapter, ...]
    prompt: Prompt
    quantisation: str
    importance: Mapping[str, npt.NDArray[np.float32]] | None
    """Of the backbone's columns; a shop's adapter does not move it enough to measure again."""
    notices: tuple[Path, ...]

    def model(self, device: str = "cpu") -> Any:
        """The decoder with the adapters merged, float32."""
        model = load_model(self.base, device)
        for adapter in self.adapters:
            apply_adapter(model, adapter)
        return model

    def four_bit_model(self, device: str, scratch: Path) -> Any:
        """The same in NF4. Adapters cannot be added to four bits: they are merged first, in ``scratch``."""
        if not self.adapters:
            return load_model(self.base, device, four_bit=True)
        self.model().save_pretrained(scratch)
        return load_decoder(scratch, device, four_bit=True)


def find_backbone(name: str, store: Path, progress: Progress) -> Backbone:
    """``storefront``, or any base that :func:`training.base_sources.find_base` knows.

    Raises :class:`app.errors.InputError`, and :class:`app.errors.ArtifactError` without a storefront.
    """
    if name == STOREFRONT:
        return _storefront(store, progress)
    if name == FAST.name:
        raise InputError(_SHALLOW.format(name))
    base = find_base(name, store, progress)
    assert not isinstance(base.origin, BaseModelId)
    notices = sorted(store.glob("*[Gg][Ee][Mm][Mm][Aa]*.md")) if name.startswith("gemma") else []
    return Backbone(
        base=base,
        digest=base.origin.sha256,
        adapters=(),
        prompt=Prompt(),
        quantisation=DEFAULT_QUANTISATION,
        importance=None,
        notices=tuple(notices),
    )


def _storefront(store: Path, progress: Progress) -> Backbone:
    artifact = Store(store).resolve(STOREFRONT)
    recipe = artifact.recipe()
    if recipe.layers is not None:
        raise InputError(_SHALLOW.format(artifact.label))
    base = packaged_base(store / ".cache", progress)
    stored = [read_adapter(artifact.directory / path) for path in recipe.adapters]
    return Backbone(
        base=base,
        digest=artifact.recipe_digest(),
        adapters=tuple(adapter_from_gguf(adapter, base.config()) for adapter in stored),
        prompt=Prompt(artifact.manifest.prompt.prefix, artifact.manifest.prompt.suffix),
        quantisation=recipe.quantisation,
        importance=(
            read_importance(artifact.directory / recipe.importance) if recipe.importance else None
        ),
        notices=tuple(artifact.directory / notice for notice in artifact.manifest.notices),
    )


def upper_third(config: Mapping[str, Any]) -> int:
    """The first layer to tune: two thirds up, or as near below as the pattern of layers allows.

    A model whose layers attend near and far by their place (Gemma) can only be cut where the rest
    has the same pattern again.
    """
    types = config.get("layer_types")
    layers = int(config["num_hidden_layers"])
    for first in range(layers * 2 // 3, 0, -1):
        if not types or types[first:] == types[: layers - first]:
            return first
    return 0
