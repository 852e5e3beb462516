"""Numbers in four bits: 32 of them share a scale, and each is one of sixteen that lie densest around 0.

The numbers are llama.cpp's for its type IQ4_NL (ggml-common.h, ``kvalues_iq4nl``); how they lie in memory
is our own, row by row, two to a byte, the first in the low half.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

CODES = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
BLOCK = 32
"""Numbers that share a scale."""
_TRIED = (-127, -134, -120, 113, 106, 120)
"""What a block's largest number may become: with another scale the others may fit better."""
_NOTHING = np.float32(1e-12)
_AT_ONCE = 16384
"""Blocks that are packed together: their numbers stay in the cache."""


def pack(rows: Floats) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float16]]:
    """Codes (n, width / 2) and scales (n, width / 32) of ``rows`` (n, width), at most about 1 in size.

    Raises ValueError for a width that no whole number of blocks makes up.
    """
    count, width = rows.shape
    if width % BLOCK:
        raise ValueError(f"rows of {width} numbers do not make blocks of {BLOCK}")
    blocks = rows.reshape(-1, BLOCK)
    pieces = [_pack(blocks[i : i + _AT_ONCE]) for i in range(0, len(blocks), _AT_ONCE)]
    codes, scales = (np.concatenate(part) for part in zip(*pieces, strict=True))
    pairs = codes.reshape(count, -1, 2)
    return pairs[:, :, 0] | pairs[:, :, 1] << 4, scales.reshape(count, -1)


def unpack(codes: npt.NDArray[np.uint8], scales: npt.NDArray[np.float16]) -> Floats:
    """The rows (n, width) that :func:`pack` was given, nearly."""
    known = np.array(CODES, np.float32)
    pairs = np.stack([known[codes & 15], known[codes >> 4]], axis=2)
    blocks = pairs.reshape(*scales.shape, BLOCK) * scales[:, :, None].astype(np.float32)
    return blocks.reshape(len(codes), -1)


def _pack(blocks: Floats) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float16]]:
    """Of each block the scale, of those tried, under which least is lost."""
    known = np.array(CODES, np.float32)
    between = (known[1:] + known[:-1]) / 2
    largest = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=1)[:, None], axis=1)
    largest = np.where(largest == 0, _NOTHING, largest)
    best = np.zeros(blocks.shape, np.uint8)
    scales = np.zeros(largest.shape, np.float16)
    least = np.full(largest.shape, np.inf, np.float32)
    for code in _TRIED:
        found = np.searchsorted(between, blocks * (code / largest)).astype(np.uint8)
        said = known[found]
        scale = (said * blocks).sum(1, keepdims=True) / (said * said).sum(1, keepdims=True)
        scale = scale.astype(np.float16)
        lost = np.square(blocks - said * scale.astype(np.float32)).sum(1, keepdims=True)
        better = lost < least
        best = np.where(better, found, best)
        scales, least = np.where(better, scale, scales), np.where(better, lost, least)
    return best, scales
