"""Percentiles, and the arithmetic of rounds that are measured side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least ``share`` of ``values`` do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered) - 1e-9) - 1)]


@dataclass(frozen=True, slots=True)
class Latencies:
    """Of one kind of call, in milliseconds."""

    count: int
    p50: float
    p95: float
    p99: float
    p999: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Latencies:
        """``seconds`` must not be empty."""
        ms = [value * 1e3 for value in seconds]
        return cls(len(ms), *(percentile(ms, share) for share in (0.5, 0.95, 0.99, 0.999)))


@dataclass(frozen=True, slots=True)
class Ratio:
    """Of two things measured in turn: the median of the rounds' ratios, and their extremes."""

    median: float
    least: float
    greatest: float


def ratio_of_rounds(above: Sequence[float], below: Sequence[float]) -> Ratio:
    """Round by round, so that a slow minute of the machine counts on both sides."""
    ratios = [a / b for a, b in zip(above, below, strict=True)]
    return Ratio(median(ratios), min(ratios), max(ratios))
