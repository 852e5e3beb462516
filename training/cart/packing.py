"""Rows about one catalog, read together: the catalog is most of what a row costs, and is computed once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from training.cart.encoding import EncodedCart
from training.padding import Begun, Behind, padded

_EVEN = 8
"""Lengths are multiples of it: masks are read in whole words."""
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
    """A batch: catalogs, and their texts ``behind`` them.

    Of each of the ``rows``, ``groups`` (m,) tells the catalog and ``starts`` (m,) where its text begins
    among those of the catalog.
    """

    catalogs: Begun
    behind: Behind
    rows: tuple[EncodedCart, ...]
    groups: torch.Tensor
    starts: torch.Tensor


def lay(groups: Sequence[CartGroup], device: torch.device | str) -> Laid:
    catalogs: list[Sequence[int]] = []
    ids: list[list[int]] = []
    texts: list[list[int]] = []
    places: list[list[int]] = []
    members, starts = [], []
    for number, group in enumerate(groups):
        beginning = group.rows[0].beginning
        catalogs.append(group.rows[0].tokens[:beginning])
        for column in (ids, texts, places):
            column.append([])
        for text, row in enumerate(group.rows):
            members.append(number)
            starts.append(len(ids[-1]))
            ids[-1] += row.tokens[beginning:]
            texts[-1] += [text] * (len(row.tokens) - beginning)
            places[-1] += range(beginning, len(row.tokens))
    behind = Behind(
        *padded(ids, device, multiple=_EVEN),
        padded(texts, device, multiple=_EVEN, filling=-1)[0],
        padded(places, device, multiple=_EVEN)[0],
    )
    return Laid(
        Begun(*padded(catalogs, device, multiple=_EVEN)),
        behind,
        tuple(row for group in groups for row in group.rows),
        torch.tensor(members).to(device),
        torch.tensor(starts).to(device),
    )


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
