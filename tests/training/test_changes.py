"""What tuning may change of a matrix."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytestmark = [pytest.mark.train, pytest.mark.usefixtures("one_thread")]
torch = pytest.importorskip("torch")

from training.averaging import average  # noqa: E402  # torch may be missing
from training.changes import Change, LowRank, Whole  # noqa: E402
from training.stage_one import widened  # noqa: E402
from training.tuning import Tuned  # noqa: E402

OUT, IN, RANK = 12, 20, 3


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def started(kind: str, **options: Any) -> Change:
    a, b = drawn(RANK, IN), drawn(OUT, RANK, seed=1)
    return LowRank(a, b, 1.0) if kind == "factors" else Whole(a, b, **{"rank": RANK} | options)


@pytest.mark.parametrize("kind", ["factors", "all"])
def test_a_change_begins_where_an_adapter_ended(kind: str):
    """In the weights, and in what is handed out."""
    weight, change = drawn(OUT, IN, seed=2), started(kind)
    expected = drawn(OUT, RANK, seed=1) @ drawn(RANK, IN)
    torch.testing.assert_close(change.to(weight), weight + expected)
    a, b = change.factors()
    assert (a.shape, b.shape) == ((RANK, IN), (OUT, RANK))
    np.testing.assert_allclose(b @ a, expected.numpy(), atol=1e-4)


@pytest.mark.parametrize("kind", ["factors", "all"])
def test_gradients_are_those_of_autograd(kind: str):
    """Of whatever the change is made of."""
    change, weight, upstream = started(kind), drawn(OUT, IN, seed=2), drawn(OUT, IN, seed=3)
    held = [p.data.clone().requires_grad_() for p in change.parameters]
    (weight + (held[1] @ held[0] if len(held) == 2 else held[0])).backward(upstream)
    for found, leaf in zip(change.gradients(upstream), held, strict=True):
        torch.testing.assert_close(found, leaf.grad)


@pytest.mark.parametrize("wide", [True, False])
def test_what_is_kept_of_all_numbers_is_the_best_of_its_rank(wide: bool):
    """By what it changes of outputs, as an average is cut (the same inputs, the same cut)."""
    rows, columns = (OUT, IN) if wide else (IN, OUT)
    a, b = drawn(8, columns), drawn(rows, 8, seed=1)
    squared = np.exp(drawn(columns, seed=4).numpy())
    kept_a, kept_b = Whole(a, b, 4, squared).factors()
    tuned = Tuned({"w": (a.numpy(), b.numpy())}, [])
    wanted_a, wanted_b = average([(1.0, tuned)], 4, {"w": squared}).adapter["w"]
    np.testing.assert_allclose(kept_b @ kept_a, wanted_b @ wanted_a, atol=1e-3)


def test_a_wider_adapter_changes_the_same_at_first():
    """What is added is drawn by the seed, and waits for its other half."""
    given = {"w": (drawn(RANK, IN).numpy(), drawn(OUT, RANK, seed=1).numpy())}
    (a, b), (other, _) = widened(given, 5, 1)["w"], widened(given, 5, 2)["w"]
    assert (a.shape, b.shape) == ((5, IN), (OUT, 5))
    assert np.array_equal(b @ a, given["w"][1] @ given["w"][0])
    assert a[RANK:].any()
    assert not np.array_equal(a[RANK:], other[RANK:])
    assert widened(given, 2, 1)["w"][0].shape == (RANK, IN)
