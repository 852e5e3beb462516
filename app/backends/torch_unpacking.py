"""Packed weights made plain for many states, beside the steps that leave most of a GPU idle.

With many states a product by the library is faster than one that unpacks on its way. A layer's weights lie
in a row, and one layer's in 16 bits are all the memory that this needs: they are written from when the last
product of the layer before has been launched, by steps that come after it in the same stream.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any, Protocol, TypeAlias, TypeGuard, TypeVar

import torch

from app.backends.torch_steps import Share

MANY_STATES = 96
"""Above so many, of all rows together, a product with packed weights is the slower way (an H200)."""
NARROW = 32
"""In groups of so few columns it is slower for any number of states: 1.5 times (an H200)."""


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
Shares: TypeAlias = Sequence[Share | None]
"""What the steps behind each product of a layer unpack."""


class Unpacking:
    """``layers`` are the matrices of each layer, in the order of their use, a step behind each product.

    Not thread-safe, as they are not.
    """

    beside = True
    """Else a layer is unpacked before it, in a launch of its own."""

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
        self.share_out([1] * len(layers[0]))

    def share_out(self, weights: Sequence[int]) -> None:
        """How much of a layer each step unpacks, where what comes next does not need it earlier.

        The first weight is that of the step before the layer, the others are those of steps within.
        """
        parts = [
            self._shares(*each, weights)
            for each in zip(self._matrices, self._codes, self._scales, strict=True)
        ]
        self._first = parts[0][0]
        following = [*(part[0] for part in parts[1:]), None]
        self._steps = [[*part[1:], after] for part, after in zip(parts, following, strict=True)]

    def _shares(
        self,
        matrices: Sequence[Unpackable],
        codes: torch.Tensor,
        scales: torch.Tensor,
        weights: Sequence[int],
    ) -> list[Share | None]:
        """A layer's codes in as many parts as it has matrices, each part with its matrix at the latest."""
        group = len(codes) // len(scales)
        needed = accumulate(matrix.codes.numel() for matrix in matrices)
        found: list[Share | None] = []
        begin = 0
        for need, weight in zip(needed, accumulate(weights), strict=True):
            even = len(codes) * weight // sum(weights) // group * group
            end = max(need, even)
            part = slice(begin, end)
            grouped = scales[begin // group : end // group]
            found.append(Share(codes[part], grouped, self.room[part]) if begin < end else None)
            begin = end
        return found

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

    def pays(self, states: int) -> bool:
        """Whether products with packed weights would be slower, for so many states of all rows."""
        group = len(self._codes[0]) // len(self._scales[0])
        return group <= NARROW or states > MANY_STATES

    @property
    def first(self) -> Share | None:
        """To be unpacked by the step before the first layer."""
        return self._first if self.beside else None

    def walk(self, layers: Sequence[Layer]) -> Iterator[tuple[Layer, Shares]]:
        """The layers, each with its plain weights until the next is asked for.

        The step behind each of its products has to unpack a share: what products after it need.
        """
        every = zip(layers, self._matrices, self._codes, self._scales, self._steps, strict=True)
        for layer, matrices, codes, scales, shares in every:
            room = self.room[: len(codes)]
            if not self.beside:
                matrices[0].unpack(codes, scales, room)
            parts = room.split([matrix.codes.numel() for matrix in matrices])
            try:
                for matrix, part in zip(matrices, parts, strict=True):
                    matrix.plain = part.view(matrix.codes.shape)
                yield layer, shares if self.beside else [None] * len(shares)
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
