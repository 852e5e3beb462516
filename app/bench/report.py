"""What a run found: a table for people, a JSON line for programs, a plot for documents."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Group
from rich.table import Table

from app.artifacts.store import Artifact
from app.bench.latency import Latencies, Ratio
from app.bench.measure import Findings, Series
from app.cpu import cpu_budget


def conditions(artifact: Artifact, backend: str, threads: int) -> dict[str, Any]:
    """What the figures depend on."""
    manifest = artifact.manifest
    budget = cpu_budget()
    return {
        "cpu": cpu_model(),
        "cpus": budget.affinity,
        "cpu_quota": budget.quota,
        "threads": threads,
        "load_average_before": round(os.getloadavg()[0], 2),
        "model": manifest.name,
        "version": manifest.version,
        "backend": backend,
        "quantisation": manifest.weights.quantisation if manifest.weights else None,
        "weights_mb": _megabytes(artifact) if backend == "gguf" else None,
        "shopintent": _version("shopintent"),
        "llama_cpp_python": _version("llama-cpp-python"),
        "uvicorn": _version("uvicorn"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name as its maker writes it, where the system tells."""
    try:
        lines = cpuinfo.read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()


def as_json(findings: Findings, given: dict[str, Any]) -> dict[str, Any]:
    """Headline figures first; times in milliseconds, ratios as medians of the rounds."""
    http = Latencies.of(findings.http.seconds)
    found: dict[str, Any] = _rounded(
        {
            "p50_ms": http.p50,
            "p50_over_bare_decode": _median(findings.p50_over_bare),
            "messages_per_s": median(findings.http.round_rate),
            "throughput_over_bare_decode": _median(findings.rate_over_bare),
            "throughput_over_json_generation": _median(findings.rate_over_generation),
            "throughput_over_json_generation_without_grammar": _median(
                findings.rate_over_generation_without_grammar
            ),
            "p50_over_json_generation": _median(findings.p50_over_generation),
            **findings.memory,
            "http": asdict(http),
            "bare_decode": _series(findings.bare),
            "json_generation": _series(findings.generation)
            and {
                **(_series(findings.generation) or {}),
                "tokens": median(findings.generated_tokens),
                "choosing_share": median(findings.choosing_share),
            },
            "ngrams": _series(findings.ngrams),
            "cached": findings.cached
            and {**asdict(findings.cached), "messages_per_s": findings.cached_per_s},
            "spread": {
                "p50_over_bare_decode": _extremes(findings.p50_over_bare),
                "throughput_over_bare_decode": _extremes(findings.rate_over_bare),
                "throughput_over_json_generation": _extremes(findings.rate_over_generation),
            },
            "load": [asdict(load) for load in findings.loads],
            "message_tokens": median(findings.message_tokens) if findings.message_tokens else None,
            "conditions": given,
        }
    )
    return found


