"""Packed weights made plain for many states, those of a whole layer in one launch.

With many states a product by the library is faster than one that unpacks on its way. Weights that lie in
a row are unpacked in one step, and one layer's in 16 bits are all the memory that it needs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, TypeGuard, TypeVar

import torch

MANY_STATES = 96
"""Above so many, of all rows together, a product with packed weights is the slower way (an H200)."""


class Unpackable(Protocol):
    """A linear layer over ``codes`` (rows, columns) that uses ``plain`` weights while it has them.

    ``row_scales`` (rows, groups) has one scale for as many codes in a row.
    """

    plain: torch.Tensor | None
    codes: torch.Tensor
    row_scales: torch.Tensor

    @staticmethod
    def unpack(codes: torch.Tensor, scales: torch.Tensor, out: torch.Tensor) -> None:
        """Write the plain weights of codes and scales that lie in a row to ``out``, as many."""
        ...


Layer = TypeVar("Layer")


class Unpacking:
    """``layers`` are the matrices of each layer. Not thread-safe, as they are not."""

    def __init__(self, layers: Sequence[Sequence[Unpackable]], dtype: torch.dtype) -> None:
        """Lays each layer's codes into one piece of memory, of which its matrices keep their parts."""
        self._matrices = layers
        self._codes, self._scales = [], []
        for matrices in layers:
            codes, parts = _side_by_side([matrix.codes for matrix in matrices])
            scales, scale_parts = _side_by_side([matrix.row_scales for matrix in matrices])
            for matrix, part, scale_part in zip(matrices, parts, scale_parts, strict=True):
                matrix.codes, matrix.row_scales = part, scale_part
            self._codes.append(codes)
            self._scales.append(scales)
        largest = max(map(len, self._codes))
        self.room = torch.empty(largest, dtype=dtype, device=self._codes[0].device)
        """For the plain weights of one layer."""

    @staticmethod
    def of(layers: Sequence[Sequence[torch.nn.Module]], dtype: torch.dtype) -> Unpacking | None:
        """None where some matrix cannot be unpacked, or a layer's have groups of unlike sizes."""
        found: list[list[Unpackable]] = []
        for matrices in layers:
            packed = [matrix for matrix in matrices if _is_unpackable(matrix)]
            groups = {matrix.codes.numel() / matrix.row_scales.numel() for matrix in packed}
            if len(packed) < len(matrices) or len(groups) != 1:
                return None
            found.append(packed)
        return Unpacking(found, dtype)

    def walk(self, layers: Sequence[Layer]) -> Iterator[Layer]:
        """The layers, each with its plain weights until the next is asked for."""
        every = zip(layers, self._matrices, self._codes, self._scales, strict=True)
        for layer, matrices, codes, scales in every:
            room = self.room[: len(codes)]
            matrices[0].unpack(codes, scales, room)
            parts = room.split([matrix.codes.numel() for matrix in matrices])
            try:
                for matrix, part in zip(matrices, parts, strict=True):
                    matrix.plain = part.view(matrix.codes.shape)
                yield layer
            finally:
                for matrix in matrices:
                    matrix.plain = None


def _is_unpackable(matrix: Any) -> TypeGuard[Unpackable]:
    """Asked of the object: from Python 3.12 on ``isinstance`` looks for a protocol's members in classes
    alone, and a module's tensors are not there.
    """
    return all(hasattr(matrix, name) for name in ("plain", "codes", "row_scales", "unpack"))


def _side_by_side(tensors: Sequence[torch.Tensor]) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """All numbers in one row, and the tensors as parts of it."""
    row = torch.cat([tensor.flatten() for tensor in tensors])
    parts = row.split([tensor.numel() for tensor in tensors])
    return row, [part.view(t.shape) for part, t in zip(parts, tensors, strict=True)]
