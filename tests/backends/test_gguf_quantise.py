from __future__ import annotations

import gguf.quants
import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from app.backends.gguf_quantise import Quantisation, dequantise, quantise
from app.errors import ManifestInvalid

Type = GGMLQuantizationType
WEIGHTS = (np.random.default_rng(0).standard_normal((64, 256)) * 0.02).astype(np.float32)


def squared_error(
    back: np.ndarray, weights: np.ndarray, columns: np.ndarray | float = 1.0
) -> float:
    """Relative, each column weighed."""
    return float(((back - weights) ** 2 * columns).sum() / (weights**2 * columns).sum())


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
    kind = Type[name]
    stored = quantise(WEIGHTS, kind)
    block, size = GGML_QUANT_SIZES[kind]
    assert stored.shape == (64, 256 // block * size)
    assert squared_error(dequantise(stored, kind), WEIGHTS) <= limit


@pytest.mark.parametrize("kind", [Type.Q4_0, Type.Q8_0, Type.F16])
def test_agrees_with_the_reference_in_python(kind: Type):
    """Byte for byte what the ``gguf`` package writes, where it can write the type."""
    expected = gguf.quants.quantize(WEIGHTS, kind)
    assert quantise(WEIGHTS, kind).tobytes() == expected.tobytes()


@settings(deadline=None, max_examples=30)
@given(
    npst.arrays(np.float32, (5, 64), elements=st.floats(-100, 100, width=32)),
    st.sampled_from([Type.Q4_0, Type.IQ4_NL, Type.Q8_0]),
)
def test_any_weights_come_back_finite(weights: np.ndarray, kind: Type):
    """Zero blocks, lone outliers, one-sided blocks; with and without importance, any row count."""
    importance = np.linspace(0, 1, 64, dtype=np.float32)
    for columns in (None, importance):
        assert np.isfinite(dequantise(quantise(weights, kind, columns), kind)).all()


@pytest.mark.parametrize("kind", [Type.Q4_0, Type.IQ4_NL])
def test_important_columns_are_kept_better(kind: Type):
    """The weighed error falls when the quantiser knows the weights of the columns."""
    importance = np.ones(256, np.float32)
    importance[::16] = 1000
    knowing = dequantise(quantise(WEIGHTS, kind, importance), kind)
    blind = dequantise(quantise(WEIGHTS, kind), kind)
    assert squared_error(knowing, WEIGHTS, importance) < 0.6 * squared_error(
        blind, WEIGHTS, importance
    )


def test_a_recipe_names_a_type_and_exceptions():
    """Kinds of matrices can be stored more precisely than the rest."""
    quantisation = Quantisation.parse("IQ4_NL attn_v=Q8_0 ffn_down=F16")
    assert quantisation.type_of("blk.3.attn_q.weight", 640) == Type.IQ4_NL
    assert quantisation.type_of("blk.3.attn_v.weight", 640) == Type.Q8_0
    assert quantisation.type_of("blk.17.ffn_down.weight", 2048) == Type.F16


def test_rows_that_do_not_fit_take_the_stand_in():
    """As llama.cpp does: a K-quant needs rows of 256, the others rows of 32."""

    def chosen(name: str, columns: int) -> Type:
        return Quantisation.parse(name).type_of("blk.0.attn_q.weight", columns)

    assert chosen("Q4_K", 640) == Type.Q5_0
    assert chosen("Q6_K", 640) == Type.Q8_0
    assert chosen("Q4_K", 512) == Type.Q4_K
    assert chosen("Q4_0", 40) == Type.F16


@pytest.mark.parametrize("text", ["Q4_2", "", "I32", "q4_0", "Q4_0 attn_v", "Q4_0 attn_v=Q9"])
def test_unknown_types_are_refused_by_name(text: str):
    """A recipe of a later version is told apart, not guessed."""
    with pytest.raises(ManifestInvalid, match="cannot quantise"):
        Quantisation.parse(text)
