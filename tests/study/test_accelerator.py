"""Figures of a GPU, beside the CPU's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from app.errors import InputError
from study.accelerator import PLAIN, claims, read_gpu, table, take_gpu


def _variant(milliseconds: float, weights: float, **more: Any) -> dict[str, Any]:
    shapes = {
        f"{rows}x24": {"p50_ms": milliseconds * rows**0.5, "messages_per_s": rows / milliseconds}
        for rows in (1, 4, 16, 64, 256)
    }
    return {"shapes": shapes, "weights_mb": weights, "load_s": 1.5, **more}


@pytest.fixture
def results(tmp_path: Path) -> Path:
    path = tmp_path / "results.json"
    content = {
        "machine": {"device": "Some GPU", "torch": "2.0"},
        "checkpoint": {"bits": 8},
        PLAIN: _variant(4.0, 500.0, served_ms={"cart": {"p50_ms": 5.25}}, agreement_with_cpu=0.998),
        "gemma bfloat16 triton graphs": _variant(2.0, 250.0),
        "gemma bfloat16 int4 graphs": {"error": "needs 4 bits"},
    }
    path.write_text(json.dumps(content))
    return path


def test_without_a_gpu_the_page_says_where_to_look() -> None:
    assert table({}) == "Not measured yet."
    assert {row[3] for row in claims({"gpu": None})} == {"GPU run"}


def test_a_gpus_figures_are_kept_and_told(results: Path, tmp_path: Path) -> None:
    take_gpu(results, tmp_path / "study")
    gpu = read_gpu(tmp_path / "study")
    assert gpu is not None
    assert "checkpoint" not in gpu
    written = table({"gpu": gpu})
    assert "| bfloat16 | 4 | 8 | 16 | 32 | 64 | 64 | 5.25 | 500 MB | 1.5 | 99.8% | - |" in written
    assert "int4" not in written, "what failed has no row"
    memory, speed = claims({"gpu": gpu})
    assert memory[2:] == ("250 MB for 500 MB, 50% less", "yes")
    assert speed[2:] == ("0.5 times for one, 0.5 to 0.5", "no")


def test_each_stands_beside_16_bits_computed_in_the_same_way(results: Path) -> None:
    """Through ``transformers`` or in few steps; without 16 bits beside them some tell of time alone."""
    gpu = json.loads(results.read_text())
    gpu["gemma bfloat16 triton graphs apart"] = _variant(9.0, 400.0)
    assert "| GPTQ 8 bits, `triton`, through `transformers` | 9 | 18 |" in table({"gpu": gpu})
    assert len(list(claims({"gpu": gpu}))) == 2
    gpu[f"{PLAIN} apart"] = _variant(6.0, 500.0)
    *_, speed = claims({"gpu": gpu})
    assert speed[1].startswith("GPTQ 8 bits, `triton`, through `transformers` over bfloat16")
    assert speed[2] == "1.5 times for one, 1.5 to 1.5"


def test_another_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_text('{"machine": {}}')
    with pytest.raises(InputError, match=r"is it of gpu_run\.py"):
        take_gpu(path, tmp_path)
    assert read_gpu(tmp_path / "nowhere") is None
