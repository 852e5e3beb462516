"""What the lifespan builds and every route may use."""

from __future__ import annotations

from typing import TypedDict, cast

from fastapi import Request

from app.errors import FeedbackOff
from app.feedback.desk import FeedbackDesk
from app.serving.rollouts import Rollouts
from app.serving.service import Service
from app.tracing import Traces


class State(TypedDict):
    """Yielded by the lifespan; the server copies it into every request's scope."""

    service: Service
    rollouts: Rollouts
    desk: FeedbackDesk | None
    traces: Traces | None


def service_of(request: Request) -> Service:
    """The service that answers this request."""
    return cast(Service, request.state.service)


def rollouts_of(request: Request) -> Rollouts:
    """What an operator can do to the models of this service."""
    return cast(Rollouts, request.state.rollouts)


def desk_of(request: Request) -> FeedbackDesk:
    """Where feedback is handed in. Raises :class:`FeedbackOff`."""
    desk = cast(FeedbackDesk | None, request.state.desk)
    if desk is None:
        raise FeedbackOff("the operator has not set INTENT_FEEDBACK_FILE")
    return desk
