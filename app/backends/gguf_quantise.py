"""Numbers to GGUF blocks and back, with llama.cpp's own quantiser.

What counts is the hidden state, not the weights: an error in a column that always meets large inputs
costs more. So the quantiser is given the mean squared input of every column (the "importance" of
llama.cpp's imatrix tool, see :mod:`app.backends.gguf_importance`).
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

from app.backends.gguf_file import Bytes
from app.errors import ManifestInvalid

Floats: TypeAlias = npt.NDArray[np.float32]
Type: TypeAlias = GGMLQuantizationType

_PLAIN = {Type.F32, Type.F16, Type.BF16}
PRECISE = _PLAIN | {Type.Q8_0}
"""Types whose rounding is too small for an importance to matter."""
_FALLBACK = {
    Type.Q2_K: Type.Q4_0,
    Type.Q3_K: Type.Q4_0,
    Type.Q4_K: Type.Q5_0,
    Type.Q5_K: Type.Q5_1,
    Type.Q6_K: Type.Q8_0,
    Type.IQ4_XS: Type.IQ4_NL,
}
"""What llama.cpp too takes when a row is no multiple of the 256 that these need."""
_KNOWN = (
    _PLAIN | {Type.Q8_0, Type.Q5_0, Type.Q5_1, Type.Q4_0, Type.Q4_1, Type.IQ4_NL} | _FALLBACK.keys()
)


@dataclass(frozen=True, slots=True)
class Quantisation:
    """Which type each matrix of the blocks is stored as."""

    default: Type
    exceptions: Mapping[str, Type]
    """By kind of matrix: ``attn_v``, ``ffn_down`` ..."""

    @classmethod
    def parse(cls, text: str) -> Quantisation:
        """``IQ4_NL attn_v=Q8_0``. Raises :class:`ManifestInvalid` for what cannot be written."""
        default, *rest = text.split() or [""]
        exceptions = {}
        for item in rest:
            kind, _, name = item.partition("=")
            exceptions[kind] = _type(name)
        return cls(_type(default), exceptions)

    def type_of(self, tensor: str, columns: int) -> Type:
        """The type for a tensor, or its stand-in when rows of ``columns`` numbers do not fit it."""
        wanted = self.exceptions.get(tensor.split(".")[2], self.default)
        for candidate in (wanted, _FALLBACK.get(wanted, wanted)):
            if columns % GGML_QUANT_SIZES[candidate][0] == 0:
                return candidate
        return Type.F16


def _type(name: str) -> Type:
    kind = Type.__members__.get(name)
    if kind is None or kind not in _KNOWN:
        raise ManifestInvalid(
            f"cannot quantise to {name!r}; known: {sorted(t.name for t in _KNOWN)}"
        )
    return kind


def dequantise(stored: Bytes, kind: Type) -> Floats:
    """Stored rows, uint8 (rows, row bytes), to numbers (rows, columns)."""
    return np.asarray(dequantize(stored, kind), np.float32)


def quantise(weights: Floats, kind: Type, importance: Floats | None = None) -> Bytes:
    """Numbers (rows, columns) to stored rows, uint8 (rows, row bytes).

    ``importance`` (columns,) weighs the squared error of each column. The same on any number of
    cores: rows are independent.
    """
    weights = np.ascontiguousarray(weights, np.float32)
    if kind == Type.F32:
        return weights.view(np.uint8)
    from llama_cpp._ggml import libggml

    chunk = libggml.ggml_quantize_chunk
    chunk.restype = ctypes.c_size_t
    chunk.argtypes = (ctypes.c_int, *[ctypes.c_void_p] * 2, *[ctypes.c_int64] * 3, ctypes.c_void_p)
    rows, columns = weights.shape
    block, size = GGML_QUANT_SIZES[kind]
    stored = np.empty((rows, columns // block * size), np.uint8)
    by = None
    if importance is not None:
        importance = np.ascontiguousarray(importance, np.float32)
        by = importance.ctypes.data

    def part(start: int, stop: int) -> None:
        source, target = weights[start:stop], stored[start:stop]
        chunk(int(kind), source.ctypes.data, target.ctypes.data, 0, stop - start, columns, by)

    bounds = np.linspace(0, rows, (os.cpu_count() or 1) + 1, dtype=int).tolist()
    with ThreadPoolExecutor() as pool:  # ctypes lets other threads run meanwhile
        list(pool.map(part, bounds[:-1], bounds[1:]))
    return stored
