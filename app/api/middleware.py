"""Around every request: its id, its clock, its log line, its counters, and the bound on its body."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from time import perf_counter
from uuid import uuid4

import structlog
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import metrics
from app.api.hangup import HUNG_UP, CallerGone
from app.api.problems import internal_error
from app.serving.lifecycle import Lifecycle

log = structlog.get_logger()

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
_QUIET = frozenset({"/livez", "/readyz", "/startupz", "/health", "/metrics"})
_UNROUTED = "unmatched"

_CONTENT_POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    b"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = (
    (b"content-security-policy", _CONTENT_POLICY),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
)


class RequestContext:
    """Outermost, around all that is answered."""

    def __init__(self, app: ASGIApp, lifecycle: Lifecycle, routes: Sequence[BaseRoute]) -> None:
        self.app = app
        self.lifecycle = lifecycle
        self.routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = perf_counter()
        request_id = _request_id(scope)
        status = HUNG_UP

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = message["headers"] = list(message.get("headers", ()))
                headers.append((b"x-request-id", request_id))
                headers += _HEADERS
                if not any(name == b"cache-control" for name, _ in headers):
                    headers.append((b"cache-control", b"no-store"))
                if self.lifecycle.draining:
                    # So that no caller sends the next request into a closing connection.
                    headers.append((b"connection", b"close"))
            await send(message)

        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id.decode())
        metrics.IN_FLIGHT.inc()
        try:
            await self.app(scope, receive, send_with_headers)
        finally:
            metrics.IN_FLIGHT.dec()
            if "route" not in scope:  # whom the guard refused is counted where he wanted to go
                scope["route"] = next(
                    (r for r in self.routes if r.matches(scope)[0] is Match.FULL), None
                )
            _account(scope, status, perf_counter() - started)


class Unforeseen:
    """Makes a problem of what nobody expected. Within CORS, or the pages of a named origin could not
    read it: to them it would be a network that failed.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        answering = False

        async def send_and_tell(message: Message) -> None:
            nonlocal answering
            answering = True
            await send(message)

        try:
            await self.app(scope, receive, send_and_tell)
        except Exception as error:
            log.exception("request failed", route=_route(scope), exc_info=error)
            if answering:
                raise
            await internal_error()(scope, receive, send)


class BodyLimit:
    """Refuses a body that is too large, by its announced length or as soon as too much has come.

    One that has not come whole within ``seconds`` is refused too. Of a caller who hangs up before, what
    reads the body hears as :class:`CallerGone`.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, seconds: float = 30.0) -> None:
        self.app = app
        self.max_bytes = max_bytes
        self.seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        announced = next((v for k, v in scope["headers"] if k == b"content-length"), b"0")
        # Digits only: the server has refused any other length already.
        refused = len(announced) > 15 or int(announced) > self.max_bytes
        received = 0
        whole = False
        deadline = perf_counter() + self.seconds

        async def receive_within_limit() -> Message:
            nonlocal received, whole
            if refused:
                raise HTTPException(413, self._detail)
            if whole:  # all that can still come is the end of the connection
                return await receive()
            try:
                async with asyncio.timeout(deadline - perf_counter()):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(408, headers={"Connection": "close"}) from None
            if message["type"] == "http.disconnect":
                raise CallerGone
            whole = not message.get("more_body", False)
            received += len(message.get("body", b""))
            if received > self.max_bytes:
                raise HTTPException(413, self._detail)
            return message

        await self.app(scope, receive_within_limit, send)

    @property
    def _detail(self) -> str:
        return f"at most {self.max_bytes} bytes"


def _request_id(scope: Scope) -> bytes:
    """The caller's own id if it is fit for a log, else a new one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
            return bytes(value)
    return uuid4().hex.encode()


def _route(scope: Scope) -> str:
    """The template, never the address itself: that is the caller's free text."""
    return getattr(scope.get("route"), "path", None) or _UNROUTED


def _account(scope: Scope, status: int, seconds: float) -> None:
    route = _route(scope)
    metrics.REQUESTS.labels(route, str(status)).inc()
    metrics.REQUEST_DURATION.labels(route).observe(seconds)
    write = log.debug if route in _QUIET and status < 400 else log.info
    write(
        "request",
        method=scope["method"],
        route=route,
        status=status,
        duration_ms=round(seconds * 1e3, 2),
    )
