"""Notice callers who hang up, so that nothing is computed for nobody."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Protocol, TypeVar

from fastapi import Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

T = TypeVar("T")

HUNG_UP = 499
"""The status that is counted for a caller who went away before the answer; never sent."""


class CallerGone(HTTPException):
    """The caller closed the connection before the answer.

    Of the framework's kind, as it makes a 400 of any other that comes up while a body is read.
    """

    def __init__(self) -> None:
        super().__init__(HUNG_UP)


class Pending(Protocol[T]):
    """An admitted request, as :class:`app.serving.service.Pending`."""

    @property
    def done(self) -> bool: ...

    def abandon(self) -> None: ...

    def decisions(self) -> Coroutine[Any, Any, list[T]]: ...


async def decisions_unless_gone(request: Request, pending: Pending[T]) -> list[T]:
    """Await the answers; abandon the request when its caller disconnects (:class:`CallerGone`)."""
    if pending.done:
        return await pending.decisions()
    watch = asyncio.create_task(_watch(request, pending))
    try:
        return await pending.decisions()
    except asyncio.CancelledError:
        if watch.done() and not watch.cancelled():
            raise CallerGone from None
        raise
    finally:
        watch.cancel()


async def _watch(request: Request, pending: Pending[Any]) -> None:
    # The body has been read: the next thing to come is the end of the connection.
    while (await request.receive())["type"] != "http.disconnect":
        pass
    pending.abandon()


async def on_caller_gone(_request: Request, _error: Exception) -> Response:
    """Exception handler: nobody reads this, but the access log and the counters do."""
    return Response(status_code=HUNG_UP)
