"""Runs the application in this process: signals, draining, exit status."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Callable, Sequence
from time import monotonic
from types import FrameType
from typing import Any

import structlog
import uvicorn

from app.connections import PatientProtocol, allow_many_connections
from app.serving.lifecycle import Lifecycle

log = structlog.get_logger()

WHAT_TO_DO = (
    "`shopintent models list` shows what is in the store, `shopintent models verify` what is wrong "
    "with it, and `shopintent models build` makes weights that are missing; INTENT_STORE_DIR says where "
    "the store is, by default `model_store` in the directory that the service is started in"
)
_ON_THEIR_WAY = 0.25
"""Seconds for requests that are under way on known connections when the listener closes."""
_LATECOMERS = 3.0
"""Seconds at most for callers who are connected by then and have never asked."""
_LOOKS = 60


class DrainingServer(uvicorn.Server):
    """On SIGTERM it first says that it is going, then finishes what it has taken, then goes.

    For ``drain_seconds`` it still listens: readiness and new work get 503 with ``Retry-After`` and
    ``Connection: close``, so that balancers and keep-alive callers turn away by themselves. A second
    signal, or SIGINT from a person at a terminal, skips that pause.
    """

    def __init__(
        self,
        application: Callable[..., Any],
        lifecycle: Lifecycle,
        *,
        host: str,
        port: int,
        drain_seconds: float,
        read_seconds: float = PatientProtocol.read_seconds,
        trusted_proxies: Sequence[str] = (),
        on_live: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(
            uvicorn.Config(
                application,
                host=host,
                port=port,
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=60,
                http=type("Protocol", (PatientProtocol,), {"read_seconds": read_seconds}),
                proxy_headers=bool(trusted_proxies),
                forwarded_allow_ips=list(trusted_proxies),
                ws="none",
            )
        )
        self.lifecycle = lifecycle
        self.drain_seconds = drain_seconds
        self._on_live: Callable[[], None] | None = on_live
        self._stop_at: float | None = None

    def serve_until_stopped(self) -> int:
        """Run; the exit status of the process."""
        allow_many_connections()
        self.run()
        return 1 if self.lifecycle.failure or not self.started else 0

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # The parent would raise the signal again at the end; a drained exit is a clean exit.
        del frame
        first = self._stop_at is None
        self._stop_at = monotonic() + (
            self.drain_seconds if first and sig == signal.SIGTERM and self.started else 0.0
        )
        if not first and sig == signal.SIGINT:
            self.force_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # Closing a listener resets those whom the kernel has connected and nobody has accepted, and
        # the parent cuts off those who have not asked yet. All of them get their answer first.
        for accepted in self._stop_listening():
            await asyncio.get_running_loop().connect_accepted_socket(self._protocol, accepted)
        await asyncio.sleep(min(_ON_THEIR_WAY, self.drain_seconds))
        for _ in range(_LOOKS if self.drain_seconds else 0):
            if self.force_exit or not self._expects_somebody():
                break
            await asyncio.sleep(_LATECOMERS / _LOOKS)
        await super().shutdown(sockets)

    def _expects_somebody(self) -> bool:
        """Whether a caller is connected who has not asked anything yet."""
        known = self.server_state.connections
        return any(isinstance(one, PatientProtocol) and one.cycle is None for one in known)

    def _stop_listening(self) -> list[socket.socket]:
        """Close the listeners; returns the connections that were waiting to be accepted."""
        waiting: list[socket.socket] = []
        for server in self.servers:
            kept = [socket.socket(fileno=os.dup(one.fileno())) for one in server.sockets]
            server.close()
            for listener in kept:
                listener.settimeout(0)
                with contextlib.suppress(OSError), listener:
                    while True:
                        waiting.append(listener.accept()[0])
        return waiting

    def _protocol(self) -> asyncio.Protocol:
        make: Callable[..., asyncio.Protocol] = self.config.http_protocol_class
        return make(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )

    async def on_tick(self, counter: int) -> bool:
        if self.lifecycle.failure is not None:
            log.error("no model could be loaded", reason=self.lifecycle.failure, help=WHAT_TO_DO)
            return True
        if self.lifecycle.live and self._on_live:
            self._on_live()
            self._on_live = None
        if self._stop_at is not None:
            if not self.lifecycle.draining:
                self.lifecycle.draining = True
                log.info("draining", seconds=self.drain_seconds)
            if monotonic() >= self._stop_at:
                return True
        return await super().on_tick(counter)
