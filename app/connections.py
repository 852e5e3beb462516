"""Connections that come to nothing: bounds on what a caller sends and on how it reads, below our routes.

The server's own protocol bounds neither the head of a request nor the trailers behind a chunked body,
takes trailers for headers, loses the body of a request that offers an upgrade, and waits for ever on a
caller that does not read. No key is needed to do any of that, so it is settled here
(docs/decisions/0019).
"""

from __future__ import annotations

import asyncio
import contextlib
import resource

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_HEAD_BYTES = 64 << 10
_CHUNK_FRAMING = 8
"""Bytes around a piece of a chunked body that are nobody's fault: its length and two line ends."""
_PIPELINED = 32
"""Requests that may wait on one connection for the answers before them; clients of today send none."""
_REFUSED_PAUSE = 0.5
"""Seconds before the rest of a refused body is read."""
_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"content-length: 0\r\nconnection: close\r\n\r\n"
)


class _TooManyWaiting(Exception):
    """More requests on one connection than wait there."""


class PatientProtocol(HttpToolsProtocol):
    """Hangs up on a head that is too slow or too large, on trailers that are, on a body that goes on
    after its answer, and on a caller that does not take its answer.
    """

    read_seconds = 30.0
    """From the connection, or the first byte after the last answer, to the end of the head; and the
    longest that an answer waits for a caller to take it."""

    _timer: asyncio.TimerHandle | None = None
    _stalled: asyncio.TimerHandle | None = None
    _outside = 0
    """Bytes of the message under way that are not its body: head, chunk framing, trailers."""
    _in_head = True

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._start_clock()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_clock()
        if self._stalled is not None:
            self._stalled.cancel()
        super().connection_lost(exc)

    # ------------------------------------------------------------------------- what the caller sends

    def data_received(self, data: bytes) -> None:
        if self._timer is None and getattr(self.cycle, "response_complete", True):
            self._start_clock()
        self._unset_keepalive_if_required()
        self._outside += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._read_body_anew(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            self._refuse_unreadable()
        if self._outside > _HEAD_BYTES and not self.transport.is_closing():
            if not self._answering():
                self.transport.write(_TOO_LARGE)
            self.transport.close()
            self._expect_reader()

    def _answering(self) -> bool:
        started = getattr(self.cycle, "response_started", False)  # there may be no request yet
        return started and not self.cycle.response_complete

    def _refuse_unreadable(self) -> None:
        self.logger.warning("Invalid HTTP request received.")
        self.send_400_response("Invalid HTTP request received.")
        self._expect_reader()

    def on_message_begin(self) -> None:
        self._outside = 0
        self._in_head = True
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        # Trailers are dropped: what the application has seen of a request does not change any more,
        # and a proxy that checks heads has not seen them.
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._stop_clock()
        self._in_head = False
        if len(self.pipeline) >= _PIPELINED:
            raise _TooManyWaiting  # stops the parser: to the caller it is a 400
        super().on_headers_complete()
        if self.parser.should_upgrade():
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        self._outside = max(0, self._outside - len(body) - _CHUNK_FRAMING)
        super().on_body(body)

    def on_message_complete(self) -> None:
        if not self.parser.should_upgrade():  # else the parser takes the head for the whole request
            super().on_message_complete()

    # ---------------------------------------------------------------------------- offers to upgrade

    def _read_body_anew(self, rest: bytes) -> None:
        """Go on in HTTP/1.1, as a server may: Java's client offers HTTP/2 with its first request.

        The parser stops at the head of such a request, so another one reads the body, and whatever
        comes after it is never taken for a request.
        """
        framing = b"".join(
            name + b": " + value + b"\r\n"
            for name, value in self.headers
            if name in {b"content-length", b"transfer-encoding"}
        )
        self.parser = httptools.HttpRequestParser(_BodyOnly(self))
        head = b"POST / HTTP/1.1\r\nConnection: close\r\n" + framing + b"\r\n"
        try:
            self.parser.feed_data(head + rest)
        except httptools.HttpParserError:
            self._refuse_unreadable()

    # ------------------------------------------------------------------------- what the caller reads

    def pause_writing(self) -> None:
        super().pause_writing()
        self._expect_reader()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stalled is not None and not self.transport.is_closing():
            self._stalled.cancel()
            self._stalled = None

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():
            self._expect_reader()
        elif self.cycle.more_body and self.cycle.response_complete:
            # Refused before its body was read. Reading on at once would cost as much as a welcome body.
            self.flow.pause_reading()
            self.loop.call_later(_REFUSED_PAUSE, self._read_on)

    def _read_on(self) -> None:
        if not self.transport.is_closing():
            self.flow.resume_reading()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._expect_reader()

    def _expect_reader(self) -> None:
        """What is written must be taken in time. Closing alone waits for that without end."""
        if self._stalled is None:
            self._stalled = self.loop.call_later(self.read_seconds, self.transport.abort)

    # ---------------------------------------------------------------------------------------- clocks

    def _start_clock(self) -> None:
        self._timer = self.loop.call_later(self.read_seconds, self._hang_up)

    def _stop_clock(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _hang_up(self) -> None:
        if not self.transport.is_closing():
            self.transport.abort()


class _BodyOnly:
    """What a second parser tells of one request: its body and its end, and nothing behind it."""

    def __init__(self, protocol: PatientProtocol) -> None:
        self.on_body = protocol.on_body
        self.on_message_complete = protocol.on_message_complete


def allow_many_connections() -> None:
    """Raise the bound on open files as far as this process may: a thousand idle callers are no crowd."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
