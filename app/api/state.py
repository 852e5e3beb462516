"""What the lifespan builds and every route may use."""

from __future__ import annotations

from typing import TypedDict, cast

from fastapi import Request

from app.serving.service import Service


class State(TypedDict):
    """Yielded by the lifespan; the server copies it into every request's scope."""

    service: Service


def service_of(request: Request) -> Service:
    """The service that answers this request."""
    return cast(Service, request.state.service)
