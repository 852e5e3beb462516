"""Packed weights made plain ahead of their use: the next layer's, while this layer is computed.

With many states a product by the library is faster than one that unpacks on its way, but waits until the
weights have been unpacked. On a stream of its own that takes no time of the layers'; two layers' weights
in 16 bits are all the memory that it needs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch

MANY_STATES = 64
"""From so many on, of all rows together, weights are unpacked ahead."""
_ROOMS = 2


@runtime_checkable
class Unpackable(Protocol):
    """A linear layer over packed weights (rows, columns) that uses ``plain`` ones while it has them."""

    plain: torch.Tensor | None
    rows: int
    columns: int

    def unpack_into(self, room: torch.Tensor) -> torch.Tensor:
        """The plain weights, laid into ``room`` (rows * columns,)."""
        ...


Layer = TypeVar("Layer")


class Ahead:
    """``matrices`` of each layer, in order, all on one device. Not thread-safe, as the layers are not."""

    def __init__(self, matrices: Sequence[Sequence[Unpackable]], dtype: torch.dtype) -> None:
        first: Any = matrices[0][0]
        device = next(iter(first.buffers())).device
        size = max(sum(one.rows * one.columns for one in layer) for layer in matrices)
        self._matrices = matrices
        self._rooms = [torch.empty(size, dtype=dtype, device=device) for _ in range(_ROOMS)]
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def walk(self, layers: Sequence[Layer]) -> Iterator[Layer]:
        """The layers, each to be computed before the next is asked for."""
        ready = self._begin(0)
        for number, layer in enumerate(layers):
            if self._stream is not None:
                torch.cuda.current_stream(self._stream.device).wait_stream(self._stream)
            plain = ready
            if number + 1 < len(layers):
                ready = self._begin(number + 1)
            try:
                for matrix, weights in zip(self._matrices[number], plain, strict=True):
                    matrix.plain = weights
                yield layer
            finally:
                for matrix in self._matrices[number]:
                    matrix.plain = None

    def _begin(self, number: int) -> list[torch.Tensor]:
        """Unpack a layer when what has been asked of the device so far, and may use its room, is done."""
        matrices = self._matrices[number]
        sizes = [one.rows * one.columns for one in matrices]
        pieces = self._rooms[number % _ROOMS][: sum(sizes)].split(sizes)
        if self._stream is None:
            beside: Any = nullcontext()
        else:
            self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
            beside = torch.cuda.stream(self._stream)
        with beside:
            return [one.unpack_into(piece) for one, piece in zip(matrices, pieces, strict=True)]
