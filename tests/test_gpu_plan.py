"""What a GPU run measures first, and what it says of the figures: found wrong here, not on lent time."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))

from gpu_plan import MODELS, SERVED, comparison, variants


def result(p50_ms: float, weights_mb: float, agreement: float | None = None) -> dict[str, Any]:
    found: dict[str, Any] = {
        "weights_mb": weights_mb,
        "shapes": {"1x24": {"p50_ms": p50_ms, "messages_per_s": 1000 / p50_ms}},
        "served_ms": {str(rows): {"p50_ms": p50_ms * rows} for rows in SERVED},
    }
    if agreement is not None:
        found |= {"agreement_with_cpu": agreement, "agreement_with_gguf": None}
    return found


def test_baselines_and_our_kernels_come_before_everything_else():
    """Time may run out: each model's 16 bits and its GPTQ kernel by graphs are what the rest is held to."""
    keys = [variant.key for variant in variants(MODELS)]
    first = keys[:9]
    kinds = ("plain", "dense", "triton")
    assert {f"gemma bfloat16 {kind} graphs" for kind in kinds} <= set(first)
    assert {"llama-1b bfloat16 plain graphs", "llama-1b bfloat16 int4 graphs"} <= set(first)
    assert all(key.endswith(" graphs") for key in first)
    assert len(keys) == len(set(keys))
    assert not any("marlin" in key for key in keys)
    assert any("marlin" in variant.key for variant in variants(MODELS, compiled=True))
    assert {variant.model for variant in variants(["gemma"])} == {"gemma"}


def test_each_kernel_is_held_to_the_best_of_16_bits():
    """Ratios of medians, memory, and answers as the worst variant gave them; failures are left out.

    The time of one kernel is never told with the memory of another.
    """
    results = {
        "gemma bfloat16 plain graphs": result(2.0, 500.0, 1.0),
        "gemma bfloat16 triton graphs": result(1.5, 250.0, 0.99),
        "gemma bfloat16 triton eager": result(9.0, 260.0, 0.98),
        "gemma bfloat16 dense graphs": result(1.0, 400.0, 1.0),
        "gemma bfloat16 int4 graphs": {"error": "ValueError: needs 4 bits"},
        "gemma-4bit bfloat16 int4 graphs": result(1.0, 200.0),
        "machine": {"device": "none"},
    }
    table = comparison(results)
    assert set(table) == {"gemma triton", "gemma dense", "gemma-4bit int4"}
    dense = table["gemma dense"]
    assert (dense["p50_over_bf16"], dense["weights_saved"]) == ({"1x24": 0.5}, 0.2)
    gemma = table["gemma triton"]
    assert gemma["p50_over_bf16"] == {"1x24": 0.75}
    assert gemma["weights_saved"] == 0.5
    assert gemma["served_over_bf16"]["16"] == 0.75
    assert (gemma["agreement_with_cpu"], gemma["agreement_with_gguf"]) == (0.98, None)
    assert table["gemma-4bit int4"]["p50_over_bf16"] == {"1x24": 0.5}
    assert table["gemma-4bit int4"]["agreement_with_cpu"] is None


@pytest.mark.parametrize("missing", ["plain", "triton"])
def test_nothing_is_compared_with_nothing(missing: str):
    """A run that stopped early says less, and nothing wrong."""
    keys = {f"gemma bfloat16 {kind} graphs" for kind in ("plain", "triton") if kind != missing}
    assert comparison({key: result(1.0, 1.0) for key in keys}) == {}


@pytest.mark.train
def test_a_checkpoint_rounded_to_four_bits_stays_near(tmp_path: Path):
    """What is timed as 4 bits loads as such, in groups of 32, and is the same model but for rounding."""
    pytest.importorskip("torch")
    from gpu_models import write_four_bits

    from app.backends.gptq_checkpoint import Checkpoint
    from tests.backends.tiny_checkpoint import AUTO_GPTQ

    write_four_bits(AUTO_GPTQ, tmp_path / "four")
    (_, before), (_, after) = (Checkpoint(path).read() for path in (AUTO_GPTQ, tmp_path / "four"))
    assert set(before) == set(after)
    for name, matrix in after.items():
        assert (matrix.bits, matrix.group_size, matrix.in_order) == (4, 32, True)
        exact = before[name].dense()
        assert float((matrix.dense() - exact).norm() / exact.norm()) < 0.15
