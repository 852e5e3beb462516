"""LoRA factors on disk: safetensors, named after the tensors that they change in a GGUF file.

``<tensor>.lora_a`` (rank, columns) and ``<tensor>.lora_b`` (rows, rank) hold floats, or 8-bit integers and
then ``<tensor>.lora_scale`` (rank,) what each product of a row of ``a`` and a column of ``b`` is
multiplied by.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from app.errors import FileDamaged

Floats: TypeAlias = npt.NDArray[np.float32]
Adapter: TypeAlias = dict[str, tuple[Floats, Floats]]
"""Tensor name -> ``(a, b)``; the merged weight is ``w + b @ a``."""

_LARGEST = 127
_FLOATS = (np.float16, np.float32, np.float64)


def write_adapter(path: Path, adapter: Adapter, *, eight_bits: bool = False) -> None:
    """As float16, or as 8-bit integers: half the size, errors a tenth of those of 4-bit weights."""
    tensors: dict[str, npt.NDArray[np.generic]] = {}
    for name, (a, b) in adapter.items():
        if eight_bits:
            small_a, scale_a = _integers(a)
            small_b, scale_b = _integers(b.T)
            tensors[f"{name}.lora_a"], tensors[f"{name}.lora_b"] = small_a, small_b.T
            tensors[f"{name}.lora_scale"] = scale_a * scale_b
        else:
            tensors[f"{name}.lora_a"], tensors[f"{name}.lora_b"] = (
                a.astype(np.float16),
                b.astype(np.float16),
            )
    save_file({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, path)


def read_adapter(path: Path) -> Adapter:
    """Raises :class:`FileDamaged` for anything but pairs that fit each other."""
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise FileDamaged(f"{path.name} is unreadable: {error}") from error
    adapter: Adapter = {}
    for name in sorted({key.rpartition(".")[0] for key in tensors}):
        a, b = tensors.pop(f"{name}.lora_a", None), tensors.pop(f"{name}.lora_b", None)
        scale = tensors.pop(f"{name}.lora_scale", None)
        if a is None or b is None:
            raise FileDamaged(f"{path.name}: {name} is not a pair for a tensor of the base")
        if a.ndim != 2 or b.ndim != 2 or b.shape[1] != len(a):
            raise FileDamaged(f"{path.name}: {b.shape} @ {a.shape} of {name} do not fit")
        kinds = {a.dtype.type, b.dtype.type}
        if kinds != {np.int8} and not kinds <= set(_FLOATS):
            raise FileDamaged(f"{path.name}: {name} has factors of {a.dtype} and {b.dtype}")
        if (scale is None) == (a.dtype == np.int8) or (
            scale is not None and (scale.shape != a.shape[:1] or scale.dtype.type not in _FLOATS)
        ):
            raise FileDamaged(f"{path.name}: {name} has a scale too many or too few")
        a, b = a.astype(np.float32), b.astype(np.float32)
        if scale is not None:
            a = a * scale[:, None].astype(np.float32)
        if not (np.isfinite(a).all() and np.isfinite(b).all()):
            raise FileDamaged(f"{path.name}: {name} holds what is not a number")
        adapter[name] = (a, b)
    if tensors:
        raise FileDamaged(f"{path.name}: does not know what {min(tensors)} is")
    return adapter


def _integers(rows: Floats) -> tuple[npt.NDArray[np.int8], Floats]:
    """Each row as integers up to 127, and what one of them is worth (rows,)."""
    scale = np.maximum(np.abs(rows).max(axis=1), np.float32(1e-12)) / np.float32(_LARGEST)
    return np.rint(rows / scale[:, None]).astype(np.int8), scale.astype(np.float32)
