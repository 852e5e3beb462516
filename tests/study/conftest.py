"""Figures as a study leaves them, of two formats and a few rows."""

from __future__ import annotations

from typing import Any

import pytest


def share(value: float) -> dict[str, Any]:
    return {"value": value, "low": value - 0.05, "high": min(1.0, value + 0.05), "n": 40}


def labels(accuracy: float, p50: float, rss: float) -> dict[str, Any]:
    return {
        "accuracy": share(accuracy), "exact": share(accuracy - 0.05), "ece": 0.05, "auroc": 0.9,
        "mcc": 0.7, "p50_ms": p50, "p95_ms": p50 * 1.5, "p99_ms": p50 * 2,
        "single_messages_per_s": 1000 / p50, "messages_per_s": 1200 / p50,
        "prompt_tokens_per_s": 900.0, "memory": {"rss_mb": rss, "anonymous_mb": rss / 2},
        "memory_before": {"rss_mb": 50.0}, "file_mb": rss / 2, "load_s": 1.5,
        "joules_per_message": None, "commit": "abc", "load_average": 0.5, "trial_seconds": 30.0,
        "by_group": {"orders": share(accuracy)}, "by_language": {"en": share(accuracy)},
        "reliability": [{"confidence": 0.9, "accuracy": 0.85, "n": 12}],
        "decisions": ["refund_policy", "gift"], "confidences": [0.9, 0.8], "hits": [True, None],
        "batches": {
            str(size): {"ms": p50 * size, "messages_per_s": 1000 / p50}
            for size in (1, 2, 4, 8, 16, 32)
        },
    }  # fmt: skip


def contender(rate: float, rss: float) -> dict[str, Any]:
    over = {"median": rate, "least": rate * 0.9, "greatest": rate * 1.1}
    return {
        "messages_per_s": rate, "load_s": 1.0, "memory": {"rss_mb": rss},
        "memory_before": {"rss_mb": 50.0}, "over_hf-fp32": over, "over_hf-bf16": over,
        "memory_over_hf-fp32": rss / 1000, "memory_over_hf-bf16": rss / 800,
    }  # fmt: skip


@pytest.fixture
def figures() -> dict[str, Any]:
    return {
        "conditions": {
            "cpu": "Some CPU", "cpus": 2, "threads": 2, "memory_mb": 8000, "energy_counter": None,
            "versions": {"torch": "2.13.0", "optimum": None}, "python": "3.11", "system": "Linux",
            "commit": ["abc"],
        },
        "model": {
            "name": "storefront", "version": "1", "digest": "d" * 16, "quantisation": "Q4_0",
            "trimmed": False,
        },
        "sizes": {"messages": 40},
        "groups": {},
        "trials": {
            "default/hf-fp32/labels": labels(0.9, 120.0, 1000.0),
            "default/served/labels": labels(0.88, 30.0, 250.0),
            "default/Q2_K/labels": labels(0.7, 35.0, 260.0),
            "default/all/turns": {
                "contenders": {
                    "hf-fp32/json": contender(1.0, 1000.0),
                    "served/pointers": contender(20.0, 90.0),
                },
                "commit": "abc", "load_average": 0.4, "trial_seconds": 60.0,
            },
        },
    }  # fmt: skip
