from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from app.domain import OUT_OF_SCOPE
from training.examples import Example, read_seeds
from training.shops import read_shops
from training.stats import set_stats


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "training", *arguments], capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def found() -> dict:
    done = run("stats", "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_counts_add_up(found: dict):
    """Every way of dividing the seeds gives the same whole."""
    seeds = found["seeds"]
    total = seeds["messages"]
    assert total == len(read_seeds())
    assert sum(seeds["by_split"].values()) == total
    assert sum(seeds["by_origin"].values()) == total
    for table in (seeds["by_intent"], seeds["by_language"]):
        assert sum(row["messages"] for row in table.values()) == total
        for row in table.values():
            assert row["train"] + row["dev"] + row["test"] == row["messages"]
    assert set(seeds["by_language"]) == set(found["languages"]) == {"en", "hr", "es"}
    assert len(seeds["by_intent"]) == found["intents"] + 1


def test_measured_sets_are_counted_apart(found: dict):
    """The wild, the strangers' and the acceptance messages are not trained on and have no split."""
    for name in ("wild", "strangers", "acceptance"):
        content = found["measured_only"][name]
        assert content["messages"] > 0
        assert content["by_split"] == {}
    assert set(found["seeds"]["by_origin"]) == {"seed", "seed-near", "seed-far"}


def test_shops_are_counted(found: dict):
    """By language, and all of them."""
    shops = read_shops().values()
    assert set(found["shops"]) == {"en", "hr", "es"}
    counts = found["shops"].values()
    assert sum(count["shops"] for count in counts) == len(shops)
    assert sum(count["messages"] for count in counts) == sum(map(len, shops))
    assert all(count["intents"] >= 20 * count["shops"] - count["shops"] for count in counts)


def test_lengths_and_slots():
    """Quantiles of words and characters, slots by kind."""
    rows = [
        Example("one two three", "gift", slots={"product": "two"}),
        Example("one", OUT_OF_SCOPE, "hr"),
    ]
    stats = set_stats(rows)
    assert stats["words"]["en"]["p50"] == 3
    assert stats["characters"]["hr"]["max"] == 3
    assert stats["slots"] == {"en": {"product": 1}, "hr": {}}
    assert list(stats["by_intent"]) == ["gift", OUT_OF_SCOPE]


def test_people_get_a_table():
    """Without --json the same is shown to read."""
    done = run("stats")
    assert done.returncode == 0
    assert "order_status" in done.stdout


def test_missing_public_data_is_told(tmp_path: Path):
    """No traceback; the file is named."""
    done = run("check-data", "--data", str(tmp_path))
    assert done.returncode == 2
    assert "bitext/test.csv" in done.stderr
    assert "Traceback" not in done.stderr
