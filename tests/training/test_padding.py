"""Rows of unlike lengths as tensors, and back."""

from __future__ import annotations

import pytest

pytestmark = [pytest.mark.train, pytest.mark.usefixtures("one_thread")]
torch = pytest.importorskip("torch")

from training.padding import Real, padded  # noqa: E402  # torch may be missing


def test_rows_are_filled_up_to_a_multiple():
    """With what is asked for; lengths are those of the rows."""
    ids, lengths = padded([[5, 6, 7], [8]], "cpu", multiple=4, filling=-1)
    assert ids.tolist() == [[5, 6, 7, -1], [8, -1, -1, -1]]
    assert lengths.tolist() == [3, 1]
    assert padded([[5, 6, 7], [8]], "cpu")[0].tolist() == [[5, 6, 7], [8, 0, 0]]
    assert padded([[1] * 8], "cpu", multiple=8)[0].shape == (1, 8)


def test_tokens_are_taken_and_spread_again():
    """What lies between is zeros, and gets no gradient."""
    ids, lengths = padded([[5, 6, 7], [8]], "cpu", multiple=4, filling=9)
    real = Real.of(ids, lengths)
    assert real.taken(ids).tolist() == [5, 6, 7, 8]
    states = torch.randn(2, 4, 3, requires_grad=True)
    back = real.spread(real.taken(states))
    assert torch.equal(back[0, :3], states[0, :3])
    assert not back[0, 3:].any()
    back.sum().backward()
    assert states.grad[1].tolist() == [[1.0] * 3, *[[0.0] * 3] * 3]
