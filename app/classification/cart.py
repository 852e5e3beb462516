"""The cart heads: which product, which action, how many, read from hidden states in one pass.

Products are pointed at (Vinyals et al. 2015), not spelt, so the answer is always an entry of the given
catalog; numbers are three digits, each a choice of ten. No text is generated.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import exp, log, log1p

import numpy as np
import numpy.typing as npt

from app.artifacts.manifest import CartSpec
from app.classification.head import log_softmax, unit
from app.classification.numbers import LARGEST
from app.domain import CART_OUTCOMES, CartAction, CartDecision

Floats = npt.NDArray[np.float32]

SLOT_ACTIONS = ("add", "remove", "stop")
"""Rows of the action head, in order; ``stop`` says that the slot before was the last."""
MAX_CANDIDATES = 5
_STOP = SLOT_ACTIONS.index("stop")
_REPEATED = 0.02
"""Of a product's probability: what the next best must have, or the product is meant again."""
_SHARED = 0.15
"""Of a number's: what the next best must have, or one that is told once is meant for several products."""
_DIGITS = (3, 10)
"""Hundreds, tens and units, ten values each."""


@dataclass(frozen=True, slots=True)
class CartCalibration:
    """Fitted on held-out rows and stored in the artifact; the defaults change nothing.

    Logits are divided by their temperature (Guo et al. 2017). The probability ``p`` of an action, the
    product of its choices, becomes ``sigmoid(exponent * logit(p) + bias)`` (Platt 1999).
    """

    pointer_temperature: float = 1.0
    action_temperature: float = 1.0
    quantity_temperature: float = 1.0
    told_bonus: float = 0.0
    """Added to the logit of every number that the message tells, by :func:`numbers_in`."""
    one_bonus: float = 0.0
    """Added to that of 1, which is meant when none is told."""
    outcome_temperature: float = 1.0
    ambiguity_ratio: float = 0.5
    """Ask back from here on: probability of the second-best product over that of the best."""
    candidate_share: float = 0.15
    """Least probability of a candidate, as a share of the best one's."""
    exponent: float = 1.0
    bias: float = 0.0

    def confidence(self, probability: float) -> float:
        """Calibrated probability of an action whose choices multiply to ``probability``."""
        if self.exponent == 1.0 and self.bias == 0.0:
            return min(1.0, max(0.0, probability))
        p = min(1 - 1e-9, max(1e-9, probability))
        logit = self.exponent * (log(p) - log1p(-p)) + self.bias
        return 1.0 / (1.0 + exp(-max(-60.0, min(60.0, logit))))


@dataclass(frozen=True, slots=True)
class CartScores:
    """Logits of one message with ``n`` products and ``s`` slots.

    ``pointer`` (s, n), ``action`` (s, 3) as :data:`SLOT_ACTIONS`, ``digits`` (s, 3, 10) from hundreds
    to units, ``outcome`` (4,) as :data:`app.domain.CART_OUTCOMES`.
    """

    pointer: Floats
    action: Floats
    digits: Floats
    outcome: Floats
    told: Mapping[int, int] = field(default_factory=dict)
    """Numbers in the message, and how often it tells each."""


@dataclass(frozen=True, slots=True)
class WordingHeads:
    """What the features of :mod:`app.classification.wording` count for: f of them a product.

    A slot's state gates them for the pointer: ``gate_rows`` (f, hidden), ``gate_bias`` (f,). The best and
    the second-best value of each, over the products, tell of the outcome: ``outcome_rows`` (4, 2f).
    """

    gate_rows: Floats
    gate_bias: Floats
    outcome_rows: Floats

    def score(self, slots: Floats, wording: Floats) -> tuple[Floats, Floats]:
        """What to add to the pointer's logits (s, n) and to the outcome's (4,); ``wording`` (n, f)."""
        gates: Floats = slots @ self.gate_rows.T + self.gate_bias
        best = np.zeros((2, wording.shape[1]), np.float32)
        best[: len(wording)] = np.sort(wording, axis=0)[::-1][:2]
        by_name: Floats = gates @ wording.T
        whether: Floats = self.outcome_rows @ best.reshape(-1)
        return by_name, whether


