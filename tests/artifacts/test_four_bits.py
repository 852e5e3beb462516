from __future__ import annotations

import numpy as np
import pytest

from app.artifacts.four_bits import BLOCK, CODES, pack, unpack


def rows(count: int = 40, width: int = 320) -> np.ndarray:
    """Blocks of unlike size, and one of zeros."""
    rng = np.random.default_rng(1)
    count_a_row = width // BLOCK
    blocks = rng.normal(size=(count, count_a_row, BLOCK)) * rng.uniform(0.01, 0.2, (count_a_row, 1))
    blocks[3, 4] = 0
    return blocks.reshape(count, width).astype(np.float32)


def test_numbers_come_back_nearly():
    """Of normal ones some 8 hundredths of their size are lost; each is the nearest that its scale has."""
    given = rows()
    codes, scales = pack(given)
    assert (codes.shape, codes.dtype) == ((40, 160), np.uint8)
    assert (scales.shape, scales.dtype) == ((40, 10), np.float16)
    found = unpack(codes, scales)
    assert np.linalg.norm(found - given) < 0.085 * np.linalg.norm(given)
    assert not found.reshape(40, 10, BLOCK)[3, 4].any()
    steps = scales.astype(np.float32)[:, :, None, None] * np.array(CODES, np.float32)
    gaps = np.abs(given.reshape(40, 10, BLOCK, 1) - steps).min(axis=3)
    found_gaps = np.abs(found - given).reshape(40, 10, BLOCK)
    # A scale is fitted once more after the codes are chosen: at a middle another may be as near.
    assert (found_gaps - gaps).max() < 0.02 * np.abs(given).max()


def test_what_was_packed_before_is_packed_alike():
    """A version made from another's adapter loses nothing more."""
    once = unpack(*pack(rows()))
    again = unpack(*pack(once / np.float32(0.37))) * np.float32(0.37)
    np.testing.assert_allclose(again, once, rtol=2e-3, atol=1e-6)


def test_many_blocks_are_packed_as_few_are():
    """They are packed in pieces."""
    given = np.tile(rows(8, 2048), (40, 1))  # more than are packed at once
    codes, scales = pack(given)
    few_codes, few_scales = pack(given[:8])
    assert np.array_equal(codes[-8:], few_codes)
    assert np.array_equal(scales[-8:], few_scales)


def test_half_a_block_is_refused():
    """Whoever packs them pads them, or keeps 8 bits."""
    with pytest.raises(ValueError, match="blocks of 32"):
        pack(np.zeros((2, 48), np.float32))
