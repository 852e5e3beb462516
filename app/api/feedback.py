"""``POST /v1/feedback`` and ``DELETE /v1/feedback/{id}``."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Request
from starlette.responses import Response

from app.api.auth import caller_of, require_scope
from app.api.classify import require_json
from app.api.openapi import problems
from app.api.schemas import FeedbackReceipt, FeedbackRequest
from app.api.state import desk_of, service_of
from app.errors import UnknownIntent

router = APIRouter(
    prefix="/v1",
    tags=["feedback"],
    responses=problems(401, 403, 404, 429, 503),
)

DecisionId = Annotated[
    str,
    Path(
        alias="id",
        pattern=r"^[0-9a-f]{32}$",
        description="The `id` of the decision.",
        examples=["5f0c1c2e9f5b4c0f8f3a6f3c1d2e4b7a"],
    ),
]


@router.post(
    "/feedback",
    operation_id="giveFeedback",
    summary="What would have been right?",
    dependencies=[Depends(require_scope("feedback")), Depends(require_json)],
    responses=problems(400, 408, 413, 415, 422),
)
async def give_feedback(body: FeedbackRequest, request: Request) -> FeedbackReceipt:
    """Tell the right intent of a decision, by its id. The last word on an id counts.

    Only the caller who got the decision can tell, for as long as the service remembers it.
    """
    desk = desk_of(request)
    recent = desk.find(body.id, caller_of(request).name)
    manifest = service_of(request).registry.get(recent.model.name).loaded.manifest
    if body.intent not in {label.intent for label in manifest.labels}:
        raise UnknownIntent("the model has no such intent; GET /v1/models/{name} lists them")
    kept = await desk.put(body.id, recent, body.intent)
    return FeedbackReceipt(id=kept.id, intent=kept.intent, text_kept=kept.text is not None)


@router.delete(
    "/feedback/{id}",
    operation_id="deleteFeedback",
    summary="Forget a decision",
    status_code=204,
    response_class=Response,
    dependencies=[Depends(require_scope("admin"))],
    responses=problems(422),
)
async def delete_feedback(decision_id: DecisionId, request: Request) -> Response:
    """Forget all that is kept about a decision, its message included."""
    await desk_of(request).delete(decision_id)
    return Response(status_code=204)
