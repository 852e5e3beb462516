"""Who may ask for what. Nothing is open that is not named in :data:`PUBLIC`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv6Address, ip_address, ip_network
from pathlib import Path
from typing import Literal, cast

import structlog
from fastapi import Request
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from app import metrics
from app.api.keyring import KeyRing
from app.api.keys import BadKeyList, find_key
from app.api.keys import Scope as KeyScope
from app.api.problems import FRAMEWORK, failure, problem
from app.api.rates import Rates

log = structlog.get_logger()

PUBLIC = frozenset({
    "/", "/docs", "/openapi.json",
    "/livez", "/readyz", "/startupz", "/health", "/v2/health/live", "/v2/health/ready",
})  # fmt: skip
"""Exact paths, to look at only: everything else, known or not, asks for a key first."""
_PUBLIC_FOLDER = "/static/"
_METRICS = "/metrics"
_FORWARDED = {b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-real-ip"}
_CHALLENGE = 'Bearer realm="shopintent"'


class UnsafeExposure(ValueError):
    """The service would be open to a network without keys, or its keys cannot be read."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: the name of a key, or ``anonymous`` where none is needed."""

    name: str
    scopes: frozenset[KeyScope]


NOBODY = Caller("anonymous", frozenset())
SCRAPER = Caller("anonymous", frozenset({KeyScope.METRICS}))
_LOCAL = Caller("anonymous", frozenset(KeyScope))
_OPEN = Caller("anonymous", frozenset(KeyScope) - {KeyScope.ADMIN})


@dataclass(frozen=True, slots=True)
class Access:
    """The rule in force: keys, or none (``ring`` is None), then ``everywhere`` or on loopback only."""

    ring: KeyRing | None
    everywhere: bool = False
    public_metrics: bool = False

    def is_public(self, path: str) -> bool:
        """Whether anybody may look at that address."""
        return (
            path in PUBLIC
            or path.startswith(_PUBLIC_FOLDER)
            or (self.public_metrics and path == _METRICS)
        )


def choose_access(
    auth: Literal["auto", "on", "off"],
    host: str,
    keys: str,
    keys_file: Path | None,
    *,
    public_metrics: bool = False,
) -> Access:
    """Keys wherever there are any; without any only on loopback, or where ``auth`` is ``off``.

    Raises :class:`UnsafeExposure` with what to do.
    """
    if auth == "off":
        if keys or keys_file:
            log.warning("INTENT_AUTH=off: the configured keys are not asked for")
        return Access(None, everywhere=True, public_metrics=public_metrics)
    if keys or keys_file:
        try:
            ring = KeyRing(keys, keys_file)
        except BadKeyList as error:
            raise UnsafeExposure(f"the list of keys cannot be used: {error}") from None
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
            raise UnsafeExposure(f"INTENT_KEYS_FILE cannot be read: {reason}") from None
        if ring.keys or auth == "auto":  # all revoked: nobody is let in, which is safe everywhere
            return Access(ring, public_metrics=public_metrics)
    elif auth == "auto" and is_loopback(host):
        return Access(None, public_metrics=public_metrics)
    where = (
        f"would listen on {host}" if auth == "auto" else "was told to ask for keys (INTENT_AUTH=on)"
    )
    raise UnsafeExposure(
        f"the service {where}, and there are no keys. Make one with `shopintent keys new NAME`, put "
        "its line into a file and name that in INTENT_KEYS_FILE; or set INTENT_AUTH=off if everybody "
        "who can reach the address may ask"
    )


