"""The wire format. Examples stand here once, for the documentation and for the try-it page."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import uuid4

from fastapi import Path
from pydantic import (
    BaseModel,
    ConfigDict,
    FailFast,
    Field,
    StrictBool,
    StrictInt,
    StrictStr,
    model_validator,
)
from pydantic_core import PydanticCustomError

from app.classification.entities import find_entities
from app.domain import ModelRef, Timings
from app.serving.service import Decision

TopK = Annotated[
    StrictInt, Field(ge=1, le=100, description="How many intents the ranking shows, best first.")
]
ModelName = Annotated[
    Annotated[StrictStr, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")] | None,
    Field(description="A served model; by default the first one.", examples=["storefront"]),
]

ModelPath = Annotated[
    str,
    Path(description="A served model; `GET /v1/models` lists them.", examples=["storefront"]),
]


_MOST_FIELDS = 32
"""More are refused at once: to describe each of 100,000 unknown fields takes a third of a second."""


class RequestBody(BaseModel):
    """What every request body has in common: unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _few_fields(cls, given: object) -> object:
        if isinstance(given, dict) and len(given) > _MOST_FIELDS:
            raise PydanticCustomError("too_many_fields", "Input has too many fields")
        return given


Entities = Annotated[
    StrictBool, Field(description="Also find order numbers, e-mails, phones, amounts and sizes.")
]


class ClassifyRequest(RequestBody):
    """One message of a customer."""

    text: StrictStr = Field(
        description="The message, as the customer wrote it.",
        examples=["my parcel was due tuesday and still nothing"],
    )
    top_k: TopK = 3
    model: ModelName = None
    entities: Entities = False


class ClassifyBatchRequest(RequestBody):
    """Several messages, answered in order. All are taken or none."""

    texts: Annotated[list[StrictStr], FailFast()] = Field(
        min_length=1,
        description="The messages, as the customers wrote them.",
        examples=[["put two of the blue mugs in my basket", "what's the capital of france"]],
    )
    top_k: TopK = 3
    model: ModelName = None
    entities: Entities = False


class RankedIntent(BaseModel):
    """An intent and the calibrated probability that it is what the customer wants."""

    intent: str = Field(examples=["delivery_delay"])
    confidence: float = Field(ge=0, le=1, examples=[0.94])


class FoundEntity(BaseModel):
    """A detail in the message, found by rule. ``value`` is the text from ``start`` to ``end``."""

    type: str = Field(
        description="`order_number`, `email`, `phone`, `amount` or `size`.",
        examples=["order_number"],
    )
    start: int = Field(ge=0, description="In Unicode code points.", examples=[18])
    end: int = Field(ge=1, examples=[22])
    value: str = Field(examples=["4711"])


class AnsweringModel(BaseModel):
    """Which model gave the answer."""

    name: str = Field(examples=["storefront"])
    version: str = Field(examples=["1"])
    backend: str = Field(examples=["gguf"])


class TimingsMs(BaseModel):
    """Milliseconds: waiting for a batch, computing the batch, and all together in the service."""

    queue: float = Field(ge=0, examples=[0.2])
    inference: float = Field(ge=0, examples=[21.7])
    total: float = Field(ge=0, examples=[22.1])


class Classification(BaseModel):
    """The decision. Out of scope, ``ranking`` still shows the nearest intents."""

    id: str = Field(
        description="Names this decision, for feedback and support.",
        examples=["5f0c1c2e9f5b4c0f8f3a6f3c1d2e4b7a"],
    )
    intent: str = Field(
        description="The best intent, or `out_of_scope`.", examples=["delivery_delay"]
    )
    confidence: float = Field(
        ge=0, le=1, description="Probability that `intent` is right.", examples=[0.94]
    )
    in_scope: bool = Field(examples=[True])
    ranking: list[RankedIntent]
    model: AnsweringModel
    timings_ms: TimingsMs
    entities: list[FoundEntity] = Field(
        default_factory=list, description="There only when the request asked for it."
    )


class FeedbackRequest(RequestBody):
    """What a decision should have been."""

    id: StrictStr = Field(
        pattern=r"^[0-9a-f]{32}$",
        description="The `id` of the decision.",
        examples=["5f0c1c2e9f5b4c0f8f3a6f3c1d2e4b7a"],
    )
    intent: StrictStr = Field(
        min_length=1,
        max_length=64,
        description="The right intent, one of the model's, or `out_of_scope`.",
        examples=["order_status"],
    )


class FeedbackReceipt(BaseModel):
    """What was kept."""

    id: str
    intent: str
    text_kept: bool = Field(description="Whether the message was kept with it, masked.")


class ClassificationBatch(BaseModel):
    """One result a message, in the order of the request."""

    results: list[Classification]


class IntentInfo(BaseModel):
    """An intent that a model knows."""

    intent: str
    group: str | None
    description: str | None


class ModelSummary(BaseModel):
    """A served model. ``version`` and what follows it are null until it is live."""

    name: str = Field(examples=["storefront"])
    state: str = Field(description="`loading`, `live`, `failed` or `closed`.", examples=["live"])
    default: bool
    reason: str | None = Field(description="Why it is not live.", examples=[None])
    version: str | None = Field(None, examples=["1"])
    backend: str | None = Field(None, examples=["gguf"])
    languages: list[str] | None = Field(None, examples=[["en"]])
    intent_count: int | None = Field(None, description="Without `out_of_scope`.", examples=[32])
    tasks: list[str] | None = Field(
        None, description="`intent`; and `cart` where it answers /v1/cart.", examples=[["intent"]]
    )


class ModelDetails(ModelSummary):
    """All that is published about a served model."""

    digest: str | None = Field(None, description="sha256 of the manifest.")
    created: str | None = None
    threshold: float | None = Field(
        None, description="The least probability of being in scope at which an intent is given out."
    )
    max_message_tokens: int | None = None
    intents: list[IntentInfo] | None = None
    evaluation: dict[str, float] | None = None
    trained_on: list[str] | None = None
    licence: str | None = None


class ModelList(BaseModel):
    """Every served model, the default one first."""

    models: list[ModelSummary]


class Health(BaseModel):
    """The answer of a probe that says yes."""

    status: str = Field(examples=["ok"])


def entities_in(text: str) -> list[dict[str, Any]]:
    """In the shape of :class:`FoundEntity`."""
    return [
        {"type": one.kind, "start": one.start, "end": one.end, "value": one.value}
        for one in find_entities(text)
    ]


def classification(decision: Decision, top_k: int) -> dict[str, Any]:
    """A decision in the shape of :class:`Classification`: plain values, ready for JSON."""
    found = decision.prediction
    return {
        "id": uuid4().hex,
        "intent": found.intent,
        "confidence": share(found.confidence),
        "in_scope": found.in_scope,
        "ranking": [
            {"intent": score.intent, "confidence": share(score.confidence)}
            for score in found.ranking[:top_k]
        ],
        **origin(decision.model, decision.timings),
    }


def origin(model: ModelRef, spent: Timings) -> dict[str, Any]:
    """What every decision tells of where it comes from: ``model`` and ``timings_ms``."""
    return {
        "model": {"name": model.name, "version": model.version, "backend": model.backend},
        "timings_ms": {
            "queue": round(spent.queue * 1e3, 3),
            "inference": round(spent.inference * 1e3, 3),
            "total": round(spent.total * 1e3, 3),
        },
    }


def share(confidence: float) -> float:
    """A probability on the wire."""
    return round(min(1.0, max(0.0, confidence)), 6)
