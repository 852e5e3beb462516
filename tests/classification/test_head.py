from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.classification.head import Head, log_softmax, unit

HEAD = Head(
    rows=np.random.default_rng(0).standard_normal((5, 16)).astype(np.float32),
    bias=np.zeros(5, np.float32),
)


@given(st.integers(0, 2**31), st.floats(1e-3, 1e3))
def test_scores_are_a_distribution_that_the_scale_of_the_state_does_not_move(
    seed: int, scale: float
):
    """Only the direction of a hidden state counts."""
    state = np.random.default_rng(seed).standard_normal((3, 16)).astype(np.float32)
    scores = HEAD.score(state)
    np.testing.assert_allclose(np.exp(scores).sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(HEAD.score(state * np.float32(scale)), scores, atol=1e-3)


def test_a_state_of_zeros_is_survived():
    """No division by zero."""
    assert np.isfinite(HEAD.score(np.zeros((1, 16), np.float32))).all()
    assert np.isfinite(unit(np.zeros((1, 16), np.float32))).all()


def test_large_logits_do_not_overflow():
    """Shifted before the exponential."""
    np.testing.assert_allclose(
        np.exp(log_softmax(np.array([[1e4, 0.0]], np.float32))), [[1, 0]], atol=1e-6
    )


def test_unit_has_the_length_that_training_used():
    """sqrt(hidden), whatever came in."""
    assert np.linalg.norm(unit(np.ones((1, 16), np.float32) * 7)) == pytest.approx(4)
