"""``POST /model/parse`` as Rasa answers it, so that its callers need another address only."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, ConfigDict, Field, StrictStr
from starlette.responses import Response

from app.api.auth import require_scope
from app.api.classify import decide, entities_of, json_response, remember, require_json
from app.api.openapi import problems
from app.api.schemas import ModelName, classification
from app.domain import OUT_OF_SCOPE

_RANKED = 10
"""As many as Rasa's own classifier reports."""


class ParseRequest(BaseModel):
    """A message. Other fields of Rasa's, such as `message_id`, are taken and not used."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    text: StrictStr = Field(
        description="The message, as the customer wrote it.",
        examples=["where is my order 4711?"],
    )
    model: ModelName = None


class ParsedIntent(BaseModel):
    """An intent and its calibrated probability."""

    name: str = Field(examples=["order_status"])
    confidence: float = Field(ge=0, le=1, examples=[0.94])


class ParsedEntity(BaseModel):
    """A detail, as Rasa's `RegexEntityExtractor` reports it."""

    entity: str = Field(examples=["order_number"])
    start: int = Field(ge=0, examples=[18])
    end: int = Field(ge=1, examples=[22])
    value: str = Field(examples=["4711"])
    extractor: str = Field(examples=["RegexEntityExtractor"])


class ParseResult(BaseModel):
    """The decision in Rasa's words. Out of scope, the first intent is `out_of_scope`."""

    id: str = Field(description="Names this decision, for feedback.")
    text: str
    intent: ParsedIntent
    intent_ranking: list[ParsedIntent]
    entities: list[ParsedEntity]


router = APIRouter(tags=["rasa"])


@router.post(
    "/model/parse",
    operation_id="parseMessage",
    summary="The decision as Rasa would tell it",
    response_model=ParseResult,
    dependencies=[Depends(require_scope("classify")), Depends(require_json)],
    responses=problems(400, 401, 403, 404, 408, 413, 415, 422, 429, 500, 503, 504),
)
async def parse(body: ParseRequest, request: Request) -> Response:
    """Intent, ranking and entities of one message, for clients of Rasa's HTTP API."""
    decisions = await decide(request, [body.text], body.model, None)
    answer = classification(decisions[0], _RANKED)
    remember(request, [body.text], decisions, [answer])
    best = {"name": answer["intent"], "confidence": answer["confidence"]}
    ranking = [
        {"name": one["intent"], "confidence": one["confidence"]} for one in answer["ranking"]
    ]
    if answer["intent"] == OUT_OF_SCOPE:
        ranking = [best, *ranking[: _RANKED - 1]]
    (entities,) = await entities_of([body.text])
    return json_response(
        {
            "id": answer["id"],
            "text": body.text,
            "intent": best,
            "intent_ranking": ranking,
            "entities": [
                {
                    "entity": one["type"],
                    "start": one["start"],
                    "end": one["end"],
                    "value": one["value"],
                    "extractor": "RegexEntityExtractor",
                }
                for one in entities
            ],
        }
    )
