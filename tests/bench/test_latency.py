"""The arithmetic of percentiles and rounds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.bench.latency import Latencies, percentile, ratio_of_rounds

TIMES = st.lists(st.floats(0, 100), min_size=1, max_size=300)


def test_percentile_is_a_value_that_was_measured() -> None:
    """Nearest rank: of 100 values the 50th, the 99th, the last."""
    values = [float(n) for n in range(1, 101)][::-1]
    assert [percentile(values, share) for share in (0.5, 0.95, 0.99, 0.999)] == [50, 95, 99, 100]
    assert percentile([7.0], 0.5) == 7.0


@given(TIMES, st.floats(0.01, 1))
def test_percentile_bounds_its_share(values: list[float], share: float) -> None:
    """At least that share of the values is not above it."""
    bound = percentile(values, share)
    assert bound in values
    assert sum(value <= bound for value in values) >= share * len(values) - 1e-6


def test_latencies_are_milliseconds() -> None:
    """Seconds in, milliseconds out."""
    found = Latencies.of([0.010, 0.020, 0.030])
    assert (found.count, found.p50, found.p999) == (3, 20.0, 30.0)


def test_ratio_is_taken_round_by_round() -> None:
    """A machine that is ten times slower in one round leaves the ratio alone."""
    found = ratio_of_rounds([2.0, 20.0, 3.0], [1.0, 10.0, 2.0])
    assert (found.median, found.least, found.greatest) == (2.0, 1.5, 2.0)
    with pytest.raises(ValueError, match="zip"):
        ratio_of_rounds([1.0], [1.0, 2.0])
