"""The small files of an artifact: heads, prototypes, n-gram model, calibrations. Written and read here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from app.artifacts.manifest import CartSpec, Manifest, read_json, write_atomically
from app.classification.cart import (
    SLOT_ACTIONS,
    CartCalibration,
    CartHeads,
    CartModel,
    WordingHeads,
)
from app.classification.cascade import Cascade
from app.classification.classifier import IntentModel
from app.classification.decision import SCOPE_FEATURES, Calibration
from app.classification.head import Head
from app.classification.ngrams import NgramModel
from app.classification.wording import FEATURES, Floats
from app.domain import CART_OUTCOMES
from app.errors import FileDamaged

HEAD = "head.safetensors"
NGRAMS = "ngrams.safetensors"
CALIBRATION = "calibration.json"
CASCADE = "cascade.json"
"""When n-grams may answer alone; older artifacts have none."""
_WORDING = "wording."

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
    _write_json(directory / CALIBRATION, model.calibration)
    if model.cascade is None:
        return HEAD, NGRAMS, CALIBRATION
    _write_json(directory / CASCADE, model.cascade)
    return HEAD, NGRAMS, CALIBRATION, CASCADE


def read_model(directory: Path, manifest: Manifest) -> IntentModel:
    """Read what :func:`write_model` wrote. Raises :class:`FileDamaged` when shapes do not agree."""
    head = _tensors(directory / HEAD)
    ngrams = _tensors(directory / NGRAMS)
    labels, hidden = len(manifest.labels), manifest.hidden_size
    try:
        model = IntentModel(
            labels=manifest.intents,
            head=Head(head["rows"], head["bias"]),
            ngrams=NgramModel(**ngrams),
            prototypes=head["prototypes"],
            calibration=_calibration(CALIBRATION, read_json(directory / CALIBRATION)),
            cascade=_cascade(directory / CASCADE) if CASCADE in manifest.entries() else None,
        )
    except (KeyError, TypeError) as error:
        raise FileDamaged(f"{directory.name}: a model file lacks {error}") from error
    if model.head.rows.shape != (labels, hidden) or model.ngrams.bias.shape != (labels,):
        raise FileDamaged(
            f"{directory.name}: head {model.head.rows.shape} does not fit "
            f"{labels} labels of {hidden} dimensions"
        )
    return model


def write_cart(directory: Path, model: CartModel) -> tuple[str, ...]:
    """Write heads and calibration into ``directory`` as the spec names them; returns the paths."""
    save_file(cart_tensors(model.heads), directory / model.spec.heads)
    _write_json(directory / model.spec.calibration, model.calibration)
    return model.spec.heads, model.spec.calibration


def cart_tensors(heads: CartHeads) -> dict[str, Floats]:
    """The heads' arrays by the names that they have in a file."""
    arrays = {
        field.name: getattr(heads, field.name)
        for field in fields(CartHeads)
        if field.name != "wording"
    }
    if heads.wording is not None:
        arrays |= {
            f"{_WORDING}{field.name}": getattr(heads.wording, field.name)
            for field in fields(WordingHeads)
        }
    return {name: np.ascontiguousarray(array, np.float32) for name, array in arrays.items()}


def cart_heads(tensors: Mapping[str, npt.NDArray[Any]]) -> CartHeads:
    """What :func:`cart_tensors` named. Raises TypeError for a name too many or too few."""
    arrays = {name: array.astype(np.float32) for name, array in tensors.items()}
    named = {
        name.removeprefix(_WORDING): arrays.pop(name)
        for name in tuple(arrays)
        if name.startswith(_WORDING)
    }
    return CartHeads(**arrays, wording=WordingHeads(**named) if named else None)


def read_cart(directory: Path, spec: CartSpec, hidden_size: int) -> CartModel:
    """Read what :func:`write_cart` wrote. Raises :class:`FileDamaged` when shapes do not agree."""
    tensors = _tensors(directory / spec.heads)
    try:
        heads = cart_heads(tensors)
    except TypeError as error:
        raise FileDamaged(f"{spec.heads}: {error}") from error
    actions, outcomes = len(SLOT_ACTIONS), len(CART_OUTCOMES)
    dimensions = len(heads.query)
    shapes = {
        "query": (dimensions, hidden_size),
        "key": (dimensions, hidden_size),
        "action_rows": (actions, hidden_size),
        "action_bias": (actions,),
        "digit_rows": (30, hidden_size),
        "digit_bias": (30,),
        "outcome_rows": (outcomes, hidden_size),
        "outcome_bias": (outcomes,),
    }
    if heads.wording is not None:
        features = len(FEATURES)
        shapes |= {
            f"{_WORDING}gate_rows": (features, hidden_size),
            f"{_WORDING}gate_bias": (features,),
            f"{_WORDING}outcome_rows": (outcomes, 2 * features),
        }
    for name, shape in shapes.items():
        found = tensors[name]
        if found.shape != shape or not dimensions or not np.isfinite(found).all():
            raise FileDamaged(f"{spec.heads}: {name} {found.shape} is not finite values of {shape}")
    return CartModel(spec, heads, _cart_calibration(directory / spec.calibration))


def _cart_calibration(path: Path) -> CartCalibration:
    content = read_json(path)
    names = {field.name for field in fields(CartCalibration)}
    for name in sorted(names ^ set(content)):
        raise FileDamaged(f"{path.name} lacks {name}, or should not have it")
    values = {name: value for name, value in content.items() if isinstance(value, int | float)}
    if len(values) < len(names) or not all(map(isfinite, values.values())):
        raise FileDamaged(f"{path.name}: every value must be a finite number")
    calibration = CartCalibration(**values)
    temperatures = [value for name, value in values.items() if name.endswith("_temperature")]
    if min(temperatures) <= 0:
        raise FileDamaged(f"{path.name}: temperatures must be above zero")
    return calibration


def _tensors(path: Path) -> dict[str, npt.NDArray[Any]]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise FileDamaged(f"{path.name} is unreadable: {error}") from error


def _write_json(path: Path, content: Calibration | Cascade | CartCalibration) -> None:
    write_atomically(path, json.dumps(asdict(content), indent=1).encode() + b"\n")


def _cascade(path: Path) -> Cascade:
    content = read_json(path)
    first, thresholds = content.get("calibration"), [content.get(k) for k in ("careful", "fast")]
    if not isinstance(first, dict) or not all(isinstance(t, float) for t in thresholds):
        raise FileDamaged(f"{path.name} must have a calibration and the numbers careful and fast")
    return Cascade(_calibration(path.name, first), *thresholds)  # type: ignore[arg-type]


def _calibration(name: str, content: Mapping[str, object]) -> Calibration:
    calibration = Calibration(
        **{
            name: tuple(value) if isinstance(value, list) else value  # type: ignore[arg-type]
            for name, value in content.items()
        }
    )
    if len(calibration.scope_weights) != len(SCOPE_FEATURES):
        raise FileDamaged(
            f"{name}: {len(calibration.scope_weights)} scope weights, "
            f"this version has {len(SCOPE_FEATURES)} features"
        )
    return calibration
