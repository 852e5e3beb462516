"""``shopintent serve`` as its users run it: a process of its own on a free port, its log in a file."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

import httpx

from tests.conftest import PATIENCE, wait_for

ROOT = Path(__file__).parent.parent
SHOPINTENT = Path(sys.executable).with_name("shopintent")


def environment(store: Path, **settings: str) -> dict[str, str]:
    """The caller's environment without its own settings of the service; one thread, given store."""
    foreign = {k: v for k, v in os.environ.items() if not k.startswith("INTENT_")}
    return foreign | {"INTENT_STORE_DIR": str(store), "INTENT_THREADS": "1", **settings}


def free_port() -> int:
    """A port on loopback that nobody listens on at this moment."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


class Process:
    """Running from the moment it is made; left alone, it is killed at the end of the block."""

    def __init__(self, store: Path, log: Path, port: int | None = None, **settings: str) -> None:
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = log
        with log.open("w") as stream:
            self.process = subprocess.Popen(
                [SHOPINTENT, "serve"],
                cwd=ROOT,
                env=environment(store, **{"INTENT_PORT": str(self.port), **settings}),
                stdout=subprocess.PIPE,
                stderr=stream,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def ready(self) -> bool:
        assert self.process.poll() is None, f"ended at once; its log: {self.log.read_text()}"
        try:
            return httpx.get(f"{self.url}/readyz").status_code == 200
        except httpx.TransportError:
            return False

    def wait_until_ready(self, patience: float = PATIENCE) -> Self:
        wait_for(self.ready, patience)
        return self

    def stop(self, patience: float = PATIENCE) -> int:
        """SIGTERM; the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(patience)

    def lines(self) -> list[dict[str, Any]]:
        """The log, each line an object."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]
