"""Measures what changing the served version costs: latency under load, and memory over many changes.

    python -m tests.load.version_swaps load [--seconds 60]
    python -m tests.load.version_swaps memory [--cycles 20]

Runs on a copy of the store's default model, of which one version is damaged on purpose. Wants a quiet
machine. The last line is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path

from app.artifacts.manifest import MANIFEST
from app.artifacts.store import Artifact, Store
from app.bench.callers import Connections, ask_at_once
from app.bench.latency import Latencies
from app.bench.messages import customer_messages
from app.bench.open_loop import Answer, arrivals, offer
from app.bench.service_process import ServiceProcess

NAME = "storefront"
GOOD, OTHER, DAMAGED = "1", "2", "3"
EVERY = 5.0
"""Seconds from the beginning of one change to that of the next."""
SHARE = 0.7
SEED = 8

Span = tuple[float, int]
"""Seconds that a change took, and the status of its answer."""


def copy_store(artifact: Artifact, root: Path) -> None:
    """Two good versions of the same model and a damaged one; the first is active."""
    for version in (GOOD, OTHER, DAMAGED):
        directory = root / NAME / version
        shutil.copytree(artifact.directory, directory)
        manifest = json.loads((directory / MANIFEST).read_text()) | {"version": version}
        (directory / MANIFEST).write_text(json.dumps(manifest))
    weights = root / NAME / DAMAGED / artifact.weights_path().relative_to(artifact.directory)
    with weights.open("r+b") as stream:
        stream.seek(weights.stat().st_size // 2)
        stream.write(b"damaged")
    (root / NAME / "active").write_text(f"{GOOD}\n")


def activate(port: int, version: str) -> int:
    """The status of the answer once the change has ended."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/admin/models/{NAME}/activate?wait=120",
        json.dumps({"version": version}).encode(),
        {"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=150) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


async def measure_load(seconds: float, rounds: int) -> dict[str, object]:
    """Rounds without and with changes in turn, so that a slow minute of the machine falls on both."""
    messages = customer_messages(SEED)
    quiet: list[Answer] = []
    changing: list[Answer] = []
    spans: list[Span] = []
    with ServiceProcess(cache_bytes=0) as service:
        connections = Connections(service.port)
        await connections.open(32)
        rates = []
        for _ in range(6):
            texts = list(islice(messages, 96))
            rates.append(96 / await ask_at_once(connections, texts, 32))
        rate = SHARE * statistics.median(rates)
        print(f"{rate:.1f} messages/s, {SHARE:.0%} of the capacity", file=sys.stderr)
        await connections.close()
        for number in range(rounds):
            part = seconds / rounds
            quiet += (await phase(service.port, messages, rate, part, number))[0]
            answers, changes = await phase(service.port, messages, rate, part, number, changes=True)
            changing += answers
            spans += changes
            print(f"round {number + 1}: {summary(answers)}", file=sys.stderr)
    before, during = summary(quiet), summary(changing)
    return {
        "rate_per_s": round(rate, 1),
        "without_changes": before,
        "with_changes": during,
        "p99_ratio": round(during["p99_ms"] / before["p99_ms"], 2),
        "changes": spans,
    }


async def phase(
    port: int,
    messages: Iterator[str],
    rate: float,
    seconds: float,
    seed: int,
    *,
    changes: bool = False,
) -> tuple[list[Answer], list[Span]]:
    connections = Connections(port, deadline=10.0)
    spans: list[Span] = []
    started = time.perf_counter()

    async def change() -> None:
        for number, version in enumerate(cycle((OTHER, DAMAGED, GOOD))):
            await asyncio.sleep(started + EVERY * number + 1.0 - time.perf_counter())
            begun = time.perf_counter()
            status = await asyncio.to_thread(activate, port, version)
            spans.append((round(time.perf_counter() - begun, 2), status))

    changing = asyncio.create_task(change()) if changes else None
    answers = await offer(connections.post, messages, arrivals(rate, seconds, SEED + seed))
    if changing:
        changing.cancel()
    await connections.close()
    return answers, spans


def summary(answers: list[Answer]) -> dict[str, float]:
    latencies = Latencies.of([answer.latency for answer in answers])
    return {
        "requests": len(answers),
        "not_200": sum(answer.status != 200 for answer in answers),
        "p50_ms": round(latencies.p50, 1),
        "p95_ms": round(latencies.p95, 1),
        "p99_ms": round(latencies.p99, 1),
        "max_ms": round(max(answer.latency for answer in answers) * 1e3, 1),
    }


async def measure_memory(cycles: int) -> dict[str, object]:
    messages = customer_messages(SEED)
    resident = []
    with ServiceProcess(cache_bytes=0) as service:
        connections = Connections(service.port)
        for number in range(cycles):
            status = await asyncio.to_thread(activate, service.port, (OTHER, GOOD)[number % 2])
            assert status == 200, status
            await ask_at_once(connections, list(islice(messages, 64)), 16)
            await asyncio.sleep(0.5)
            resident.append(round(service.memory()["rss_mb"], 1))
            print(f"cycle {number + 1}: {resident[-1]} MB", file=sys.stderr)
        peak = service.memory().get("rss_peak_mb")
        await connections.close()
    return {
        "rss_mb": resident,
        "last_over_second": round(resident[-1] / resident[1], 4),
        "peak_mb": peak and round(peak, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("load", "memory"))
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--cycles", type=int, default=20)
    chosen = parser.parse_args()
    artifact = Store(Path(os.environ.get("INTENT_STORE_DIR", "model_store"))).resolve(NAME)
    with tempfile.TemporaryDirectory() as folder:
        copy_store(artifact, Path(folder))
        os.environ["INTENT_STORE_DIR"] = folder
        work = (
            measure_load(chosen.seconds, chosen.rounds)
            if chosen.what == "load"
            else measure_memory(chosen.cycles)
        )
        print(json.dumps(asyncio.run(work)))


if __name__ == "__main__":
    main()