class Guard:
    """Around every route: knows the caller, or refuses, before anything of the body is read."""

    def __init__(self, app: ASGIApp, access: Access, rates: Rates) -> None:
        self.app = app
        self.access = access
        self.rates = rates

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        caller = self._public(scope) or self._caller(scope)
        if isinstance(caller, Response):
            await caller(scope, receive, send)
            return
        if caller not in {NOBODY, SCRAPER}:
            structlog.contextvars.bind_contextvars(client=caller.name)
            metrics.CLIENT_REQUESTS.labels(caller.name).inc()
            bucket = caller.name if self.access.ring else network_of(_address(scope, "client"))
            refused = self.rates.take(bucket)
            if refused is not None:
                await failure(refused, path=scope["path"])(scope, receive, send)
                return
            scope.setdefault("state", {}).update(rates=self.rates, bucket=bucket)
        scope.setdefault("state", {})["caller"] = caller
        await self.app(scope, receive, send)

    def _public(self, scope: Scope) -> Caller | None:
        if scope["type"] != "http" or scope["method"] not in {"GET", "HEAD"}:
            return None
        path: str = scope["path"]
        if not self.access.is_public(path):
            return None
        return SCRAPER if path == _METRICS else NOBODY

    def _caller(self, scope: Scope) -> Caller | Response:
        if self.access.ring is None:
            if not self.access.everywhere and not is_loopback(_address(scope, "server")):
                # Bound elsewhere by another way than ours: what was safe on loopback is not here.
                return _unauthenticated(scope, "this service answers on loopback only", _CHALLENGE)
            return _LOCAL if _is_local(scope) else _OPEN
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        if not given:
            return _unauthenticated(scope, "send Authorization: Bearer <key>", _CHALLENGE)
        scheme, _, secret = given[0].partition(b" ")
        key = None
        if len(given) == 1 and scheme.lower() == b"bearer":
            key = find_key(self.access.ring.keys, secret.strip(b" "))
        if key is None:
            challenge = f'{_CHALLENGE}, error="invalid_token"'
            return _unauthenticated(scope, "the key is not known, or no longer", challenge)
        return Caller(key.name, key.scopes)


def require_scope(scope: str) -> Callable[[Request], Awaitable[None]]:
    """A dependency: 403 for callers whose key does not open ``scope``, one of :class:`KeyScope`."""
    needed = KeyScope(scope)

    async def check(request: Request) -> None:
        if needed not in caller_of(request).scopes:
            challenge = f'{_CHALLENGE}, error="insufficient_scope", scope="{needed.value}"'
            raise HTTPException(403, needed.value, headers={"WWW-Authenticate": challenge})

    return check


require_metrics = require_scope("metrics")


def caller_of(request: Request) -> Caller:
    """Who asks."""
    return cast(Caller, request.state.caller)


def charge(request: Request, messages: int) -> None:
    """Count the messages of a request against its caller's rate; the first was counted before."""
    rates: Rates = request.state.rates
    rates.charge(request.state.bucket, messages - 1)


def give_back(request: Request, messages: int) -> None:
    """Undo :func:`charge` for a request that was refused: it counts as one."""
    rates: Rates = request.state.rates
    rates.give_back(request.state.bucket, messages - 1)


def is_loopback(host: str) -> bool:
    """Whether an address or name is this machine's own, for certain."""
    return _is_loopback(host.strip("[]"))


@lru_cache(maxsize=1024)
def _is_loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        address = ip_address(host)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_loopback


def _unauthenticated(scope: Scope, detail: str, challenge: str) -> Response:
    headers = {"WWW-Authenticate": challenge}
    return problem(FRAMEWORK[401], detail=detail, headers=headers, path=scope["path"])


def _address(scope: Scope, end: str) -> str:
    found = scope.get(end)
    return found[0] if found else ""


def _is_local(scope: Scope) -> bool:
    """From this machine, by a local name, through no proxy: not a page that rebinds its name either."""
    hosts = [value for name, value in scope["headers"] if name == b"host"]
    if len(hosts) != 1 or any(name in _FORWARDED for name, _ in scope["headers"]):
        return False
    host = hosts[0].decode("latin-1")
    name = host.rpartition("]")[0] + "]" if host.startswith("[") else host.partition(":")[0]
    return all(map(is_loopback, (name, _address(scope, "client"), _address(scope, "server"))))


def network_of(host: str) -> str:
    """The address; of IPv6 the /64, as one caller has a whole one. What is no address stays as it is."""
    try:
        address = ip_address(host)
    except ValueError:  # what a trusted proxy says need not be an address
        return host
    if not isinstance(address, IPv6Address):
        return host
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ip_network((int(address), 64), strict=False))
