"""Lean HTTP callers on bare sockets: what they spend is not left for the service on the same cores."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator, Sequence
from time import perf_counter
from types import TracebackType
from typing import Self

_PATIENCE = 60.0
GONE = 0
"""The status of a request whose connection broke."""


def encode(text: str, port: int, deadline: float | None = None) -> bytes:
    """A request as it goes over the wire; ``deadline`` in seconds."""
    body = json.dumps({"text": text}, ensure_ascii=False).encode(errors="replace")
    patience = f"Request-Timeout-Ms: {deadline * 1e3:.0f}\r\n" if deadline else ""
    head = (
        "POST /v1/classify HTTP/1.1\r\n"
        f"Host: 127.0.0.1:{port}\r\n"
        "Content-Type: application/json\r\n"
        f"{patience}"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def read_head(head: bytes) -> tuple[int, int]:
    """Status and body length of an answer's head."""
    status, *headers = head.split(b"\r\n")
    for header in headers:
        name, _, value = header.partition(b":")
        if name.lower() == b"content-length":
            return int(status.split()[1]), int(value)
    return int(status.split()[1]), 0


class Caller:
    """One caller with one connection, who asks and waits."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._socket = socket.create_connection(("127.0.0.1", port), _PATIENCE)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _at: TracebackType | None,
    ) -> None:
        self._socket.close()

    def time(self, text: str) -> float:
        """Seconds until the whole answer is here. Raises ``ConnectionError`` unless it is a 200."""
        request = encode(text, self._port)
        started = perf_counter()
        self._socket.sendall(request)
        received = b""
        while b"\r\n\r\n" not in received:
            received += self._receive()
        head, _, body = received.partition(b"\r\n\r\n")
        status, length = read_head(head)
        while len(body) < length:
            body += self._receive()
        seconds = perf_counter() - started
        if status != 200:
            raise ConnectionError(f"the service answered {status}")
        return seconds

    def _receive(self) -> bytes:
        received = self._socket.recv(65536)
        if not received:
            raise ConnectionError("the service closed the connection")
        return received


class Connections:
    """As many keep-alive connections as are needed at once, for one event loop."""

    def __init__(self, port: int, deadline: float | None = None) -> None:
        """``deadline`` in seconds goes with every request."""
        self._port = port
        self._deadline = deadline
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def open(self, count: int) -> None:
        """Have so many ready."""
        for _ in range(count):
            self._idle.append(await asyncio.open_connection("127.0.0.1", self._port))

    async def post(self, text: str) -> int:
        """The status of the answer, or :data:`GONE`."""
        # The service closes what has been idle for seconds.
        while self._idle and self._idle[-1][0].at_eof():
            self._idle.pop()[1].close()
        try:
            if not self._idle:
                await self.open(1)
            reader, writer = self._idle.pop()
        except OSError:
            return GONE
        try:
            writer.write(encode(text, self._port, self._deadline))
            status, length = read_head(await reader.readuntil(b"\r\n\r\n"))
            await reader.readexactly(length)
        except (OSError, asyncio.IncompleteReadError):
            writer.close()
            return GONE
        self._idle.append((reader, writer))
        return status

    async def close(self) -> None:
        for _, writer in self._idle:
            writer.close()
        self._idle.clear()


async def ask_at_once(connections: Connections, texts: Sequence[str], callers: int) -> float:
    """Seconds until ``callers``, each asking and waiting, have all ``texts`` answered.

    Raises ``ConnectionError`` unless all are answered with 200.
    """
    waiting: Iterator[str] = iter(texts)
    failed: list[int] = []

    async def caller() -> None:
        for text in waiting:
            status = await connections.post(text)
            if status != 200:
                failed.append(status)

    started = perf_counter()
    await asyncio.gather(*(caller() for _ in range(callers)))
    seconds = perf_counter() - started
    if failed:
        raise ConnectionError(f"{len(failed)} of {len(texts)} not answered: {sorted(set(failed))}")
    return seconds
