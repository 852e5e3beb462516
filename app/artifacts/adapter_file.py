"""LoRA factors on disk: safetensors, named after the tensors that they change in a GGUF file.

``<tensor>.lora_a`` (rank, columns) and ``<tensor>.lora_b`` (rows, rank) hold floats, or 8-bit integers and
then ``<tensor>.lora_scale`` (rank,) what each product of a row of ``a`` and a column of ``b`` is
multiplied by. Or they hold bytes of two 4-bit codes each, ``lora_a`` (rank, columns / 2) and ``lora_b``
(rows / 2, rank), and ``lora_a_blocks`` (rank, columns / 32) and ``lora_b_blocks`` (rows / 32, rank) their
scales (:mod:`app.artifacts.four_bits`), beside ``lora_scale``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from app.artifacts.four_bits import BLOCK, pack, unpack
from app.errors import FileDamaged

Floats: TypeAlias = npt.NDArray[np.float32]
Adapter: TypeAlias = dict[str, tuple[Floats, Floats]]
"""Tensor name -> ``(a, b)``; the merged weight is ``w + b @ a``."""

_LARGEST = np.float32(127)
_NONE = np.empty(0, np.float16)
_FLOATS = (np.float16, np.float32, np.float64)


def write_adapter(path: Path, adapter: Adapter, *, bits: int = 16) -> None:
    """As float16, or in 8 or 4 bits: a half or a quarter of the size.

    The errors of 8 bits are a tenth, those of 4 a quarter of what 4-bit weights lose themselves (0032).
    Factors whose sides do not make blocks of 32 keep 8 bits.
    """
    tensors: dict[str, npt.NDArray[np.generic]] = {}
    for name, (a, b) in adapter.items():
        if bits == 16:
            tensors[f"{name}.lora_a"] = a.astype(np.float16)
            tensors[f"{name}.lora_b"] = b.astype(np.float16)
            continue
        (unit_a, size_a), (unit_b, size_b) = _sized(a), _sized(b.T)
        if bits == 4 and a.shape[1] % BLOCK == b.shape[0] % BLOCK == 0:
            tensors[f"{name}.lora_a"], tensors[f"{name}.lora_a_blocks"] = pack(unit_a)
            codes, blocks = pack(unit_b)
            tensors[f"{name}.lora_b"], tensors[f"{name}.lora_b_blocks"] = codes.T, blocks.T
            tensors[f"{name}.lora_scale"] = size_a * size_b
        else:
            tensors[f"{name}.lora_a"], tensors[f"{name}.lora_b"] = (
                np.rint(unit * _LARGEST).astype(np.int8) for unit in (unit_a, unit_b.T)
            )
            tensors[f"{name}.lora_scale"] = size_a / _LARGEST * (size_b / _LARGEST)
    save_file({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, path)


def read_adapter(path: Path) -> Adapter:
    """Raises :class:`FileDamaged` for anything but pairs that fit each other."""
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise FileDamaged(f"{path.name} is unreadable: {error}") from error
    adapter: Adapter = {}
    for name in sorted({key.rpartition(".")[0] for key in tensors}):
        try:
            adapter[name] = _pair(name, tensors)
        except ValueError as error:
            raise FileDamaged(f"{path.name}: {error}") from error
    if tensors:
        raise FileDamaged(f"{path.name}: does not know what {min(tensors)} is")
    return adapter


def _pair(name: str, tensors: dict[str, npt.NDArray[Any]]) -> tuple[Floats, Floats]:
    """Takes what belongs to ``name`` out of ``tensors``. Raises ValueError, in words, for what is unfit."""
    a, b = tensors.pop(f"{name}.lora_a", None), tensors.pop(f"{name}.lora_b", None)
    scale = tensors.pop(f"{name}.lora_scale", None)
    if a is None or b is None:
        raise ValueError(f"{name} is not a pair for a tensor of the base")
    if a.ndim != 2 or b.ndim != 2 or b.shape[1] != len(a):
        raise ValueError(f"{b.shape} @ {a.shape} of {name} do not fit")
    kinds = {a.dtype.type, b.dtype.type}
    if kinds not in ({np.int8}, {np.uint8}) and not kinds <= set(_FLOATS):
        raise ValueError(f"{name} has factors of {a.dtype} and {b.dtype}")
    if (scale is None) == (a.dtype.kind in "iu") or (
        scale is not None and (scale.shape != a.shape[:1] or scale.dtype.type not in _FLOATS)
    ):
        raise ValueError(f"{name} has a scale too many or too few")
    if a.dtype == np.uint8:
        a = _unpacked(name, a, tensors.pop(f"{name}.lora_a_blocks", _NONE))
        b = _unpacked(name, b.T, tensors.pop(f"{name}.lora_b_blocks", _NONE).T).T
    a, b = a.astype(np.float32), b.astype(np.float32)
    if scale is not None:
        a = a * scale[:, None].astype(np.float32)
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError(f"{name} holds what is not a number")
    return a, b


def _unpacked(name: str, codes: npt.NDArray[Any], scales: npt.NDArray[Any]) -> Floats:
    numbers = 2 * codes.shape[1]
    fitting = len(codes), numbers // BLOCK
    if numbers % BLOCK or scales.shape != fitting or scales.dtype != np.float16:
        raise ValueError(f"{name} has blocks that do not fit its codes")
    return unpack(codes, scales)


def _sized(rows: Floats) -> tuple[Floats, Floats]:
    """Each row with a largest number of 1, and what it was (rows,)."""
    size = np.maximum(np.abs(rows).max(axis=1), np.float32(1e-12))
    return rows / size[:, None], size