def tables(findings: Findings, given: dict[str, Any]) -> Group:
    """For people: one message, many, and load."""
    title = (
        f"{given['model']}/{given['version']} ({given['backend']}) on {given['cpu']}, "
        f"{given['threads']} threads"
    )
    speed = Table("new messages", "p50 ms", "p95", "p99", "messages/s", title=title)
    speed.add_row("the service over HTTP, cache off", *_row(findings.http))
    for name, series in (
        ("bare llama_decode, 1 and 16 at once", findings.bare),
        ("generated JSON, 1 at once", findings.generation),
        ("n-gram model alone, in process", findings.ngrams),
    ):
        if series.seconds:
            speed.add_row(name, *_row(series))
    if findings.cached:
        found = findings.cached
        rate = f"{findings.cached_per_s or 0:.0f}"
        row = (f"{value:.2f}" for value in (found.p50, found.p95, found.p99))
        speed.add_row("answers from the cache over HTTP", *row, rate)

    ratios = Table("the service against", "p50", "throughput")
    ratios.add_row(
        "bare llama_decode", _span(findings.p50_over_bare), _span(findings.rate_over_bare)
    )
    ratios.add_row(
        "generated JSON", _span(findings.p50_over_generation), _span(findings.rate_over_generation)
    )

    load = Table(
        "open-loop load", "p50 ms", "p95", "p99", "p99.9", "good answers/s", "other than 200"
    )
    for one in findings.loads:
        found_or_none = one.latencies
        found_ms = (
            [found_or_none.p50, found_or_none.p95, found_or_none.p99, found_or_none.p999]
            if found_or_none
            else []
        )
        load.add_row(
            f"{one.offered_per_s:.1f}/s for {one.seconds:.0f} s",
            *(f"{value:.1f}" for value in found_ms or [float("nan")] * 4),
            f"{one.goodput_per_s:.1f}",
            ", ".join(f"{n} x {code}" for code, n in one.statuses.items() if code != "200")
            or "none",
        )
    if findings.choosing_share:
        ratios.add_row(
            "generated JSON, were the grammar free",
            "-",
            _span(findings.rate_over_generation_without_grammar),
        )
    memory = ", ".join(f"{name} {value:.0f}" for name, value in findings.memory.items())
    busy = given["load_average_before"]
    note = f"Memory of the service: {memory}."
    if busy > 0.5:
        note += (
            f" The machine was busy before the run (load {busy}): trust the ratios, not the times."
        )
    return Group(speed, ratios, load, note)


def plot(findings: Findings, given: dict[str, Any], path: Path) -> None:
    """Latency distributions of single messages and load, as a PNG. Needs matplotlib."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    figure, (single, loaded) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    for name, series in (
        ("bare llama_decode", findings.bare),
        ("service over HTTP", findings.http),
        ("generated JSON", findings.generation),
    ):
        if series.seconds:
            ms = sorted(value * 1e3 for value in series.seconds)
            shares = [(place + 1) / len(ms) for place in range(len(ms))]
            single.step(
                ms,
                shares,
                where="post",
                label=f"{name}: p50 {Latencies.of(series.seconds).p50:.1f} ms",
            )
    single.set(
        xscale="log", xlabel="milliseconds", ylabel="share answered", title="one new message"
    )
    single.legend(loc="lower right")
    names = ("p50", "p95", "p99", "p999")
    for one in findings.loads:
        if one.latencies:
            values = [getattr(one.latencies, name) for name in names]
            loaded.plot(
                names, values, marker="o", label=f"{one.offered_per_s:.0f} messages/s offered"
            )
    loaded.set(yscale="log", ylabel="milliseconds from the planned arrival", title="open-loop load")
    loaded.legend()
    figure.suptitle(
        f"{given['model']}/{given['version']}, {given['cpu']}, {given['threads']} threads"
    )
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _row(series: Series) -> Sequence[str]:
    found = Latencies.of(series.seconds)
    times = (
        f"{value:.1f}" if value >= 1 else f"{value:.2f}"
        for value in (found.p50, found.p95, found.p99)
    )
    return [*times, f"{median(series.round_rate):.1f}"]


def _series(series: Series) -> dict[str, float] | None:
    if not series.seconds:
        return None
    return {**asdict(Latencies.of(series.seconds)), "messages_per_s": median(series.round_rate)}


def _span(ratio: Ratio | None) -> str:
    if ratio is None:
        return "-"
    return f"{ratio.median:.2f} ({ratio.least:.2f} to {ratio.greatest:.2f})"


def _median(ratio: Ratio | None) -> float | None:
    return ratio.median if ratio else None


def _extremes(ratio: Ratio | None) -> list[float] | None:
    return [ratio.least, ratio.greatest] if ratio else None


def _megabytes(artifact: Artifact) -> float:
    return artifact.weights_path().stat().st_size / 1e6


def _rounded(value: Any) -> Any:
    """Four significant digits: more would only seem exact."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(one) for one in value]
    return value


def _version(package: str) -> str | None:
    if package == "python":
        return sys.version
    try:
        return version(package)
    except PackageNotFoundError:
        return None
