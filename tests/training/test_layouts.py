from __future__ import annotations

import numpy as np

from training.layouts import (
    adapter_from_gguf,
    adapter_to_gguf,
    to_halves,
    to_neighbours,
    turned_heads,
)

LLAMA = {"model_type": "llama", "num_attention_heads": 4, "num_key_value_heads": 2}


def test_the_first_and_second_half_of_a_head_become_neighbours():
    """Two heads of four rows: 0, 1, 2, 3 turn in the pairs 0-2 and 1-3, which come side by side."""
    rows = np.arange(8)
    assert to_neighbours(rows, 2).tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
    assert to_halves(to_neighbours(rows, 2), 2).tolist() == rows.tolist()


def adapter() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(2)
    shapes = {"attn_q": 32, "attn_k": 16, "attn_v": 16, "ffn_up": 24}
    return {
        f"blk.0.{kind}.weight": (
            rng.normal(size=(3, 32)).astype(np.float32),
            rng.normal(size=(rows, 3)).astype(np.float32),
        )
        for kind, rows in shapes.items()
    }


def test_only_what_is_turned_changes_its_rows():
    """Queries and keys of a Llama; values and the rest stay; the way back gives what was there."""
    before = adapter()
    moved = adapter_to_gguf(before, LLAMA)
    for name, (a, b) in before.items():
        assert np.array_equal(moved[name][0], a)
        assert np.array_equal(moved[name][1], b) == (".attn_v." in name or ".ffn_" in name)
        assert np.array_equal(adapter_from_gguf(moved, LLAMA)[name][1], b)


def test_a_gemma_keeps_its_order():
    """And what it was tuned as is what is added to its GGUF file."""
    assert turned_heads({"model_type": "gemma3_text", "num_attention_heads": 4}) == {}
    before = adapter()
    after = adapter_to_gguf(before, {"model_type": "gemma3_text"})
    assert all(np.array_equal(after[name][1], b) for name, (_, b) in before.items())