@dataclass(frozen=True, slots=True)
class CartHeads:
    """``query`` and ``key`` (d, hidden); ``*_rows`` (values, hidden) with ``*_bias`` (values,); float32.

    States are brought to length sqrt(hidden) first, as in :class:`app.classification.head.Head`.
    """

    query: Floats
    key: Floats
    action_rows: Floats
    action_bias: Floats
    digit_rows: Floats
    digit_bias: Floats
    outcome_rows: Floats
    outcome_bias: Floats
    wording: WordingHeads | None = None

    def score(
        self,
        slot_states: Floats,
        product_states: Floats,
        wording: Floats | None = None,
        told: Mapping[int, int] | None = None,
    ) -> CartScores:
        """Logits from states at the slot tokens (s, hidden) and at the ends of products (n, hidden).

        ``wording`` (n, f) are the products' features by name; they count where the heads know them.
        ``told`` are the numbers that the message tells, and how often.
        """
        slots, products = unit(slot_states), unit(product_states)
        scale = np.float32(1.0 / np.sqrt(len(self.query)))
        digits = slots @ self.digit_rows.T + self.digit_bias
        pointer = (slots @ self.query.T) @ (products @ self.key.T).T * scale
        outcome = slots[0] @ self.outcome_rows.T + self.outcome_bias
        if self.wording is not None and wording is not None:
            by_name, whether = self.wording.score(slots, wording)
            pointer, outcome = pointer + by_name, outcome + whether
        return CartScores(
            pointer=pointer,
            action=slots @ self.action_rows.T + self.action_bias,
            digits=digits.reshape(len(slots), *_DIGITS),
            outcome=outcome,
            told=told or {},
        )

    def says_all(self, slot_states: Floats, wording: Floats | None = None) -> bool:
        """Whether further slots would change nothing: no action is wanted, or the last of these stops."""
        slots = unit(slot_states)
        outcome = slots[0] @ self.outcome_rows.T + self.outcome_bias
        if self.wording is not None and wording is not None:
            outcome = outcome + self.wording.score(slots[:1], wording)[1]
        action = slots[-1] @ self.action_rows.T + self.action_bias
        return CART_OUTCOMES[int(outcome.argmax())] != "actions" or int(action.argmax()) == _STOP

    def decide(
        self,
        slot_states: Floats,
        product_states: Floats,
        products: Sequence[str],
        calibration: CartCalibration | None = None,
        wording: Floats | None = None,
        told: Mapping[int, int] | None = None,
    ) -> CartDecision:
        """The decision on one message; ``products`` are the names behind ``product_states``."""
        scores = self.score(slot_states, product_states, wording, told)
        return decide(scores, products, calibration)


@dataclass(frozen=True, slots=True)
class CartModel:
    """All of an artifact's cart part but the weights."""

    spec: CartSpec
    heads: CartHeads
    calibration: CartCalibration


def decide(
    scores: CartScores, products: Sequence[str], calibration: CartCalibration | None = None
) -> CartDecision:
    """The most probable decision. Its products are entries of ``products``, whatever the scores are."""
    calibration = calibration or CartCalibration()
    outcomes = _probabilities(scores.outcome, calibration.outcome_temperature)
    outcome = int(outcomes.argmax())
    pointers = _probabilities(scores.pointer, calibration.pointer_temperature)
    actions: tuple[CartAction, ...] = ()
    candidates: tuple[str, ...] = ()
    if CART_OUTCOMES[outcome] == "actions":
        slots = _slots(scores, pointers, calibration)
        actions = tuple(
            _summed(slots, float(outcomes[outcome]), pointers, products, calibration, scores.told)
        )
    elif CART_OUTCOMES[outcome] == "ambiguous":
        candidates = _candidates(pointers[0], products, calibration)
    return CartDecision(
        outcome=CART_OUTCOMES[outcome],
        confidence=float(outcomes[outcome]),
        actions=actions,
        candidates=candidates,
        considered=len(products),
    )


@dataclass(frozen=True, slots=True)
class _Slot:
    index: int
    action: int
    product: int
    quantity: int
    probability: float


def _slots(scores: CartScores, pointers: Floats, calibration: CartCalibration) -> Iterator[_Slot]:
    """Slots in order, until the first that stops; the first slot never does."""
    actions = _probabilities(scores.action, calibration.action_temperature)
    acting: list[int] = []
    for index, row in enumerate(actions):
        best = int((row[:_STOP] if index == 0 else row).argmax())
        if best == _STOP:
            break
        acting.append(best)
    meant = different_products(pointers[: len(acting)])
    numbers = number_probabilities(scores.digits[: len(acting)], scores.told, calibration)
    quantities = meant_numbers(numbers, scores.told)
    for index, (best, product, (quantity, share)) in enumerate(
        zip(acting, meant, quantities, strict=True)
    ):
        probability = float(actions[index, best]) * float(pointers[index, product]) * share
        yield _Slot(index, best, product, quantity, probability)


