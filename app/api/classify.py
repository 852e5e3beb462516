"""``POST /v1/classify`` and ``/v1/classify/batch``."""

from __future__ import annotations

import json
from email.message import Message
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

from app.api.hangup import decisions_unless_gone
from app.api.openapi import problems
from app.api.schemas import (
    Classification,
    ClassificationBatch,
    ClassifyBatchRequest,
    ClassifyRequest,
    classification,
)
from app.api.state import service_of
from app.serving.service import Decision

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
    dependencies=[Depends(require_json)],
    responses=problems(400, 404, 413, 415, 422, 429, 500, 503, 504),
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
    decisions = await _decide(request, [body.text], body.model, timeout_ms)
    return _json(classification(decisions[0], body.top_k))


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
    decisions = await _decide(request, body.texts, body.model, timeout_ms)
    return _json({"results": [classification(one, body.top_k) for one in decisions]})


async def _decide(
    request: Request, texts: list[str], model: str | None, timeout_ms: int | None
) -> list[Decision]:
    deadline = timeout_ms / 1e3 if timeout_ms else None
    pending = await service_of(request).admit(texts, model, deadline)
    return await decisions_unless_gone(request, pending)


def _json(content: dict[str, Any]) -> Response:
    body = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
    return Response(body, media_type="application/json")
