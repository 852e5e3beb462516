"""The small files of an artifact: head, prototypes, n-gram model, calibration. Written and read here."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from app.artifacts.manifest import Manifest, read_json, write_atomically
from app.classification.classifier import IntentModel
from app.classification.decision import SCOPE_FEATURES, Calibration
from app.classification.head import Head
from app.classification.ngrams import NgramModel
from app.errors import FileDamaged

HEAD = "head.safetensors"
NGRAMS = "ngrams.safetensors"
CALIBRATION = "calibration.json"

_NARROW = ("word_weights", "char_weights")
"""Stored as float16: half the size, and far more precise than the fit itself."""


def write_model(directory: Path, model: IntentModel) -> tuple[str, ...]:
    """Write all but the weights into ``directory``; returns the paths written."""
    head = {"rows": model.head.rows, "bias": model.head.bias, "prototypes": model.prototypes}
    save_file({name: np.ascontiguousarray(array) for name, array in head.items()}, directory / HEAD)
    ngrams: dict[str, npt.NDArray[np.generic]] = {}
    for field in fields(NgramModel):
        array = getattr(model.ngrams, field.name)
        ngrams[field.name] = np.ascontiguousarray(
            array.astype(np.float16) if field.name in _NARROW else array
        )
    save_file(ngrams, directory / NGRAMS)
    write_atomically(
        directory / CALIBRATION, json.dumps(asdict(model.calibration), indent=1).encode() + b"\n"
    )
    return HEAD, NGRAMS, CALIBRATION


def read_model(directory: Path, manifest: Manifest) -> IntentModel:
    """Read what :func:`write_model` wrote. Raises :class:`FileDamaged` when shapes do not agree."""
    head = _tensors(directory / HEAD)
    ngrams = _tensors(directory / NGRAMS)
    ngrams |= {name: ngrams[name].astype(np.float32) for name in _NARROW if name in ngrams}
    labels, hidden = len(manifest.labels), manifest.hidden_size
    try:
        model = IntentModel(
            labels=manifest.intents,
            head=Head(head["rows"], head["bias"]),
            ngrams=NgramModel(**ngrams),
            prototypes=head["prototypes"],
            calibration=_calibration(directory / CALIBRATION),
        )
    except (KeyError, TypeError) as error:
        raise FileDamaged(f"{directory.name}: a model file lacks {error}") from error
    if model.head.rows.shape != (labels, hidden) or model.ngrams.bias.shape != (labels,):
        raise FileDamaged(
            f"{directory.name}: head {model.head.rows.shape} does not fit "
            f"{labels} labels of {hidden} dimensions"
        )
    return model


def _tensors(path: Path) -> dict[str, npt.NDArray[Any]]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise FileDamaged(f"{path.name} is unreadable: {error}") from error


def _calibration(path: Path) -> Calibration:
    content = read_json(path)
    calibration = Calibration(
        **{
            name: tuple(value) if isinstance(value, list) else value  # type: ignore[arg-type]
            for name, value in content.items()
        }
    )
    if len(calibration.scope_weights) != len(SCOPE_FEATURES):
        raise FileDamaged(
            f"{path.name}: {len(calibration.scope_weights)} scope weights, "
            f"this version has {len(SCOPE_FEATURES)} features"
        )
    return calibration
