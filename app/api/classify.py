"""``POST /v1/classify`` and ``/v1/classify/batch``."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from email.message import Message
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

from app.api.auth import caller_of, charge, give_back, require_scope
from app.api.hangup import decisions_unless_gone
from app.api.openapi import problems
from app.api.rates import weight_of
from app.api.schemas import (
    Classification,
    ClassificationBatch,
    ClassifyBatchRequest,
    ClassifyRequest,
    classification,
    entities_in,
)
from app.api.state import service_of
from app.errors import ShopintentError
from app.serving.carts import CartAnswer, PendingCart
from app.serving.service import Decision, Pending

_MANY_CHARS = 2_000
"""From here on, looking for entities would hold up the event loop for milliseconds."""

TimeoutMs = Annotated[
    int | None,
    Header(
        alias="Request-Timeout-Ms",
        ge=1,
        le=600_000,
        description="Give up after so many milliseconds, with 504. By default 10,000.",
    ),
]


async def require_json(request: Request) -> None:
    """Refuse bodies that are not plain JSON with 415."""
    declared = request.headers.get("content-type", "")
    if declared != "application/json":
        header = Message()
        header["content-type"] = declared
        subtype = header.get_content_subtype()
        is_json = subtype == "json" or subtype.endswith("+json")
        if header.get_content_maintype() != "application" or not is_json:
            raise HTTPException(415)
    if request.headers.get("content-encoding", "identity") != "identity":
        raise HTTPException(415)


router = APIRouter(
    prefix="/v1",
    tags=["classify"],
    dependencies=[Depends(require_scope("classify")), Depends(require_json)],
    responses=problems(400, 401, 403, 404, 408, 413, 415, 422, 429, 500, 503, 504),
)


@router.post(
    "/classify",
    operation_id="classify",
    summary="What does this customer want?",
    response_model=Classification,
)
async def classify(
    body: ClassifyRequest, request: Request, timeout_ms: TimeoutMs = None
) -> Response:
    """Decide on one message: an intent with a calibrated probability, or `out_of_scope`."""
    answers = await _classify(request, [body.text], body, timeout_ms)
    return json_response(answers[0])


@router.post(
    "/classify/batch",
    operation_id="classifyBatch",
    summary="What do these customers want?",
    response_model=ClassificationBatch,
)
async def classify_batch(
    body: ClassifyBatchRequest, request: Request, timeout_ms: TimeoutMs = None
) -> Response:
    """Decide on several messages at once. Results come in order; all are answered or none."""
    return json_response({"results": await _classify(request, body.texts, body, timeout_ms)})


async def _classify(
    request: Request,
    texts: list[str],
    asked: ClassifyRequest | ClassifyBatchRequest,
    timeout_ms: int | None,
) -> list[dict[str, Any]]:
    decisions = await decide(request, texts, asked.model, timeout_ms)
    answers = [classification(decision, asked.top_k) for decision in decisions]
    remember(request, texts, decisions, answers)
    if asked.entities:
        for answer, entities in zip(answers, await entities_of(texts), strict=True):
            answer["entities"] = entities
    return answers


async def decide(
    request: Request, texts: list[str], model: str | None, timeout_ms: int | None
) -> list[Decision]:
    """One decision a text, for the caller of ``request`` and only while it waits."""
    # Before the work: whoever asks much at once shall not have it all taken before any of it counts.
    messages = weight_of(texts)
    charge(request, messages)
    deadline = timeout_ms / 1e3 if timeout_ms else None
    try:
        pending = await service_of(request).admit(texts, model, deadline)
    except ShopintentError:
        give_back(request, messages)
        raise
    decisions = await decisions_unless_gone(request, pending)
    trace(request, "classify", pending, decisions)
    return decisions


def trace(
    request: Request,
    name: str,
    pending: Pending | PendingCart,
    decisions: Sequence[Decision | CartAnswer],
) -> None:
    """Tell an answered request as spans, where traces are wanted."""
    traces = request.state.traces
    if traces is None:
        return
    began = pending.started
    steps = []
    if pending.ticket is not None:
        admitted = pending.ticket.admitted
        # Of a request in several batches, the last message tells when it was done.
        waited = max(decision.timings.queue for decision in decisions)
        computed = max(d.timings.queue + d.timings.inference for d in decisions)
        steps = [
            ("tokenise", began, admitted),
            ("queue", admitted, admitted + waited),
            ("inference", admitted + waited, admitted + computed),
        ]
    told = {
        "shopintent.model": pending.ref.name,
        "shopintent.version": pending.ref.version,
        "shopintent.messages": len(decisions),
    }
    ended = began + decisions[0].timings.total
    traces.record(request.headers, (name, began, ended), steps, told)


async def entities_of(texts: list[str]) -> list[list[dict[str, Any]]]:
    """For each text, as :func:`app.api.schemas.entities_in`; many in another thread."""
    if sum(map(len, texts)) > _MANY_CHARS:
        return await asyncio.to_thread(lambda: [entities_in(text) for text in texts])
    return [entities_in(text) for text in texts]


def remember(
    request: Request, texts: list[str], decisions: list[Decision], answers: list[dict[str, Any]]
) -> None:
    """Keep in mind what was answered, where feedback is taken."""
    desk = request.state.desk
    if desk is not None:
        client = caller_of(request).name
        for text, one, answer in zip(texts, decisions, answers, strict=True):
            desk.remember(answer["id"], client, one.model, one.prediction, text)


def json_response(content: dict[str, Any]) -> Response:
    """Plain values as JSON, past the framework's encoder: they are known to be right."""
    told = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    # Half a surrogate pair has no UTF-8, but JSON's own escape is just how Python writes it.
    body = told.encode(errors="backslashreplace")
    return Response(body, media_type="application/json")
