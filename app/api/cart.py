"""``POST /v1/cart`` and its wire format."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from uuid import uuid4

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, FailFast, Field, StrictStr
from starlette.responses import Response

from app.api.auth import charge, require_scope
from app.api.classify import TimeoutMs, json_response, require_json, trace
from app.api.hangup import decisions_unless_gone
from app.api.openapi import problems
from app.api.rates import MESSAGE_TOKENS
from app.api.schemas import AnsweringModel, ModelName, RequestBody, TimingsMs, origin, share
from app.api.state import service_of
from app.domain import CartAction
from app.serving.carts import CartAnswer, admit_cart

Candidates = Annotated[
    list[str], Field(description="Products that may be meant, best first: ask the customer.")
]


class CartRequest(RequestBody):
    """A customer's message, and what the shop sells."""

    text: StrictStr = Field(
        description="The message, as the customer wrote it.",
        examples=["two green teas please, and take the olive oil out"],
    )
    catalog: Annotated[list[StrictStr], FailFast()] = Field(
        description="The products, one name each, in any order. At most 2,000 by default, of 200 "
        "characters; the model reads the 64 that the message most likely means.",
        examples=[["Green Tea 20 bags", "Green Tea with Mint 20 bags", "Olive Oil 500 ml"]],
    )
    model: ModelName = None


class CartChange(BaseModel):
    """One product to put in or to take out."""

    action: Literal["add", "remove"] = Field(examples=["add"])
    product: str = Field(
        description="An entry of the catalog, spelt as given.", examples=["Green Tea 20 bags"]
    )
    quantity: int = Field(ge=1, le=999, examples=[2])
    confidence: float = Field(
        ge=0, le=1, description="Probability that all of it is right.", examples=[0.97]
    )
    ambiguous: bool = Field(
        default=False,
        description="There, and true, when another product is nearly as likely.",
        examples=[False],
    )
    candidates: Candidates = Field(
        default_factory=list, description="There when `ambiguous`.", examples=[[]]
    )


class CartReading(BaseModel):
    """What the message does to the cart."""

    id: str = Field(
        description="Names this decision, for support.",
        examples=["5f0c1c2e9f5b4c0f8f3a6f3c1d2e4b7a"],
    )
    outcome: Literal["actions", "no_action", "not_in_catalog", "ambiguous"] = Field(
        description="`actions`: changes that were understood; show them and let the customer "
        "confirm. `no_action`: the message asks for no change. "
        "`not_in_catalog`: it asks for what the catalog does not hold. `ambiguous`: it may mean "
        "several products; see `candidates`.",
        examples=["actions"],
    )
    confidence: float = Field(
        ge=0, le=1, description="Probability that `outcome` is right.", examples=[0.99]
    )
    in_scope: bool = Field(
        description="The message asks for a change of the cart, possible or not.", examples=[True]
    )
    actions: list[CartChange] = Field(description="In the order of the message.")
    candidates: Candidates = Field(examples=[[]])
    products_considered: int = Field(
        description="How many products the model read: all, or the shortlist of a long catalog.",
        examples=[3],
    )
    model: AnsweringModel
    timings_ms: TimingsMs


router = APIRouter(
    prefix="/v1",
    tags=["cart"],
    dependencies=[Depends(require_scope("classify")), Depends(require_json)],
    responses=problems(400, 401, 403, 404, 408, 413, 415, 422, 429, 500, 503, 504),
)


@router.post(
    "/cart",
    operation_id="readCart",
    summary="What goes in the cart, what comes out?",
    response_model=CartReading,
)
async def read_cart(body: CartRequest, request: Request, timeout_ms: TimeoutMs = None) -> Response:
    """Find the products of the catalog that a message puts in the cart or takes out, and how many.

    Products are always entries of the catalog. A catalog that comes again is remembered: the next
    message on it costs its own words only.
    """
    deadline = timeout_ms / 1e3 if timeout_ms else None
    service = service_of(request)
    pending = await admit_cart(service, body.text, body.catalog, body.model, deadline)
    charge(request, max(1, pending.tokens // MESSAGE_TOKENS))
    answers = await decisions_unless_gone(request, pending)
    trace(request, "cart", pending, answers)
    return json_response(cart_reading(answers[0]))


def cart_reading(answer: CartAnswer) -> dict[str, Any]:
    """In the shape of :class:`CartReading`: plain values, ready for JSON."""
    cart = answer.cart
    return {
        "id": uuid4().hex,
        "outcome": cart.outcome,
        "confidence": share(cart.confidence),
        "in_scope": cart.in_scope,
        "actions": [_change(action) for action in cart.actions],
        "candidates": list(cart.candidates),
        "products_considered": cart.considered,
        **origin(answer.model, answer.timings),
    }


def _change(action: CartAction) -> dict[str, Any]:
    change: dict[str, Any] = {
        "action": action.action,
        "product": action.product,
        "quantity": action.quantity,
        "confidence": share(action.confidence),
    }
    if action.ambiguous:
        change |= {"ambiguous": True, "candidates": list(action.candidates)}
    return change
