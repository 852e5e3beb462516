"""Draws the dashboard without Grafana: real model, real load, real Prometheus, the same queries.

    python -m tests.load.draw_dashboard OUT.png [--seconds 90]

For looking at; `test_prometheus.py` is the check. Needs prometheus and matplotlib.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import suppress
from itertools import islice
from pathlib import Path

import matplotlib as mpl

from app.artifacts.store import Store
from app.bench.callers import Connections
from app.bench.messages import customer_messages
from app.bench.open_loop import arrivals, offer
from app.bench.service_process import ServiceProcess
from tests.load.prometheus import Prometheus, Query, Series, dashboard_queries
from tests.load.version_swaps import DAMAGED, GOOD, NAME, OTHER, SEED, activate, copy_store

mpl.use("agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

COLUMNS = 4
WINDOW = "10s"
CATALOG = ("Green tea, 20 bags", "Coconut water 330 ml", "Olive oil 500 ml", "Blue mug", "Red mug")
CARTS = (
    "two green teas please",
    "take the blue mug out",
    "a mug",
    "where is my parcel",
    "3 x olive oil",
)


async def load(port: int, seconds: float, rate: float) -> None:
    """Single messages, a bulk, something empty, two changes of version, one refused, and a shadow."""
    connections = Connections(port)
    messages = customer_messages(SEED)

    async def carts() -> None:
        for text in CARTS * int(seconds / 10):
            await asyncio.to_thread(cart_and_feedback, port, text)
            await asyncio.sleep(2.0)

    async def changes() -> None:
        await asyncio.sleep(seconds / 6)
        for version in (OTHER, DAMAGED):
            await asyncio.to_thread(activate, port, version)
            await asyncio.sleep(seconds / 12)
        await asyncio.to_thread(shadow, port)
        await bulks()

    async def bulks() -> None:
        await connections.post(" ")
        texts = list(islice(messages, 60))
        for _ in range(40):  # repeated, as bulk work may be: most of it comes from the cache
            await asyncio.to_thread(bulk, port, texts)

    moments = arrivals(rate, seconds, SEED)
    await asyncio.gather(offer(connections.post, messages, moments), changes(), carts())
    await connections.close()


def send(port: int, method: str, path: str, body: object) -> bytes:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}",
        json.dumps(body).encode(),
        {"Content-Type": "application/json", "Request-Timeout-Ms": "60000"},
        method=method,
    )
    # Refusals are drawn like all else.
    with suppress(urllib.error.HTTPError), urllib.request.urlopen(request, timeout=90) as answer:
        content: bytes = answer.read()
        return content
    return b"{}"


def cart_and_feedback(port: int, text: str) -> None:
    send(port, "POST", "/v1/cart", {"text": text, "catalog": CATALOG})
    decision = json.loads(send(port, "POST", "/v1/classify", {"text": text}))
    given = {"id": decision.get("id"), "intent": "cart_add"}
    send(port, "POST", "/v1/feedback", given)


def shadow(port: int) -> None:
    path = f"/v1/admin/models/{NAME}/shadow"
    send(port, "PUT", path, {"version": GOOD, "share": 0.5})


def bulk(port: int, texts: list[str]) -> None:
    send(port, "POST", "/v1/classify/batch", {"texts": texts})


def label(query: Query, labels: dict[str, str]) -> str:
    text = query.legend
    for key, value in labels.items():
        text = text.replace("{{" + key + "}}", value)
    return text.replace("127.0.0.1:", "")[:44]


def draw(
    axes: Axes, queries: list[Query], prometheus: Prometheus, start: float, end: float
) -> None:
    axes.set_title(queries[0].panel, fontsize=8)
    axes.tick_params(labelsize=6)
    if queries[0].kind in {"bargauge", "table"}:
        found = prometheus.ask(queries[0].expression)
        found.sort(key=lambda one: float(one["value"][1]))
        names = [one["metric"].get("intent") or str(one["metric"].get("version")) for one in found]
        axes.barh(names, [float(one["value"][1]) for one in found])
        axes.tick_params(labelsize=4)
        return
    for query in queries:
        series: Series = prometheus.ask_range(query.expression, start, end, 1.0)
        if query.kind == "heatmap":
            series = sorted(series, key=lambda one: float(one["metric"]["le"]))[-8:]
        for one in series:
            times = [float(at) - start for at, _ in one["values"]]
            axes.plot(
                times, [float(v) for _, v in one["values"]], label=label(query, one["metric"])
            )
    axes.set_ylim(bottom=0)
    if axes.lines and queries[0].legend:
        axes.legend(fontsize=4, loc="upper left")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--seconds", type=float, default=90.0)
    parser.add_argument("--rate", type=float, default=8.0, help="Single messages a second.")
    chosen = parser.parse_args()
    artifact = Store(Path(os.environ.get("INTENT_STORE_DIR", "model_store"))).resolve(NAME)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        copy_store(artifact, folder / "store")
        os.environ["INTENT_STORE_DIR"] = str(folder / "store")
        os.environ["INTENT_FEEDBACK_FILE"] = str(folder / "feedback")
        with (
            ServiceProcess(cache_bytes=1 << 24) as service,
            Prometheus(folder, service.port, folder / "prometheus.log") as prometheus,
        ):
            start = time.time()
            asyncio.run(load(service.port, chosen.seconds, chosen.rate))
            end = time.time()
            panels: dict[str, list[Query]] = {}
            for query in dashboard_queries(WINDOW):
                panels.setdefault(query.panel, []).append(query)
            rows = -(-len(panels) // COLUMNS)
            figure, grid = plt.subplots(rows, COLUMNS, figsize=(18, 2.6 * rows))
            for axes, queries in zip(grid.flat, panels.values(), strict=False):
                draw(axes, queries, prometheus, start, end)
            for axes in list(grid.flat)[len(panels) :]:
                axes.axis("off")
            empty = [
                query.panel
                for queries in panels.values()
                for query in queries
                if not prometheus.ask_range(query.expression, start, end, 1.0)
            ]
            figure.tight_layout()
            figure.savefig(chosen.out, dpi=110)
    print(f"{len(panels)} panels; without data: {empty or 'none'}", file=sys.stderr)


if __name__ == "__main__":
    main()
