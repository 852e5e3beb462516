"""Static shapes: the batch sizes and lengths that a decoder is run at, and how messages are laid into them.

A row is padded on the right, which no earlier token sees. A GPU that has recorded a shape once can
replay it without being told every step anew, so there are few shapes, and any batch fits into some.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

SHORTEST = 16


@dataclass(frozen=True, slots=True)
class Pass:
    """Sequences that are computed together: ``places`` in the batch, padded to ``rows`` x ``length``."""

    places: tuple[int, ...]
    rows: int
    length: int

    def halves(self) -> tuple[Pass, Pass]:
        """The same sequences in two passes, for where one is too large."""
        middle = len(self.places) // 2
        left, right = self.places[:middle], self.places[middle:]
        return Pass(left, step(len(left)), self.length), Pass(right, step(len(right)), self.length)


@dataclass(frozen=True, slots=True)
class Shapes:
    """``longest`` tokens are foreseen in a row, and ``cells`` (rows x length) in a pass.

    Longer rows are computed too, each in a pass of its own, but their shape is not among :meth:`all`.
    """

    max_rows: int
    longest: int
    cells: int

    def plan(self, lengths: Sequence[int]) -> list[Pass]:
        """Passes that hold rows of these lengths (in tokens), like lengths together."""
        order = sorted(range(len(lengths)), key=lambda place: -lengths[place])
        passes = []
        while order:
            length = step(max(lengths[order[0]], SHORTEST))
            count = min(len(order), self._rows_of(length))
            passes.append(Pass(tuple(order[:count]), min(step(count), self.max_rows), length))
            order = order[count:]
        return passes

    def all(self) -> Iterator[tuple[int, int]]:
        """Every shape that :meth:`plan` makes of foreseen rows, the largest first."""
        lengths = list(_steps(SHORTEST, step(max(self.longest, SHORTEST))))
        shapes = [
            (rows, length)
            for length in lengths
            for rows in _steps(1, self.max_rows)
            if rows <= self._rows_of(length)
        ]
        yield from sorted(shapes, key=lambda shape: -shape[0] * shape[1])

    def _rows_of(self, length: int) -> int:
        return max(r for r in _steps(1, self.max_rows) if r == 1 or r * length <= self.cells)


def step(value: int) -> int:
    """The least of 1, 2, 3, 4, 6, 8, 12, 16 ... that is not below ``value``: at most a third is padding."""
    power = 1 << (value - 1).bit_length()
    between = power // 4 * 3
    return between if value <= between else power


def _steps(least: int, most: int) -> Iterator[int]:
    """Steps from ``least`` up to ``most``, which is the last one whether it is a step or not."""
    value = least
    while value < most:
        yield value
        value = step(value + 1)
    yield most
