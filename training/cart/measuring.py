"""How often cart decisions are exactly right, and the temperatures that make their probabilities true."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize, minimize_scalar

from app.classification.cart import (
    SLOT_ACTIONS,
    CartCalibration,
    CartHeads,
    CartScores,
    decide,
    number_logits,
)
from app.classification.head import log_softmax
from app.domain import CART_OUTCOMES, CartDecision
from training.cart.encoding import outcome_of
from training.cart.reading import ReadRow
from training.metrics import Interval, calibration_error, wilson

Floats = npt.NDArray[np.float64]
_COOLEST, _HOTTEST = 0.05, 20.0
_RATIOS = (0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def is_right(row: Mapping[str, Any], decision: CartDecision) -> bool:
    """The outcome, and every action with its product and quantity; their order does not matter.

    An ambiguous row is right when the customer is asked back.
    """
    if decision.outcome != outcome_of(row):
        return False
    wanted = sorted((a["action"], a["product"], a["quantity"]) for a in row["actions"])
    return wanted == sorted((a.action, a.product, a.quantity) for a in decision.actions)


@dataclass(frozen=True, slots=True)
class CartMeasure:
    """Exactly right by ``kind``, ``kind/language``, ``all`` and ``all/language``; ECE of actions."""

    exact: dict[str, Interval]
    ece: float
    """Of the confidence of decisions with one action, against their being exactly right."""


def measure_carts(
    heads: CartHeads, rows: Sequence[ReadRow], calibration: CartCalibration
) -> CartMeasure:
    right: dict[str, list[bool]] = {}
    sure: list[float] = []
    true: list[bool] = []
    for read in rows:
        row = read.row
        decision = decide(read.scores(heads), read.names, calibration)
        found = is_right(row, decision)
        for kind in (row["kind"], "all"):
            for key in (kind, f"{kind}/{row['language']}"):
                right.setdefault(key, []).append(found)
        if len(decision.actions) == 1:
            sure.append(decision.actions[0].confidence)
            true.append(found)
    exact = {key: wilson(sum(found), len(found)) for key, found in sorted(right.items())}
    ece = calibration_error(np.array(sure, np.float32), np.array(true)) if sure else float("nan")
    return CartMeasure(exact, ece)


def calibrate_carts(heads: CartHeads, rows: Sequence[ReadRow]) -> CartCalibration:
    """Temperatures by likelihood, confidence by Platt's sigmoid, and when to ask back: all on ``rows``."""
    scores = [read.scores(heads) for read in rows]
    pairs = list(zip(rows, scores, strict=True))
    calibration = CartCalibration(
        pointer_temperature=_temperature(_pointed(pairs)),
        action_temperature=_temperature(_acted(pairs)),
        outcome_temperature=_temperature(
            (one.outcome, CART_OUTCOMES.index(outcome_of(read.row))) for read, one in pairs
        ),
    )
    calibration = _quantities(pairs, calibration)
    exponent, bias = _platt(pairs, calibration)
    calibration = replace(calibration, exponent=exponent, bias=bias)
    return replace(calibration, ambiguity_ratio=_ratio(pairs, calibration))


def _temperature(choices: Iterable[tuple[npt.NDArray[np.float32], int]]) -> float:
    """The temperature under which the right choices are most likely."""
    kept = [(logits.astype(np.float64), right) for logits, right in choices]
    if not kept:
        return 1.0

    def loss(log_temperature: float) -> float:
        scale = np.exp(-log_temperature)
        return -float(sum(log_softmax((z * scale)[None])[0, right] for z, right in kept))

    bounds = (np.log(_COOLEST), np.log(_HOTTEST))
    return float(np.exp(minimize_scalar(loss, bounds=bounds, method="bounded").x))


_Pairs = Sequence[tuple[ReadRow, CartScores]]


def _pointed(pairs: _Pairs) -> Iterable[tuple[npt.NDArray[np.float32], int]]:
    for read, scores in pairs:
        for slot, action in enumerate(read.row["actions"]):
            yield scores.pointer[slot], read.names.index(action["product"])


def _acted(pairs: _Pairs) -> Iterable[tuple[npt.NDArray[np.float32], int]]:
    for read, scores in pairs:
        names = [action["action"] for action in read.row["actions"]]
        if not names:
            continue
        told = [*names, "stop"][: len(scores.action)]
        for slot, name in enumerate(told):
            yield scores.action[slot], SLOT_ACTIONS.index(name)


def _quantities(pairs: _Pairs, calibration: CartCalibration) -> CartCalibration:
    """Temperature of the digits and worth of being told, under which the quantities are most likely."""
    asked = [
        (scores.digits[slot], scores.told, action["quantity"])
        for read, scores in pairs
        for slot, action in enumerate(read.row["actions"])
    ]
    if not asked:
        return calibration

    def made(values: Floats) -> CartCalibration:
        log_temperature, told, one = values
        return replace(
            calibration,
            quantity_temperature=float(np.exp(np.clip(log_temperature, -3, 3))),
            told_bonus=float(told),
            one_bonus=float(one),
        )

    def loss(values: Floats) -> float:
        tried = made(values)
        logits = np.stack([number_logits(digits, told, tried) for digits, told, _ in asked])
        right = [quantity - 1 for *_, quantity in asked]
        return -float(log_softmax(logits)[np.arange(len(asked)), right].mean())

    return made(minimize(loss, np.zeros(3), method="Nelder-Mead", options={"maxiter": 120}).x)


def _platt(pairs: _Pairs, calibration: CartCalibration) -> tuple[float, float]:
    """Exponent and bias under which the confidence of an action is how often it is right."""
    logits, right = [], []
    for read, scores in pairs:
        wanted = {(a["action"], a["product"], a["quantity"]) for a in read.row["actions"]}
        for action in decide(scores, read.names, calibration).actions:
            p = min(1 - 1e-9, max(1e-9, action.confidence))
            logits.append(np.log(p) - np.log1p(-p))
            right.append((action.action, action.product, action.quantity) in wanted)
    if len(set(right)) < 2:
        return 1.0, 0.0
    x, y = np.array(logits), np.array(right, np.float64)

    def loss(values: Floats) -> float:
        z = np.exp(values[0]) * x + values[1]
        return float(np.mean(np.logaddexp(0, z) - y * z))

    found = minimize(loss, np.zeros(2), method="Nelder-Mead").x
    return float(np.exp(found[0])), float(found[1])


def _ratio(pairs: _Pairs, calibration: CartCalibration) -> float:
    """When an action asks back: where that flags wrong products best, a right one flagged costing as
    much as a wrong one not flagged.
    """
    told = []
    for read, scores in pairs:
        wanted = {a["product"] for a in read.row["actions"]}
        if len(read.row["actions"]) != 1 or scores.pointer.shape[1] < 2:
            continue
        pointer = np.exp(log_softmax(scores.pointer[:1] / calibration.pointer_temperature))[0]
        second, best = np.partition(pointer, -2)[-2:]
        told.append((float(second / best), read.names[int(pointer.argmax())] not in wanted))
    if not told:
        return calibration.ambiguity_ratio

    def mistakes(ratio: float) -> int:
        return sum((asked > ratio) != wrong for asked, wrong in told)

    return min(_RATIOS, key=lambda ratio: (mistakes(ratio), ratio))
