from __future__ import annotations

import numpy as np
import pytest

pytestmark = [pytest.mark.train, pytest.mark.usefixtures("one_thread")]
pytest.importorskip("torch")

from app.classification.cart import CartHeads  # noqa: E402  # torch may be missing
from app.classification.model_files import cart_tensors  # noqa: E402
from app.errors import InputError  # noqa: E402
from training.averaging import average, average_carts  # noqa: E402
from training.tuning import Tuned  # noqa: E402

NAME = "blk.0.ffn_up.weight"
INPUTS, OUTPUTS, LABELS = 24, 16, 3


def tuned(seed: int, rank: int = 4) -> Tuned:
    rng = np.random.default_rng(seed)
    factors = (
        rng.normal(size=(rank, INPUTS)).astype(np.float32),
        rng.normal(size=(OUTPUTS, rank)).astype(np.float32),
    )
    rows = rng.normal(size=(LABELS, 8)).astype(np.float32)
    return Tuned({NAME: factors}, [(rows, rng.normal(size=LABELS).astype(np.float32))])


def change(result: Tuned) -> np.ndarray:
    a, b = result.adapter[NAME]
    return b @ a


@pytest.mark.parametrize("rank", [8, 100])
def test_changes_of_the_weights_are_summed(rank: int):
    """A rank that holds both adapters loses nothing, whether factors are kept or found anew."""
    one, other = tuned(1), tuned(2)
    result = average([(0.7, one), (0.6, other)], rank)
    np.testing.assert_allclose(change(result), 0.7 * change(one) + 0.6 * change(other), atol=1e-4)


def test_a_matrix_smaller_than_the_rank_loses_nothing():
    """More factors than it has rows: as many as it has are kept."""
    parts = [(1.0, tuned(seed, rank=10)) for seed in (1, 2, 3)]
    result = average(parts, OUTPUTS + 4)
    assert len(result.adapter[NAME][0]) == OUTPUTS
    np.testing.assert_allclose(change(result), sum(change(part) for _, part in parts), atol=1e-4)


def test_a_cut_keeps_the_most_that_its_rank_can_hold():
    """The error is that of the singular values left out (Eckart and Young)."""
    one, other = tuned(1), tuned(2)
    whole = change(one) + change(other)
    result = average([(1.0, one), (1.0, other)], 5)
    assert len(result.adapter[NAME][0]) == 5
    left_out = np.linalg.svd(whole, compute_uv=False)[5:]
    assert np.linalg.norm(change(result) - whole) == pytest.approx(
        np.linalg.norm(left_out), rel=1e-3
    )


def test_importance_tells_what_is_cut():
    """Inputs that are large are kept better than by a cut that does not know them."""
    parts = [(1.0, tuned(1)), (1.0, tuned(2))]
    squared = np.full(INPUTS, 1e-4, np.float32)
    squared[:6] = 100.0
    whole = change(average(parts, 100))

    def error(result: Tuned) -> float:
        return float(np.linalg.norm((change(result) - whole) * np.sqrt(squared)))

    assert error(average(parts, 3, {NAME: squared})) < 0.8 * error(average(parts, 3))


def test_heads_are_averaged_whatever_the_weights_add_up_to():
    """Adapters may add up to more than one; a head that did would be surer than any of its parts."""
    one, other = tuned(1), tuned(2)
    rows, bias = average([(0.9, one), (0.3, other)], 8).heads[0]
    np.testing.assert_allclose(rows, 0.75 * one.heads[0][0] + 0.25 * other.heads[0][0], rtol=1e-5)
    np.testing.assert_allclose(bias, 0.75 * one.heads[0][1] + 0.25 * other.heads[0][1], rtol=1e-5)
    assert rows.dtype == np.float32


def cart(seed: int) -> CartHeads:
    rng = np.random.default_rng(seed)
    return CartHeads(
        *(
            rng.normal(size=shape).astype(np.float32)
            for shape in ((4, 8), (4, 8), (3, 8), 3, (30, 8), 30, (4, 8), 4)
        )
    )


def test_cart_heads_are_averaged_as_heads_of_intents():
    """Every array, by shares of the sum of the weights."""
    one, other = cart(1), cart(2)
    found = cart_tensors(average_carts([(0.9, one), (0.3, other)]))
    theirs = cart_tensors(other)
    for name, array in cart_tensors(one).items():
        np.testing.assert_allclose(found[name], 0.75 * array + 0.25 * theirs[name], rtol=1e-5)


def test_results_of_other_label_sets_are_refused():
    """Rows of unlike heads would be summed label by wrong label."""
    one, other = tuned(1), tuned(2)
    fewer = Tuned(other.adapter, [(other.heads[0][0][:2], other.heads[0][1][:2])])
    with pytest.raises(InputError, match="like with like"):
        average([(1.0, one), (1.0, fewer)], 8)


def test_weights_that_cancel_are_refused():
    """There would be no head to average."""
    with pytest.raises(InputError, match="more than 0"):
        average([(1.0, tuned(1)), (-1.0, tuned(2))], 8)
