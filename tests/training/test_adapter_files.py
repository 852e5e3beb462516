from __future__ import annotations

from pathlib import Path

import numpy as np

from training.adapter_files import read_adapter, write_adapter


def test_factors_come_back(tmp_path: Path):
    """Names with points survive; values to half precision, shapes exactly."""
    rng = np.random.default_rng(1)
    adapter = {
        name: (
            rng.normal(size=(4, 16)).astype(np.float32),
            rng.normal(size=(8, 4)).astype(np.float32),
        )
        for name in ("blk.0.attn_q.weight", "blk.11.ffn_down.weight")
    }
    write_adapter(tmp_path / "adapter.safetensors", adapter)
    found = read_adapter(tmp_path / "adapter.safetensors")
    assert found.keys() == adapter.keys()
    for name, (a, b) in adapter.items():
        assert found[name][0].dtype == np.float32
        np.testing.assert_allclose(found[name][0], a, rtol=2**-10, atol=1e-6)
        np.testing.assert_allclose(found[name][1], b, rtol=2**-10, atol=1e-6)


def test_factors_in_any_memory_layout(tmp_path: Path):
    """Transposed views are written as what they show, not as what lies in memory."""
    a = np.arange(12, dtype=np.float32).reshape(4, 3).T
    write_adapter(tmp_path / "adapter.safetensors", {"blk.0.attn_k.weight": (a, a.T)})
    found = read_adapter(tmp_path / "adapter.safetensors")["blk.0.attn_k.weight"]
    assert np.array_equal(found[0], a)
    assert np.array_equal(found[1], a.T)
