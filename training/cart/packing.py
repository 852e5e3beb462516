"""Rows about one catalog, read together: the catalog is most of what a row costs, and is computed once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from training.cart.encoding import EncodedCart
from training.gemma import Packing, padded

_EVEN = 16
"""Lengths are padded to a multiple of this where texts are packed: masks are read in whole words."""

_WINDOW = 32
"""Batches that are drawn together and cut by length."""


@dataclass(frozen=True, slots=True)
class CartGroup:
    """Rows that begin with the same catalog."""

    rows: tuple[EncodedCart, ...]

    @property
    def beginning(self) -> int:
        """Tokens of the catalog, and what stands before it."""
        return self.rows[0].products[-1] + 1

    @property
    def length(self) -> int:
        """Tokens of all rows, those of the catalog once."""
        return self.beginning + sum(len(row.tokens) - self.beginning for row in self.rows)


def together(rows: Iterable[EncodedCart]) -> list[CartGroup]:
    """Rows with the same catalog as one group, in the order of their first."""
    groups: dict[tuple[int, ...], list[EncodedCart]] = {}
    for row in rows:
        groups.setdefault(row.tokens[: row.products[-1] + 1], []).append(row)
    return [CartGroup(tuple(group)) for group in groups.values()]


@dataclass(frozen=True, slots=True)
class Laid:
    """Groups as a batch. ``rows`` are all of them; ``places`` tells for each its group and its shift.

    A position of the row behind the catalog is found in its group's tokens the shift further on.
    """

    ids: torch.Tensor
    lengths: torch.Tensor
    packing: Packing | None
    rows: tuple[EncodedCart, ...]
    places: tuple[tuple[int, int], ...]


def lay(groups: Sequence[CartGroup], device: torch.device | str) -> Laid:
    """Groups of one row each are laid out plainly, so that attention needs no mask."""
    rows = tuple(row for group in groups for row in group.rows)
    if len(rows) == len(groups):
        ids, lengths = padded([row.tokens for row in rows], device)
        return Laid(ids, lengths, None, rows, tuple((i, 0) for i in range(len(rows))))
    longest = -(-max(group.length for group in groups) // _EVEN) * _EVEN
    ids_, positions, parts = (np.zeros((len(groups), longest), np.int64) for _ in range(3))
    places = []
    for number, group in enumerate(groups):
        at = beginning = group.beginning
        ids_[number, :at] = group.rows[0].tokens[:at]
        positions[number, :at] = np.arange(at)
        for part, row in enumerate(group.rows, start=1):
            end = at + len(row.tokens) - beginning
            ids_[number, at:end] = row.tokens[beginning:]
            positions[number, at:end] = np.arange(beginning, len(row.tokens))
            parts[number, at:end] = part
            places.append((number, at - beginning))
            at = end
        parts[number, at:] = len(group.rows) + 1  # padding sees the catalog and itself
    packing = Packing(*(torch.from_numpy(t).to(device) for t in (positions, parts)))
    lengths = torch.tensor([group.length for group in groups]).to(device)
    return Laid(torch.from_numpy(ids_).to(device), lengths, packing, rows, tuple(places))


def batches(groups: Sequence[CartGroup], size: int, seed: int) -> Iterator[list[CartGroup]]:
    """Endless batches of ``size`` groups; neighbours have like lengths, for less padding.

    Groups that are added meanwhile are drawn from the next round on.
    """
    rng = np.random.default_rng(seed)
    while True:
        order = rng.permutation(len(groups))
        window = size * _WINDOW
        for start in range(0, len(order) - size + 1, window):
            pool = sorted(
                (groups[i] for i in order[start : start + window]), key=lambda group: group.length
            )
            drawn = [pool[i : i + size] for i in range(0, len(pool) - size + 1, size)]
            for number in rng.permutation(len(drawn)):
                batch = drawn[number]
                # One that is cut must not always lose its longest groups.
                yield [batch[i] for i in rng.permutation(size)]