def different_products(pointers: Floats) -> list[int]:
    """A product for each row of probabilities (s, n): the surest first, none twice.

    A product is repeated where nothing else comes near it (:data:`_REPEATED`): people may say it twice.
    """
    meant = [-1] * len(pointers)
    free = pointers.copy()
    for _ in meant:
        waiting = [slot for slot, product in enumerate(meant) if product < 0]
        slot = max(waiting, key=lambda slot: float(free[slot].max()))
        product = int(free[slot].argmax())
        best = int(pointers[slot].argmax())
        if free[slot, product] < _REPEATED * pointers[slot, best]:
            product = best
        meant[slot] = product
        free[:, product] = 0
    return meant


def _summed(
    slots: Iterable[_Slot],
    outcome: float,
    pointers: Floats,
    products: Sequence[str],
    calibration: CartCalibration,
    told: Container[int],
) -> Iterator[CartAction]:
    """One action for each product and direction, in the order in which they were named."""
    alike: dict[tuple[int, int], list[_Slot]] = {}
    for slot in slots:
        alike.setdefault((slot.action, slot.product), []).append(slot)
    meant = [product for _, product in alike]
    for (action, product), same in alike.items():
        probability = outcome
        for slot in same:
            probability *= slot.probability
        # What another wish means is no candidate: this one was not for it.
        free = pointers.copy()
        free[:, [other for other in meant if other != product]] = 0
        unsure = next((s for s in same if _close(free[s.index], calibration)), None)
        yield CartAction(
            action=SLOT_ACTIONS[action],
            product=products[product],
            quantity=_together([slot.quantity for slot in same], told),
            confidence=calibration.confidence(probability),
            ambiguous=unsure is not None,
            candidates=_candidates(free[unsure.index], products, calibration)
            if unsure is not None
            else (),
        )


def _together(quantities: Sequence[int], told: Container[int]) -> int:
    """How many of a product that was named several times: the sum, at most :data:`LARGEST`.

    A 1 that nobody told adds nothing to a number: "six pairs of sandals, the golden ones" are six.
    """
    numbers = [number for number in quantities if number > 1 or number in told]
    return min(LARGEST, sum(numbers or quantities))


def _close(pointer: Floats, calibration: CartCalibration) -> bool:
    """Whether the second-best product is nearly as likely as the best."""
    if len(pointer) < 2:
        return False
    second, best = np.partition(pointer, -2)[-2:]
    return bool(second > calibration.ambiguity_ratio * best)


def _candidates(
    pointer: Floats, products: Sequence[str], calibration: CartCalibration
) -> tuple[str, ...]:
    """The likely products, best first: at least two where there are two, for a choice needs both."""
    order = np.argsort(-pointer, kind="stable")[:MAX_CANDIDATES]
    least = calibration.candidate_share * pointer[order[0]]
    return tuple(
        products[int(i)] for place, i in enumerate(order) if place < 2 or pointer[i] >= least
    )


def number_probabilities(
    digits: Floats, told: Iterable[int], calibration: CartCalibration
) -> Floats:
    """Of the numbers from 1 to 999 (s, 999), from the digits' logits (s, 3, 10). Zero cannot be said."""
    logits = [number_logits(slot, told, calibration) for slot in digits]
    return np.exp(log_softmax(np.array(logits, np.float32).reshape(-1, LARGEST)))


def meant_numbers(probabilities: Floats, told: Mapping[int, int]) -> list[tuple[int, float]]:
    """A number for each row of probabilities (s, 999), and its share of those that it could be.

    One that the message tells is meant as often as it is told: "four pens and a glue stick" has one four.
    The surest row has the first choice. A number is meant again where nothing else comes near it
    (:data:`_SHARED`), as in "four of each".
    """
    left = dict(told)
    meant = [(1, 0.0)] * len(probabilities)
    for slot in np.argsort(-probabilities.max(axis=1), kind="stable").tolist():
        row = probabilities[slot]
        place = int(row.argmax())
        if left.get(place + 1, 1) < 1:
            others = row.copy()
            others[[number - 1 for number, count in left.items() if count < 1]] = 0
            if others.max() >= _SHARED * row[place]:
                row, place = others / others.sum(), int(others.argmax())
        if place + 1 in left:
            left[place + 1] -= 1
        meant[slot] = place + 1, float(row[place])
    return meant


def number_logits(digits: Floats, told: Iterable[int], calibration: CartCalibration) -> Floats:
    """Logits (999,) of the numbers from 1 on: of their digits, and of being told in the message."""
    scaled = log_softmax(digits / np.float32(calibration.quantity_temperature))
    hundreds, tens, units = scaled
    logits: Floats = (hundreds[:, None, None] + tens[:, None] + units).reshape(-1)[1:]
    logits[0] += np.float32(calibration.one_bonus)
    for number in told:
        logits[number - 1] += np.float32(calibration.told_bonus)
    return logits


def _probabilities(logits: Floats, temperature: float) -> Floats:
    result: Floats = np.exp(log_softmax(logits / np.float32(temperature)))
    return result
