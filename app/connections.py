"""Connections that come to nothing: bounds on the head of a request, before any of our code sees it."""

from __future__ import annotations

import asyncio
import contextlib
import resource

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_HEAD_BYTES = 64 << 10
_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"content-length: 0\r\nconnection: close\r\n\r\n"
)


class PatientProtocol(HttpToolsProtocol):
    """Hangs up on a head that is too slow or too large, and on a body that goes on after its answer."""

    read_seconds = 30.0
    """From the connection, or the first byte after the last answer, to the end of the head."""

    _timer: asyncio.TimerHandle | None = None
    _head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._start_clock()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_clock()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if getattr(self.cycle, "response_complete", True):  # none yet, or none in progress
            if self._timer is None:
                self._start_clock()
            if not getattr(self.cycle, "more_body", False):  # the rest of a refused body is no head
                self._head_bytes += len(data)
        super().data_received(data)
        if self._timer is not None and self._head_bytes > _HEAD_BYTES:
            self.transport.write(_TOO_LARGE)
            self.transport.close()

    def on_headers_complete(self) -> None:
        self._stop_clock()
        super().on_headers_complete()

    def _start_clock(self) -> None:
        self._timer = self.loop.call_later(self.read_seconds, self._hang_up)

    def _stop_clock(self) -> None:
        self._head_bytes = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _hang_up(self) -> None:
        if not self.transport.is_closing():
            self.transport.abort()


def allow_many_connections() -> None:
    """Raise the bound on open files as far as this process may: a thousand idle callers are no crowd."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
