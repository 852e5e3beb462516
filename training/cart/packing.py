"""Rows about one catalog, read together: the catalog is most of what a row costs, and is computed once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from training.cart.encoding import EncodedCart
from training.gemma import padded

_EVEN = 8
_WINDOW = 32
"""Batches that are drawn together and cut by length."""


@dataclass(frozen=True, slots=True)
class CartGroup:
    """Rows that begin with the same catalog."""

    rows: tuple[EncodedCart, ...]

    @property
    def length(self) -> int:
        """Tokens of all rows, those of the catalog once."""
        beginning = self.rows[0].beginning
        return beginning + sum(len(row.tokens) - beginning for row in self.rows)


def together(rows: Iterable[EncodedCart]) -> list[CartGroup]:
    """Rows with the same catalog as one group, in the order of their first."""
    groups: dict[tuple[int, ...], list[EncodedCart]] = {}
    for row in rows:
        groups.setdefault(row.tokens[: row.beginning], []).append(row)
    return [CartGroup(tuple(group)) for group in groups.values()]


@dataclass(frozen=True, slots=True)
class Laid:
    """A batch: catalogs (n, t) with their ``lengths``, and what stands ``behind`` them, ``texts`` (m, s)
    with their ``sizes``.

    ``rows`` are those of the texts.
    """

    catalogs: torch.Tensor
    lengths: torch.Tensor
    texts: torch.Tensor
    sizes: torch.Tensor
    behind: torch.Tensor
    rows: tuple[EncodedCart, ...]


def lay(groups: Sequence[CartGroup], device: torch.device | str) -> Laid:
    rows = tuple(row for group in groups for row in group.rows)
    begun = [group.rows[0].beginning for group in groups]
    behind = [number for number, group in enumerate(groups) for _ in group.rows]
    catalogs = [group.rows[0].tokens[:end] for group, end in zip(groups, begun, strict=True)]
    texts = [row.tokens[begun[number] :] for row, number in zip(rows, behind, strict=True)]
    return Laid(
        _even(catalogs).to(device),
        torch.tensor(begun).to(device),
        _even(texts).to(device),
        torch.tensor([len(text) for text in texts]).to(device),
        torch.tensor(behind).to(device),
        rows,
    )


def _even(rows: Sequence[Sequence[int]]) -> torch.Tensor:
    """As :func:`training.gemma.padded`, up to a multiple of eight: masks are read in whole words."""
    ids, _ = padded(rows, "cpu")
    return torch.nn.functional.pad(ids, (0, -ids.shape[1] % _EVEN))


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
