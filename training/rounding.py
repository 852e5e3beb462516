"""Weights rounded while they are tuned, as 4-bit files will have them.

A tuned model that is quantised afterwards loses what depended on the digits that are cut. Tuned with
its weights rounded in every step, while what is learned goes to the weights as they are (a
straight-through estimate, Bengio et al. 2013; for language models LLM-QAT, Liu et al. 2023), it comes
to depend on them less.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import numpy as np
import numpy.typing as npt
import torch
from gguf import GGMLQuantizationType

from app.artifacts.four_bits import BLOCK, CODES
from app.backends.gguf_quantise import Quantisation

_TRIES = 7
"""Codes on either side of the lowest that a block's largest number may get, as llama.cpp tries them."""
_NOTHING = 1e-12
"""In the place of a block's largest number where all are 0."""
_KEPT = 100
"""Uses of a matrix for which its scales stay: weights move little meanwhile."""


class Rounding:
    """Matrices (rows, columns) rounded to what ``quantisation`` stores them as; only IQ4_NL is rounded.

    Other types of the recipe keep 8 bits or more, which no model notices. ``importance``, the mean squared
    inputs (columns,) by tensor, weighs errors as it does for the real quantiser.
    """

    def __init__(
        self, quantisation: str, importance: Mapping[str, npt.NDArray[np.float32]] | None = None
    ) -> None:
        self._quantisation = Quantisation.parse(quantisation)
        self._importance = importance or {}
        self._scales: dict[str, tuple[int, torch.Tensor]] = {}

    def __call__(self, name: str, weight: torch.Tensor) -> torch.Tensor:
        """``weight`` of the tensor ``name``, float32, as it would be read back."""
        kind = self._quantisation.type_of(name, weight.shape[1])
        if kind != GGMLQuantizationType.IQ4_NL:
            return weight
        blocks = weight.reshape(-1, BLOCK)
        used, scale = self._scales.get(name, (_KEPT, weight))
        if used >= _KEPT:
            used, scale = 0, best_scales(blocks, self._weights(name, weight))
        self._scales[name] = used + 1, scale
        return (nearest(blocks / scale) * scale).view_as(weight)

    def _weights(self, name: str, weight: torch.Tensor) -> torch.Tensor | None:
        """Of the columns, (1, blocks a row, 32) for blocks that lie row by row."""
        found = self._importance.get(name)
        return None if found is None else torch.from_numpy(found).to(weight).view(1, -1, BLOCK)


def nearest(numbers: torch.Tensor) -> torch.Tensor:
    """The nearest of :data:`CODES` to each number."""
    codes, between = _tables(numbers.device)
    return codes[torch.bucketize(numbers, between, out_int32=True)]


@cache
def _tables(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """The codes, and the middles between them. Kept: a copy to a GPU waits for all that it has to do."""
    codes = torch.tensor(CODES, dtype=torch.float32, device=device)
    return codes, (codes[1:] + codes[:-1]) / 2


def best_scales(blocks: torch.Tensor, columns: torch.Tensor | None = None) -> torch.Tensor:
    """Scales (blocks, 1) under which blocks (blocks, 32) lose least; never 0.

    With the weights of ``columns`` (1, blocks a row, 32) an error counts as llama.cpp has it count: more in
    these columns, and more where the number itself is large (``quantize_row_iq4_nl_impl``).
    """
    largest = blocks.gather(1, blocks.abs().argmax(1, keepdim=True))
    largest = torch.where(largest == 0, torch.full_like(largest, _NOTHING), largest)
    best, least = largest / CODES[0], torch.full_like(largest, torch.inf)
    counts = torch.ones_like(blocks)
    if columns is not None:
        squares = blocks.square()
        counts = (2 * squares.mean(1, keepdim=True) + squares).sqrt()
        counts = (counts.view(-1, *columns.shape[1:]) * columns).view_as(blocks)
    for code in (-CODES[0], *range(CODES[0] - _TRIES, CODES[0] + _TRIES + 1)):
        codes = nearest(blocks * (code / largest))
        size = (counts * codes * codes).sum(1, keepdim=True).clamp(min=_NOTHING)
        scale = (counts * codes * blocks).sum(1, keepdim=True) / size
        lost = (counts * (blocks - codes * scale).square()).sum(1, keepdim=True)
        better = (lost < least) & (scale != 0)
        best, least = torch.where(better, scale, best), torch.where(better, lost, least)
    return best
