"""The service as its operators run it: a process of its own, here on a free port."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from pathlib import Path
from time import monotonic, sleep
from types import TracebackType
from typing import Self

from app.errors import ShopintentError

_START_SECONDS = 300.0
_STOP_SECONDS = 60.0


class BenchFailed(ShopintentError):
    """The service did not start or did not answer as it should."""


class ServiceProcess:
    """``shopintent serve`` with the caller's own settings but for the address and the cache."""

    def __init__(self, cache_bytes: int) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "app", "serve", "--no-hints"],
            env={
                **os.environ,
                "INTENT_HOST": "127.0.0.1",
                "INTENT_PORT": str(self.port),
                "INTENT_CACHE_BYTES": str(cache_bytes),
                "INTENT_DRAIN_SECONDS": "0",
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._log,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def __enter__(self) -> Self:
        try:
            self._wait_until_ready()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _at: TracebackType | None,
    ) -> None:
        self._stop()

    def _wait_until_ready(self) -> None:
        end = monotonic() + _START_SECONDS
        while not self._ready():
            if self._process.poll() is not None:
                raise BenchFailed(
                    f"the service ended at once. Its last words: {self._last_words()}"
                )
            if monotonic() > end:
                raise BenchFailed(f"the service was not ready after {_START_SECONDS:.0f} s")
            sleep(0.05)

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(
                f"http://127.0.0.1:{self.port}/readyz", timeout=5
            ) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def _last_words(self) -> str:
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").splitlines()
        return " / ".join(lines[-2:])

    def _stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    def memory(self) -> dict[str, float]:
        """Resident megabytes (10^6 bytes) now, ``rss_mb``, and at most so far, ``rss_peak_mb``.

        Linux tells both; elsewhere ``ps`` tells the first.
        """
        try:
            lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        except OSError:
            told = subprocess.run(
                ["ps", "-o", "rss=", "-p", str(self.pid)],  # noqa: S607 - ps is where the system has it
                capture_output=True,
                text=True,
                check=False,
            ).stdout
            return {"rss_mb": int(told or 0) * 1024 / 1e6}
        kilobytes = {
            name: int(value.split()[0])
            for name, _, value in (line.partition(":") for line in lines)
            if name in {"VmRSS", "VmHWM", "RssAnon"}
        }
        names = {"VmRSS": "rss_mb", "RssAnon": "rss_anonymous_mb", "VmHWM": "rss_peak_mb"}
        return {names[key]: value * 1024 / 1e6 for key, value in kilobytes.items()}

    def forget_peak(self) -> None:
        """Let the peak count from now on: what loading took is another matter. Linux only."""
        try:
            Path(f"/proc/{self.pid}/clear_refs").write_text("5")
        except OSError:
            return
