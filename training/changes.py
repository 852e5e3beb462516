"""What tuning may change of a matrix: by factors of a low rank (LoRA, Hu et al. 2021), or every number."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

Floats = npt.NDArray[np.float32]
_LEAST_INPUT = 1e-3
"""Of the mean squared input: an input that was never seen must not be divided by zero."""


class Change(Protocol):
    """What is added to a frozen matrix (out, in)."""

    parameters: list[torch.nn.Parameter]

    def to(self, weight: torch.Tensor) -> torch.Tensor:
        """``weight`` with the change."""
        ...

    def gradients(self, gradient: torch.Tensor) -> list[torch.Tensor]:
        """Of :attr:`parameters`, from that of the changed matrix."""
        ...

    def factors(self) -> tuple[Floats, Floats]:
        """``(a, b)``, of which ``b @ a`` is the change or the nearest to it."""
        ...


class LowRank:
    """``scale * b @ a``, of ``a`` (rank, in) and ``b`` (out, rank)."""

    def __init__(self, a: torch.Tensor, b: torch.Tensor, scale: float) -> None:
        self.parameters = [torch.nn.Parameter(a), torch.nn.Parameter(b)]
        self._scale = scale

    def to(self, weight: torch.Tensor) -> torch.Tensor:
        a, b = (parameter.data for parameter in self.parameters)
        return torch.addmm(weight, b, a, alpha=self._scale)

    def gradients(self, gradient: torch.Tensor) -> list[torch.Tensor]:
        a, b = (parameter.data for parameter in self.parameters)
        return [self._scale * (b.T @ gradient), self._scale * (gradient @ a.T)]

    def factors(self) -> tuple[Floats, Floats]:
        a, b = (parameter.detach().float().cpu().numpy().copy() for parameter in self.parameters)
        return a, b * np.float32(self._scale)


def fresh(rank: int, scale: float, seed: int) -> Callable[[str, torch.Tensor], LowRank]:
    """Changes that change nothing yet."""
    generator = torch.Generator().manual_seed(seed)

    def change(_: str, weight: torch.Tensor) -> LowRank:
        out, width = weight.shape
        a = torch.randn(rank, width, generator=generator) / math.sqrt(width)
        return LowRank(a.to(weight.device), torch.zeros(out, rank, device=weight.device), scale)

    return change


class Whole:
    """Any change, begun at ``b @ a``; its factors are the best of a ``rank``.

    ``squared``, the mean squared inputs (in,), tells what changes the outputs most.
    """

    def __init__(
        self, a: torch.Tensor, b: torch.Tensor, rank: int, squared: Floats | None = None
    ) -> None:
        self.parameters = [torch.nn.Parameter(b @ a)]
        self._rank = rank
        self._inputs = None if squared is None else torch.from_numpy(input_scale(squared)).to(a)

    def to(self, weight: torch.Tensor) -> torch.Tensor:
        return weight + self.parameters[0].data

    def gradients(self, gradient: torch.Tensor) -> list[torch.Tensor]:
        return [gradient]

    @torch.no_grad()
    def factors(self) -> tuple[Floats, Floats]:
        change = self.parameters[0].data.double()
        inputs = change.new_ones(change.shape[1]) if self._inputs is None else self._inputs
        weighed = change * inputs
        if weighed.shape[0] < weighed.shape[1]:
            _, left = torch.linalg.eigh(weighed @ weighed.T)
            left = left[:, -self._rank :]
            a, b = left.T @ weighed, left
        else:
            _, right = torch.linalg.eigh(weighed.T @ weighed)
            right = right[:, -self._rank :]
            a, b = right.T, weighed @ right
        return (a / inputs).float().cpu().numpy(), b.float().cpu().numpy()


def input_scale(squared: Floats) -> Floats:
    """What each input (in,) weighs in a change's size, from mean squares."""
    weights = np.maximum(squared / squared.mean(), _LEAST_INPUT)
    return np.asarray(np.sqrt(weights), np.float32)
