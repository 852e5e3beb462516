"""Rows of unlike lengths in one tensor: padded on the right, and without what lies between."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True, slots=True)
class Real:
    """Where in padded rows (n, t) tokens stand, ``places`` (N,) of the rows in one: what lies between is
    not worth computing.
    """

    places: torch.Tensor
    rows: int
    length: int

    @staticmethod
    def of(ids: torch.Tensor, lengths: torch.Tensor) -> Real:
        there = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
        return Real(there.flatten().nonzero()[:, 0], *ids.shape)

    def taken(self, padded: torch.Tensor) -> torch.Tensor:
        """(n, t, ...) -> (N, ...)

        Its gradient is added up in one go; that of an index in brackets is sorted first, on a GPU.
        """
        return padded.flatten(0, 1).index_select(0, self.places)

    def spread(self, tokens: torch.Tensor) -> torch.Tensor:
        """(N, ...) -> (n, t, ...), zeros in between."""
        room = tokens.new_zeros(self.rows * self.length, *tokens.shape[1:])
        return room.index_copy(0, self.places, tokens).unflatten(0, (self.rows, self.length))


@dataclass(frozen=True, slots=True)
class Begun:
    """Right-padded ``ids`` (n, t) with ``lengths`` (n,)."""

    ids: torch.Tensor
    lengths: torch.Tensor


@dataclass(frozen=True, slots=True)
class Behind:
    """Texts behind each of n beginnings, one after the other.

    Right-padded ``ids`` (n, s) hold ``sizes`` (n,) tokens; ``texts`` (n, s) tells by number which text a
    token is of, -1 for padding, and ``places`` (n, s) where it stands, the beginning counted.
    """

    ids: torch.Tensor
    sizes: torch.Tensor
    texts: torch.Tensor
    places: torch.Tensor


def padded(
    rows: Sequence[Sequence[int]],
    device: torch.device | str,
    *,
    multiple: int = 1,
    filling: int = 0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows (n, longest), filled up on the right to a ``multiple``, and lengths (n,)."""
    lengths = [len(row) for row in rows]
    longest = max(lengths)
    ids = np.full((len(rows), longest + -longest % multiple), filling, np.int64)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
    return torch.from_numpy(ids).to(device), torch.tensor(lengths).to(device)
