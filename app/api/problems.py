"""Errors on the wire: RFC 9457 problems. Every expected failure has its status in one table here."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import structlog
from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.responses import Response

from app import metrics
from app.errors import (
    ArtifactError,
    BackendError,
    BackendUnavailable,
    BatchTooLarge,
    CandidateRefused,
    CatalogInvalid,
    ChangeUnderWay,
    DeadlineExceeded,
    EmptyText,
    FeedbackError,
    FeedbackOff,
    InferenceFailed,
    InputError,
    NoCartModel,
    NotReady,
    OverloadError,
    QueueFull,
    RateLimited,
    ShopintentError,
    TextTooLong,
    UnknownIntent,
    UnknownModel,
    UnknownPrediction,
)

MEDIA_TYPE = "application/problem+json"
_RETRY_SECONDS = 5.0
"""For a 503 whose cause tells no time."""
_LONGEST_ESTIMATE = 600.0
"""The most seconds that are told of a time which is estimated; what a rate asks for is known."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of failure: its name in URLs and metrics, its status, and a title that never varies."""

    slug: str
    status: int
    title: str


FAILURES: dict[type[ShopintentError], Kind] = {
    ShopintentError: Kind("internal-error", 500, "Something went wrong here"),
    InputError: Kind("invalid-request", 422, "The request is not valid"),
    EmptyText: Kind("empty-text", 422, "The message is empty"),
    TextTooLong: Kind("text-too-long", 422, "The message is too long"),
    BatchTooLarge: Kind("batch-too-large", 422, "Too many messages in one request"),
    CatalogInvalid: Kind("invalid-catalog", 422, "The catalog cannot be used"),
    # Not 404: the model is there and so is the address; what is wrong is to ask it for this.
    NoCartModel: Kind("no-cart-model", 422, "The model does not read carts"),
    UnknownIntent: Kind("unknown-intent", 422, "The model has no such intent"),
    FeedbackError: Kind("feedback-lost", 503, "The feedback could not be kept"),
    FeedbackOff: Kind("feedback-off", 404, "This service keeps no feedback"),
    UnknownPrediction: Kind("unknown-prediction", 404, "No such decision"),
    UnknownModel: Kind("unknown-model", 404, "No such model"),
    OverloadError: Kind("overloaded", 503, "The service is too busy"),
    QueueFull: Kind("queue-full", 429, "Too much work is waiting"),
    RateLimited: Kind("rate-limited", 429, "Too many requests from this caller"),
    NotReady: Kind("not-ready", 503, "The service is not ready"),
    DeadlineExceeded: Kind("deadline-exceeded", 504, "The deadline passed"),
    ChangeUnderWay: Kind("change-under-way", 409, "Another change is under way"),
    CandidateRefused: Kind("candidate-refused", 409, "The version did not pass its checks"),
    ArtifactError: Kind("model-unusable", 503, "The model cannot be used"),
    BackendError: Kind("backend-failed", 503, "The model's library failed"),
    BackendUnavailable: Kind("backend-unavailable", 503, "The model's library is missing"),
    # Not 503: a proxy would try the message on every replica, and it would fail on each.
    InferenceFailed: Kind("inference-failed", 500, "The model failed on this message"),
}
"""The nearest ancestor counts."""

FRAMEWORK: dict[int, Kind] = {
    400: Kind("malformed-request", 400, "The request cannot be read"),
    401: Kind("unauthenticated", 401, "A key is needed"),
    403: Kind("forbidden", 403, "The key does not open this"),
    404: Kind("not-found", 404, "There is nothing at this address"),
    405: Kind("method-not-allowed", 405, "This address does not take this method"),
    408: Kind("body-too-slow", 408, "The request body did not come in time"),
    413: Kind("body-too-large", 413, "The request body is too large"),
    415: Kind("unsupported-media-type", 415, "The request body must be JSON"),
    422: FAILURES[InputError],
    500: FAILURES[ShopintentError],
}
"""What is refused before it reaches the service."""

for _kind in (*FAILURES.values(), *FRAMEWORK.values()):
    metrics.REJECTIONS.labels(_kind.slug)  # from 0 on, or the first would be invisible to a rate

_DETAILS = {
    403: "The header WWW-Authenticate names the scope that the key lacks.",
    404: "See /docs for what is served.",
    405: "See the Allow header.",
    408: "Send the body at once.",
    415: "Send Content-Type: application/json, without Content-Encoding.",
}


class FieldProblem(BaseModel):
    """One thing that is wrong, and where."""

    pointer: str | None = Field(
        None, description="JSON pointer into the body (RFC 6901).", examples=["#/texts/3"]
    )
    header: str | None = Field(None, description="The header that is wrong.")
    parameter: str | None = Field(
        None, description="The parameter of the address that is wrong, of its path or its query."
    )
    detail: str = Field(examples=["Input should be a valid string"])


class Problem(BaseModel):
    """RFC 9457. ``type`` is stable and says which kind of failure this is."""

    type: str = Field(examples=["/docs#queue-full"])
    title: str = Field(examples=["Too much work is waiting"])
    status: int = Field(examples=[429])
    detail: str | None = Field(None, examples=["more messages wait than can be answered soon"])
    request_id: str | None = Field(None, description="As in the header X-Request-Id.")
    errors: list[FieldProblem] | None = None
    error: str | None = Field(None, description="The detail once more, under /v2 only.")


