from __future__ import annotations

import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from app.backends.gguf_quantise import (
    _ggml_quantise,
    block_type,
    dequantise,
    quantise,
)
from app.errors import ManifestInvalid

Type = GGMLQuantizationType
WEIGHTS = (np.random.default_rng(0).standard_normal((64, 256)) * 0.02).astype(np.float32)


def error(stored: np.ndarray, kind: Type, weights: np.ndarray = WEIGHTS) -> float:
    difference = (dequantise(stored, kind) - weights).astype(np.float64)
    return float((difference**2).sum() / (weights.astype(np.float64) ** 2).sum())


@pytest.mark.parametrize(
    ("name", "limit"),
    [
        ("F32", 0),
        ("F16", 1e-6),
        ("BF16", 1e-5),
        ("Q8_0", 1e-4),
        ("Q6_K", 1e-3),
        ("Q5_0", 3e-3),
        ("Q4_K", 7e-3),
        ("IQ4_NL", 7e-3),
        ("Q4_0", 8e-3),
        ("Q4_1", 8e-3),
    ],
)
def test_what_is_stored_is_close_to_what_was_given(name: str, limit: float):
    """Each type's relative squared error stays in its class, and its size is the announced one."""
    kind = block_type(name, 256)
    stored = quantise(WEIGHTS, kind)
    block, size = GGML_QUANT_SIZES[kind]
    assert stored.shape == (64, 256 // block * size)
    assert error(stored, kind) <= limit


def test_the_search_makes_a_smaller_error_than_the_largest_value():
    """Q4_0 here beats llama.cpp's own rounding by at least five per cent on normal weights."""
    searched, plain = quantise(WEIGHTS, Type.Q4_0), _ggml_quantise(WEIGHTS, Type.Q4_0)
    assert error(searched, Type.Q4_0) < 0.95 * error(plain, Type.Q4_0)


@settings(deadline=None, max_examples=60)
@given(
    npst.arrays(
        np.float32,
        (2, 64),
        elements=st.floats(-100, 100, width=32).filter(lambda v: v == 0 or abs(v) > 1e-2),
    )
)
def test_the_search_is_never_worse_than_the_largest_value(weights: np.ndarray):
    """Zero blocks, lone outliers, one-sided blocks: all finite, and no more error than llama.cpp's.

    The scale's own rounding to float16 is allowed for.
    """
    back = dequantise(quantise(weights, Type.Q4_0), Type.Q4_0)
    plain = dequantise(_ggml_quantise(weights, Type.Q4_0), Type.Q4_0)
    assert np.isfinite(back).all()
    rounding = 1e-3 * (weights**2).sum()
    assert ((back - weights) ** 2).sum() <= ((plain - weights) ** 2).sum() + rounding


def test_rows_that_do_not_fit_take_the_stand_in():
    """As llama.cpp does: a K-quant needs rows of 256, the others rows of 32."""
    assert block_type("Q4_K", 640) == Type.Q5_0
    assert block_type("Q6_K", 640) == Type.Q8_0
    assert block_type("Q4_K", 512) == Type.Q4_K
    assert block_type("Q4_0", 40) == Type.F16


@pytest.mark.parametrize("name", ["Q4_2", "", "I32", "q4_0"])
def test_unknown_types_are_refused_by_name(name: str):
    """A recipe of a later version is told apart, not guessed."""
    with pytest.raises(ManifestInvalid, match="cannot quantise"):
        block_type(name, 256)
