"""The wire format. Examples stand here once, for the documentation and for the try-it page."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr

from app.serving.service import Decision

TopK = Annotated[
    StrictInt, Field(ge=1, le=100, description="How many intents the ranking shows, best first.")
]
ModelName = Annotated[
    Annotated[StrictStr, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")] | None,
    Field(description="A served model; by default the first one.", examples=["storefront"]),
]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ClassifyRequest(_Request):
    """One message of a customer."""

    text: StrictStr = Field(
        description="The message, as the customer wrote it.",
        examples=["my parcel was due tuesday and still nothing"],
    )
    top_k: TopK = 3
    model: ModelName = None


class ClassifyBatchRequest(_Request):
    """Several messages, answered in order. All are taken or none."""

    texts: list[StrictStr] = Field(
        min_length=1,
        description="The messages, as the customers wrote them.",
        examples=[["put two of the blue mugs in my basket", "what's the capital of france"]],
    )
    top_k: TopK = 3
    model: ModelName = None


class RankedIntent(BaseModel):
    """An intent and the calibrated probability that it is what the customer wants."""

    intent: str = Field(examples=["delivery_delay"])
    confidence: float = Field(ge=0, le=1, examples=[0.94])


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


def classification(decision: Decision, top_k: int) -> dict[str, Any]:
    """A decision in the shape of :class:`Classification`: plain values, ready for JSON."""
    found, model, spent = decision.prediction, decision.model, decision.timings
    return {
        "id": uuid4().hex,
        "intent": found.intent,
        "confidence": _share(found.confidence),
        "in_scope": found.in_scope,
        "ranking": [
            {"intent": score.intent, "confidence": _share(score.confidence)}
            for score in found.ranking[:top_k]
        ],
        "model": {"name": model.name, "version": model.version, "backend": model.backend},
        "timings_ms": {
            "queue": round(spent.queue * 1e3, 3),
            "inference": round(spent.inference * 1e3, 3),
            "total": round(spent.total * 1e3, 3),
        },
    }


def _share(confidence: float) -> float:
    return round(min(1.0, max(0.0, confidence)), 6)
