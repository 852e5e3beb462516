"""The words the whole service speaks in. No third-party import, no I/O."""

from __future__ import annotations

from dataclasses import dataclass

OUT_OF_SCOPE = "out_of_scope"
"""The intent of a message that the model was not made to serve."""


@dataclass(frozen=True, slots=True)
class IntentScore:
    """One intent and the calibrated probability that it is what the customer wants."""

    intent: str
    confidence: float


@dataclass(frozen=True, slots=True)
class Prediction:
    """The decision on one message.

    ``ranking`` holds every in-scope intent, best first. Its confidences and the probability that the
    message is out of scope add up to one. When ``in_scope`` is false, ``intent`` is
    :data:`OUT_OF_SCOPE` and ``confidence`` is the probability of that.
    """

    intent: str
    confidence: float
    in_scope: bool
    ranking: tuple[IntentScore, ...]


@dataclass(frozen=True, slots=True)
class ModelRef:
    """Which model gave an answer."""

    name: str
    version: str
    backend: str


@dataclass(frozen=True, slots=True)
class Timings:
    """Where one request's time went, in seconds."""

    queue: float
    inference: float
    total: float


CART_OUTCOMES = ("actions", "no_action", "not_in_catalog", "ambiguous")
"""What a message can mean for a cart: change it; leave it; a wish for what the shop has not; or a wish
that fits several products, so that the customer must be asked back."""


@dataclass(frozen=True, slots=True)
class CartAction:
    """One change of a cart. ``product`` is spelt as in the caller's catalog, ``quantity`` at least 1.

    When ``ambiguous``, another product was nearly as likely: ``candidates`` names both and what else
    is close, best first, so that the shop can ask back.
    """

    action: str
    """``add`` or ``remove``."""
    product: str
    quantity: int
    confidence: float
    ambiguous: bool = False
    candidates: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CartDecision:
    """What one message does to a cart.

    ``outcome`` is one of :data:`CART_OUTCOMES` and ``confidence`` its probability. There are
    ``actions`` when it is ``actions``, and ``candidates`` (best first) when it is ``ambiguous``.
    """

    outcome: str
    confidence: float
    actions: tuple[CartAction, ...] = ()
    candidates: tuple[str, ...] = ()
    considered: int = 0
    """Products of the catalog that the model has seen."""

    @property
    def in_scope(self) -> bool:
        """The message asks for a change of the cart, whether or not it can be made."""
        return self.outcome != "no_action"
