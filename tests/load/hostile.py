"""How much hostile callers slow down the others: ``python -m tests.load.hostile``.

The default model is served with keys. One caller asks in turn and is timed; meanwhile others, in a
process of their own, do each of the things below, with quiet between. The last line is JSON: for each the
50th and 99th percentile in milliseconds, and the 99th over that of all the quiet.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import resource
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx

from app.api.keys import Scope, new_key
from tests.process import ROOT, Process

HEAD = "POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
TEXTS = ("where is my parcel {}", "gdje je moja narudžba {}", "quiero devolver el pedido {}")


async def half_open(port: int, _key: str) -> None:
    """1,000 connections that say nothing."""
    await _hold(port, 1000, b"")


async def slow_heads(port: int, _key: str) -> None:
    """1,000 callers who send a byte of a header a second."""
    await _hold(port, 1000, HEAD.encode() + b"X-Slow: ", drip=b"a")


async def slow_bodies(port: int, key: str) -> None:
    """300 callers with a key who send a byte of a body a second."""
    head = f"{HEAD}Authorization: Bearer {key}\r\nContent-Length: 10000\r\n\r\n"
    await _hold(port, 300, head.encode(), drip=b" ")


async def strangers(port: int, _key: str) -> None:
    """Megabytes without a key, four at a time, without pause."""
    await _post(port, "wrong", [b"[" * 1_000_000], callers=4)


async def endless(port: int, _key: str) -> None:
    """Trailers, a header and a chunk's extension without end, without a key, 12 callers at a time."""
    chunked = f"{HEAD}Transfer-Encoding: chunked\r\n\r\n".encode()
    beginnings = (chunked + b"0\r\nX: ", HEAD.encode() + b"X: ", chunked + b"1;x=")
    piece = b"a" * 65_536

    async def one(beginning: bytes) -> None:
        while True:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(beginning)
                while not writer.is_closing():
                    writer.write(piece)
                    await writer.drain()
            await asyncio.sleep(0.1)

    await asyncio.gather(*(one(beginnings[n % 3]) for n in range(12)))


async def deaf(port: int, _key: str) -> None:
    """100 callers without a key who ask for the API's description and read nothing of it."""

    async def one() -> None:
        while True:
            with contextlib.suppress(OSError):
                reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1)
                for _ in range(30):
                    writer.write(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n")
                    await asyncio.sleep(1.0)
                writer.close()
                del reader

    await asyncio.gather(*(one() for _ in range(100)))


async def megabytes(port: int, key: str) -> None:
    """Megabytes with a key, twice a second: numbers, fields, depth, one long text."""
    bodies = [
        b'{"texts": [' + b"1," * 499_000 + b"1]}",
        json.dumps({f"k{n}": 1 for n in range(80_000)}).encode(),
        b"[" * 1_000_000,
        b'{"text": "' + b"a" * 990_000 + b'"}',
    ]
    await _post(port, key, bodies, callers=1, pause=0.5)


async def _hold(port: int, count: int, beginning: bytes, drip: bytes = b"") -> None:
    async def one() -> None:
        while True:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(beginning)
                while not writer.is_closing():
                    await asyncio.sleep(1.0)
                    writer.write(drip)
                    await writer.drain()

    await asyncio.gather(*(one() for _ in range(count)))


async def _post(
    port: int, key: str, bodies: list[bytes], *, callers: int, pause: float = 0.0
) -> None:
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}

    async def one() -> None:
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", headers=headers
        ) as client:
            while True:
                for body in bodies:
                    with contextlib.suppress(httpx.TransportError):
                        await client.post("/v1/classify/batch", content=body)
                    await asyncio.sleep(pause)

    await asyncio.gather(*(one() for _ in range(callers)))


Attack = Callable[[int, str], Awaitable[None]]
ATTACKS: tuple[Attack, ...] = (
    half_open,
    slow_heads,
    slow_bodies,
    strangers,
    endless,
    deaf,
    megabytes,
)


def _run(attack: Attack, port: int, key: str) -> None:
    soft, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(most, 4096)), most))
    asyncio.run(attack(port, key))


def timed(client: httpx.Client, seconds: float, name: str) -> list[float]:
    """Milliseconds of requests sent one after the other."""
    spent = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        text = TEXTS[len(spent) % len(TEXTS)].format(f"{name} {len(spent)}")
        started = time.perf_counter()
        assert client.post("/v1/classify", json={"text": text}).status_code == 200
        spent.append((time.perf_counter() - started) * 1e3)
        time.sleep(0.01)
    return spent


def p99(spent: list[float]) -> float:
    return statistics.quantiles(spent, n=100)[98]


def main() -> int:
    """Exit status 1 when anything more than doubles the 99th percentile."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="for each attack")
    parser.add_argument("--only", nargs="*", help="names of attacks; by default all")
    parser.add_argument("--store", type=Path, default=ROOT / "model_store")
    given = parser.parse_args()
    secret, key = new_key("load", [Scope.CLASSIFY])
    findings: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        settings = {"INTENT_KEYS": key.line, "INTENT_CACHE_BYTES": "0", "INTENT_DRAIN_SECONDS": "0"}
        service = Process(given.store, Path(folder) / "log", **settings)
        with (
            service,
            httpx.Client(
                base_url=service.url, headers={"authorization": f"Bearer {secret}"}, timeout=60
            ) as client,
        ):
            service.wait_until_ready(240)
            timed(client, 3.0, "warm")
            quiet = timed(client, given.seconds / 2, "before")
            spent: dict[str, list[float]] = {}
            for attack in ATTACKS:
                if given.only and attack.__name__ not in given.only:
                    continue
                attacker = multiprocessing.Process(target=_run, args=(attack, service.port, secret))
                attacker.start()
                time.sleep(2.0)
                spent[attack.__name__] = timed(client, given.seconds, attack.__name__)
                attacker.kill()
                attacker.join()
                time.sleep(1.0)
                quiet += timed(client, given.seconds / 2, f"after {attack.__name__}")
            with socket.create_connection(("127.0.0.1", service.port)):
                pass
            assert service.stop() == 0
    usual = p99(quiet)
    for name, times in {"quiet": quiet, **spent}.items():
        findings[name] = {
            "requests": len(times),
            "p50_ms": round(statistics.median(times), 1),
            "p99_ms": round(p99(times), 1),
            "over_quiet": round(p99(times) / usual, 2),
        }
        print(name, findings[name])
    print(json.dumps(findings))
    return int(any(one["over_quiet"] > 2.0 for one in findings.values()))


if __name__ == "__main__":
    sys.exit(main())