def kind_of(error: ShopintentError) -> Kind:
    """The entry of the error's nearest ancestor."""
    return next(FAILURES[t] for t in type(error).__mro__ if t in FAILURES)


def problem(
    kind: Kind,
    *,
    detail: str | None = None,
    errors: list[dict[str, str]] | None = None,
    headers: dict[str, str] | None = None,
    path: str = "",
) -> Response:
    """The response for a failure. The request id comes from the logging context.

    Under ``path`` /v2 it says in ``error`` too what is wrong, as the clients of that protocol read it.
    """
    content: dict[str, Any] = {
        "type": f"/docs#{kind.slug}",
        "title": kind.title,
        "status": kind.status,
    }
    if detail:
        content["detail"] = detail
    request_id = structlog.contextvars.get_contextvars().get("request_id")
    if request_id:
        content["request_id"] = request_id
    if errors:
        content["errors"] = errors
    if path.startswith("/v2"):
        content["error"] = detail or kind.title
    body = json.dumps(content, ensure_ascii=False).encode()
    metrics.REJECTIONS.labels(kind.slug).inc()
    return Response(body, kind.status, headers, media_type=MEDIA_TYPE)


def failure(error: ShopintentError, *, text_pointer: str = "#/text", path: str = "") -> Response:
    """The response for one of our own errors. ``text_pointer`` is where the request's text stands."""
    kind = kind_of(error)
    headers = {}
    if kind.status in {429, 503}:
        seconds = error.retry_after if isinstance(error, OverloadError) else _RETRY_SECONDS
        if not isinstance(error, RateLimited):
            seconds = min(_LONGEST_ESTIMATE, seconds)
        headers["Retry-After"] = str(max(1, math.ceil(seconds)))
    errors = None
    if error.index is not None:
        if isinstance(error, CatalogInvalid):
            text_pointer = "#/catalog"
        pointer = text_pointer if text_pointer == "#/text" else f"{text_pointer}/{error.index}"
        errors = [{"pointer": pointer, "detail": str(error)}]
    # Artifact and library errors name paths and versions: those are for the log.
    private = isinstance(error, ArtifactError | BackendError) and kind.status != 500
    detail = "see the service's log" if private else str(error)
    return problem(kind, detail=detail, errors=errors, headers=headers, path=path)


async def on_failure(request: Request, error: Exception) -> Response:
    """Exception handler for :class:`ShopintentError`."""
    assert isinstance(error, ShopintentError)
    path = request.url.path
    if path.startswith("/v2"):
        pointer = "#/inputs/0/data"
    else:
        pointer = "#/texts" if path.endswith("/batch") else "#/text"
    return failure(error, text_pointer=pointer, path=path)


async def on_http_exception(request: Request, error: Exception) -> Response:
    """Exception handler for the framework's own refusals."""
    assert isinstance(error, HTTPException)
    kind = FRAMEWORK.get(error.status_code)
    if kind is None:
        kind = Kind("http-error", error.status_code, "The request was refused")
    headers = dict(error.headers) if error.headers else {}
    if error.status_code == 405:
        headers["Allow"] = ", ".join(_methods_at(request)) or headers.get("Allow", "")
    detail = _DETAILS.get(error.status_code, str(error.detail))
    return problem(kind, detail=detail, headers=headers, path=request.url.path)


def _methods_at(request: Request) -> list[str]:
    """All that are declared for the address; the framework names those of one route only."""
    template = getattr(request.scope.get("route"), "path", "")
    operations = request.app.openapi()["paths"].get(template, {})
    return sorted(method.upper() for method in operations)


async def on_invalid_request(request: Request, error: Exception) -> Response:
    """Exception handler for a body or header that breaks the schema. Never quotes the input."""
    assert isinstance(error, RequestValidationError)
    found = error.errors()
    if any(one["type"] == "json_invalid" for one in found):
        reason = str(found[0].get("ctx", {}).get("error", "invalid JSON"))
        place = found[0]["loc"][-1]
        detail = f"malformed JSON at character {place}: {reason}"
        return problem(FRAMEWORK[400], detail=detail, path=request.url.path)
    errors = [_field_problem(one["loc"], one["msg"], one["type"]) for one in found[:20]]
    detail = errors[0]["detail"]
    return problem(FRAMEWORK[422], detail=detail, errors=errors, path=request.url.path)


def internal_error() -> Response:
    """For what nobody foresaw. The cause is in the log, under the same request id."""
    return problem(FRAMEWORK[500], detail="unexpected; the log has more under this request id")


_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,39}")


def _field_problem(location: Iterable[int | str], message: str, kind: str) -> dict[str, str]:
    where, *path = location
    if where == "header":
        return {"header": "-".join(w.title() for w in str(path[0]).split("-")), "detail": message}
    if where in {"path", "query"}:
        return {"parameter": str(path[0]), "detail": message}
    parts = [str(part) for part in path]
    if kind == "extra_forbidden" and not _PLAIN.fullmatch(parts[-1]):
        # A name that we did not choose may be anything, a customer's words among it.
        parts.pop()
    return {"pointer": "#" + "".join(f"/{part}" for part in parts), "detail": message}
