"""``shopintent bench`` as a whole, on the fake backend: its promises about output, not about speed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from app.bench import measure
from app.bench.latency import Latencies
from app.bench.measure import Findings, Plan
from app.bench.open_loop import Answer, LoadResult
from app.bench.report import as_json, cpu_model, plot
from app.cli import app

SMALL = Plan(
    rounds=2, singles=3, crowd=8, generated=1, load_shares=(0.05,), load_seconds=0.2, cached=8
)
PROMISED = {
    "p50_ms",
    "p50_over_bare_decode",
    "messages_per_s",
    "throughput_over_bare_decode",
    "throughput_over_json_generation",
    "rss_mb",
}


def test_bench_ends_with_a_json_line(fake_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The table goes to standard error; standard output is one object with the promised figures."""
    monkeypatch.setenv("INTENT_STORE_DIR", str(fake_store))
    monkeypatch.setenv("INTENT_THREADS", "1")
    monkeypatch.setenv("INTENT_MODELS", "storefront")
    monkeypatch.delenv("INTENT_BACKEND", raising=False)
    monkeypatch.setattr(measure, "QUICK", SMALL)
    done = CliRunner().invoke(app, ["bench", "--quick"])
    assert done.exit_code == 0, done.output
    (line,) = done.stdout.splitlines()
    found = json.loads(line)
    assert found.keys() >= PROMISED
    assert found["p50_ms"] > 0
    assert found["messages_per_s"] > 0
    assert found["rss_mb"] > 1
    assert found["p50_over_bare_decode"] is None  # there is no bare model behind the fake backend
    assert found["http"]["count"] == SMALL.rounds * SMALL.singles
    assert found["cached"]["count"] == SMALL.cached
    assert found["conditions"]["threads"] == 1
    assert found["conditions"]["model"] == "storefront"
    assert "open-loop" in done.stderr


def test_service_that_does_not_start_is_a_sentence(
    fake_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 1 and the service's own last words."""
    monkeypatch.setenv("INTENT_STORE_DIR", str(fake_store))
    monkeypatch.setenv("INTENT_KEYS_FILE", str(fake_store / "missing"))
    monkeypatch.delenv("INTENT_MODELS", raising=False)
    monkeypatch.setattr(measure, "QUICK", SMALL)
    done = CliRunner().invoke(app, ["bench", "--quick"])
    assert done.exit_code == 1
    assert "BenchFailed" in done.stderr
    assert done.stdout == ""


def findings() -> Findings:
    """Two rounds in which the second machine is half as fast."""
    found = Findings()
    for slow in (1.0, 2.0):
        found.http.add_singles([0.024 * slow] * 3)
        found.http.add_rate(32, 0.8 * slow)
        found.bare.add_singles([0.020 * slow] * 3)
        found.bare.add_rate(32, 0.76 * slow)
        found.generation.add_singles([0.4 * slow])
        found.generation.add_rate(1, 0.4 * slow)
        found.choosing_share.append(0.5)
        found.generated_tokens.append(10)
    found.ngrams.add_singles([0.0002])
    found.ngrams.add_rate(1, 0.0002)
    found.memory = {"rss_mb": 123.456}
    found.message_tokens = [18]
    found.loads = [LoadResult.of([Answer(0.1, 0.1, 0.2, 200)], 1, 1)]
    return found


def test_ratios_are_those_of_the_rounds() -> None:
    """Service over rival, medians of the rounds."""
    found = as_json(findings(), {"threads": 2})
    assert found["p50_over_bare_decode"] == pytest.approx(1.2)
    assert found["throughput_over_bare_decode"] == pytest.approx(0.95)
    assert found["throughput_over_json_generation"] == pytest.approx(16)
    assert found["throughput_over_json_generation_without_grammar"] == pytest.approx(8)
    assert found["p50_over_json_generation"] == pytest.approx(0.06)
    assert found["rss_mb"] == 123.5
    assert json.loads(json.dumps(found)) == found


def test_plot_is_a_png(tmp_path: Path) -> None:
    """Also with loads of which nothing was answered."""
    pytest.importorskip("matplotlib")
    found = findings()
    found.loads.append(LoadResult.of([], 1, 1))
    given = {"model": "m", "version": "1", "cpu": "c", "threads": 1}
    plot(found, given, tmp_path / "p.png")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_cpu_is_named(tmp_path: Path) -> None:
    """As its maker writes it, or by its kind where nobody tells."""
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nmodel name\t: Fast CPU 9\n")
    assert cpu_model(cpuinfo) == "Fast CPU 9"
    assert cpu_model(tmp_path / "missing")


def test_latencies_of_findings_are_all_rounds() -> None:
    """The headline p50 is over all messages, not over the rounds' medians."""
    assert Latencies.of(findings().http.seconds).count == 6
