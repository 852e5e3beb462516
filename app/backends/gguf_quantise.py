"""Numbers to GGUF blocks and back.

llama.cpp's own ``ggml_quantize_chunk`` does every type but Q4_0, where a search over 13 block scales
makes a smaller error than llama.cpp's rounding by the largest value: a third less on bare weights, a
tenth less after an adapter was added (squared error, Gemma-3-270M), for two seconds more.
"""

from __future__ import annotations

import ctypes
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

from app.backends.gguf_file import Bytes
from app.errors import ManifestInvalid

Floats = npt.NDArray[np.float32]
Type: TypeAlias = GGMLQuantizationType

_FALLBACK = {
    Type.Q2_K: Type.Q4_0,
    Type.Q3_K: Type.Q4_0,
    Type.Q4_K: Type.Q5_0,
    Type.Q5_K: Type.Q5_1,
    Type.Q6_K: Type.Q8_0,
    Type.IQ4_XS: Type.IQ4_NL,
}
"""What llama.cpp too takes when a row is no multiple of the 256 that a K-quant needs."""

_PLAIN = {Type.F32, Type.F16, Type.BF16, Type.Q8_0, Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1}
_KNOWN = _PLAIN | set(_FALLBACK) | {Type.IQ4_NL}

_SCALES = -np.linspace(6.4, 9.6, 13, dtype=np.float32)
"""Candidates for the level that the largest value of a Q4_0 block is mapped to; -8 is llama.cpp's."""
_BLOCKS_AT_ONCE = 4096


def block_type(name: str, row: int) -> Type:
    """The type a recipe names, or its stand-in when rows of ``row`` numbers do not fit it.

    Raises :class:`ManifestInvalid` for a name that this version cannot write.
    """
    wanted = Type.__members__.get(name)
    if wanted is None or wanted not in _KNOWN:
        raise ManifestInvalid(
            f"cannot quantise to {name!r}; known: {sorted(t.name for t in _KNOWN)}"
        )
    for candidate in (wanted, _FALLBACK.get(wanted), Type.F16):
        if candidate is not None and row % GGML_QUANT_SIZES[candidate][0] == 0:
            return candidate
    raise AssertionError("F16 fits every row")


def dequantise(stored: Bytes, kind: Type) -> Floats:
    """Stored rows, uint8 (rows, row bytes), to numbers (rows, n)."""
    return np.asarray(dequantize(stored, kind), np.float32)


def quantise(weights: Floats, kind: Type) -> Bytes:
    """Numbers (rows, n) to stored rows, uint8 (rows, row bytes)."""
    if kind == Type.F32:
        return np.ascontiguousarray(weights).view(np.uint8)
    if kind == Type.Q4_0:
        return _search_q4_0(weights)
    return _ggml_quantise(weights, kind)


def _ggml_quantise(weights: Floats, kind: Type) -> Bytes:
    from llama_cpp._ggml import libggml

    function = libggml.ggml_quantize_chunk
    function.restype = ctypes.c_size_t
    function.argtypes = (
        [ctypes.c_int] + [ctypes.c_void_p] * 2 + [ctypes.c_int64] * 3 + [ctypes.c_void_p]
    )
    weights = np.ascontiguousarray(weights)
    rows, n = weights.shape
    block, size = GGML_QUANT_SIZES[kind]
    stored = np.empty((rows, n // block * size), np.uint8)
    function(int(kind), weights.ctypes.data, stored.ctypes.data, 0, rows, n, None)
    return stored


def _search_q4_0(weights: Floats) -> Bytes:
    """Blocks of 32: a float16 scale, then levels -8..7, two a byte (element i beside i + 16).

    For each candidate the levels are rounded and the scale that fits them best in least squares is
    taken; the candidate with the least squared error wins.
    """
    rows, n = weights.shape
    blocks = weights.reshape(-1, 32)
    stored = np.empty((len(blocks), 18), np.uint8)
    for start in range(0, len(blocks), _BLOCKS_AT_ONCE):
        piece = blocks[start : start + _BLOCKS_AT_ONCE]
        scale = _best_scale(piece).astype(np.float16)
        wide = scale.astype(np.float32)
        inverse = np.divide(1, wide, out=np.zeros_like(wide), where=wide != 0)
        levels = (_levels(piece * inverse[:, None]) + 8).astype(np.uint8)
        out = stored[start : start + len(piece)]
        out[:, :2] = scale[:, None].view(np.uint8)
        out[:, 2:] = levels[:, :16] | (levels[:, 16:] << 4)
    return stored.reshape(rows, n // 32 * 18)


def _best_scale(blocks: Floats) -> Floats:
    """Least-squares scale (blocks,) over all candidates; the error falls by (q.x)^2 / q.q."""
    peak = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=1)[:, None], axis=1)
    peak = np.where(peak == 0, np.float32(1), peak)
    best_gain = np.full(len(blocks), -1, np.float32)
    best_scale = np.zeros(len(blocks), np.float32)
    for level in _SCALES:
        levels = _levels(blocks * (level / peak))
        dot = np.einsum("ij,ij->i", levels, blocks)
        square = np.maximum(np.einsum("ij,ij->i", levels, levels), np.float32(1e-20))
        gain = dot * dot / square
        better = gain > best_gain
        best_gain[better] = gain[better]
        best_scale[better] = (dot / square)[better]
    return best_scale


def _levels(scaled: Floats) -> Floats:
    levels = np.rint(scaled, out=scaled)
    return np.clip(levels, -8, 7, out=levels)
