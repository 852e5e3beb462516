"""Two replicas behind the shipped nginx configuration, under load; one is stopped, the other killed.

    python -m tests.load.replicas [--seconds 40] [--rate 15] [--plain]

A quarter into the run one replica gets SIGTERM and a new one takes its place, at the half the other gets
SIGKILL and is replaced at three quarters. ``--plain`` takes `non_idempotent` out of the configuration, to
show what it is worth. Wants nginx and a quiet machine. The last line is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import signal
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import httpx

from app.bench.callers import Connections
from app.bench.latency import Latencies
from app.bench.messages import customer_messages
from app.bench.open_loop import Answer, arrivals, offer
from tests.conftest import wait_for
from tests.process import ROOT, Process, free_port

CONFIGURATION = ROOT / "docker" / "nginx"
SEED = 8


class Nginx:
    """Debian's nginx with the shipped files; only addresses and folders are others."""

    def __init__(self, folder: Path, replicas: list[int], *, plain: bool = False) -> None:
        self.folder = folder
        self.port = free_port()
        text = (CONFIGURATION / "nginx.conf").read_text()
        for shipped, ours in (
            (" /tmp/", f" {folder}/"),
            ("listen 8080;", f"listen 127.0.0.1:{self.port};"),
            ("/dev/stdout", f"{folder}/access.log"),
            ("/dev/stderr", f"{folder}/error.log"),
            *([(" non_idempotent", "")] if plain else []),
        ):
            assert shipped in text
            text = text.replace(shipped, ours)
        (folder / "nginx.conf").write_text(text)
        (folder / "upstream.conf").write_text(_upstream(replicas))
        user = " user root;" if os.geteuid() == 0 else ""
        self._process = subprocess.Popen(
            ["nginx", "-p", folder, "-c", folder / "nginx.conf", "-g", f"daemon off;{user}"],
            stderr=subprocess.PIPE,
        )

    def __enter__(self) -> Self:
        wait_for((self.folder / "nginx.pid").exists)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGQUIT)
        self._process.wait(30)
        self._process.stderr.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def requests(self) -> list[dict[str, Any]]:
        """What it has logged, a request each."""
        lines = (self.folder / "access.log").read_text().splitlines()
        return [json.loads(line) for line in lines]


def _upstream(replicas: list[int]) -> str:
    """The shipped block with these ports in place of names; Debian's nginx looks no names up again."""
    text = (CONFIGURATION / "upstream.conf").read_text()
    text = re.sub(r"^resolver .*\n", "", text, flags=re.MULTILINE)
    servers = list(dict.fromkeys(re.findall(r"server \S+ resolve ", text)))
    assert len(servers) == len(replicas)
    for server, port in zip(servers, replicas, strict=True):
        text = text.replace(server, f"server 127.0.0.1:{port} ")
    return text


class Replicas:
    """Two services, each on a port that it gets again when it is replaced."""

    def __init__(self, store: Path, folder: Path, **settings: str) -> None:
        self._store = store
        self._folder = folder
        self._settings = settings
        self._logs = 0
        self.ports = [free_port(), free_port()]
        self.running: list[Process] = []

    def __enter__(self) -> Self:
        for port in self.ports:
            self.running.append(self._start(port))
        try:
            for replica in self.running:
                replica.wait_until_ready(240)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for replica in self.running:
            replica.__exit__()

    def _start(self, port: int) -> Process:
        self._logs += 1
        log = self._folder / f"replica-{self._logs}.log"
        return Process(self._store, log, port, **self._settings)

    def stop(self, number: int) -> int:
        """SIGTERM; the exit status."""
        return self.running[number].stop(90)

    def kill(self, number: int) -> None:
        """SIGKILL."""
        self.running[number].process.kill()
        self.running[number].process.wait()

    def put_back(self, number: int) -> None:
        """Another process at the same address, ready."""
        self.running[number].__exit__()
        self.running[number] = self._start(self.ports[number])
        self.running[number].wait_until_ready(240)


@dataclass(frozen=True, slots=True)
class Step:
    """Something that is done to a replica, at a share of the run."""

    at: float
    name: str
    act: Callable[[], object]


def steps(replicas: Replicas) -> list[Step]:
    return [
        Step(0.25, "SIGTERM", lambda: (replicas.stop(0), replicas.put_back(0))),
        Step(0.5, "SIGKILL", lambda: replicas.kill(1)),
        Step(0.75, "replaced", lambda: replicas.put_back(1)),
    ]


async def under_load(
    port: int, rate: float, seconds: float, plan: list[Step]
) -> tuple[list[Answer], dict[str, float]]:
    """Open-loop load while the steps are taken; every answer, and when each step began."""
    connections = Connections(port)
    began: dict[str, float] = {}
    loop = asyncio.get_running_loop()
    start = loop.time()

    async def take() -> None:
        for step in plan:
            await asyncio.sleep(max(0.0, start + step.at * seconds - loop.time()))
            began[step.name] = loop.time() - start
            await asyncio.to_thread(step.act)

    taking = asyncio.create_task(take())
    answers = await offer(connections.post, customer_messages(SEED), arrivals(rate, seconds, SEED))
    await taking
    await connections.close()
    return answers, began


def findings(
    answers: list[Answer], began: dict[str, float], requests: list[dict[str, Any]]
) -> dict[str, object]:
    """Counts, latencies, and how many answers came from a second replica."""
    statuses = Counter(str(answer.status) for answer in answers)
    served = [answer.latency for answer in answers if answer.status == 200]
    found = Latencies.of(served)
    second = [one for one in requests if " " in one["upstream"]]
    return {
        "requests": len(answers),
        "statuses": dict(statuses),
        "asked_a_second_replica": dict(Counter(one["upstream_status"] for one in second)),
        "p50_ms": found.p50,
        "p99_ms": found.p99,
        "max_ms": max(served) * 1e3,
        "steps_s": {name: round(moment, 1) for name, moment in began.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=40)
    parser.add_argument("--rate", type=float, default=15, help="messages a second")
    parser.add_argument("--store", type=Path, default=ROOT / "model_store")
    parser.add_argument("--plain", action="store_true", help="without non_idempotent")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        with (
            Replicas(chosen.store, folder, INTENT_CACHE_BYTES="0") as replicas,
            Nginx(folder, replicas.ports, plain=chosen.plain) as nginx,
        ):
            assert httpx.get(f"{nginx.url}/readyz").status_code == 200
            load = under_load(nginx.port, chosen.rate, chosen.seconds, steps(replicas))
            answers, began = asyncio.run(load)
        print(json.dumps(findings(answers, began, nginx.requests())))


if __name__ == "__main__":
    main()
