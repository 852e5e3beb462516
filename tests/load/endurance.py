"""Measures whether the service grows: resident memory over many requests, most of them asked before.

    python -m tests.load.endurance [--requests 100000] [--new 0.05] [--plot FILE.png]

The cache is as large as it is by default. The last line is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from collections import deque
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from app.bench.callers import Connections, ask_at_once
from app.bench.messages import customer_messages
from app.bench.service_process import ServiceProcess
from app.settings import Settings

SEED = 12
CALLERS = 16
POINTS = 200
REMEMBERED = 2000


def messages(new: float) -> Iterator[str]:
    """New ones, and in between those of the last while again."""
    rng = random.Random(SEED)
    fresh = customer_messages(SEED)
    asked: deque[str] = deque(islice(fresh, 50), REMEMBERED)
    while True:
        if rng.random() < new:
            asked.append(next(fresh))
            yield asked[-1]
        else:
            yield rng.choice(asked)


async def measure(requests: int, new: float) -> dict[str, object]:
    texts = messages(new)
    size = max(1, requests // POINTS)
    resident: list[float] = []
    with ServiceProcess(cache_bytes=Settings().cache_bytes) as service:
        connections = Connections(service.port)
        started = time.perf_counter()
        for number in range(requests // size):
            await ask_at_once(connections, list(islice(texts, size)), CALLERS)
            resident.append(round(service.memory()["rss_mb"], 1))
            if number % 20 == 0:
                print(f"{(number + 1) * size} requests: {resident[-1]} MB", file=sys.stderr)
        seconds = time.perf_counter() - started
        await connections.close()
    later = np.array(resident[len(resident) // 5 :])
    slope = np.polyfit(np.arange(len(later)) * size, later, 1)[0]
    return {
        "requests": len(resident) * size,
        "new_share": new,
        "seconds": round(seconds, 1),
        "rss_mb_after_a_fifth": float(later[0]),
        "rss_mb_at_the_end": resident[-1],
        "rss_mb_most": max(resident),
        "mb_per_100000_requests_after_a_fifth": round(float(slope) * 1e5, 2),
        "rss_mb": resident,
        "step": size,
    }


def plot(found: dict[str, object], path: Path) -> None:
    from matplotlib.figure import Figure

    resident, step = found["rss_mb"], found["step"]
    assert isinstance(resident, list)
    assert isinstance(step, int)
    figure = Figure(figsize=(8, 3.5), layout="constrained")
    axes = figure.subplots()
    axes.plot([(i + 1) * step for i in range(len(resident))], resident, linewidth=1.5)
    axes.set_ylim(0, max(resident) * 1.2)
    axes.set_xlabel("requests")
    axes.set_ylabel("resident memory (MB)")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--new", type=float, default=0.05)
    parser.add_argument("--plot", type=Path)
    chosen = parser.parse_args()
    found = asyncio.run(measure(chosen.requests, chosen.new))
    if chosen.plot:
        plot(found, chosen.plot)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
