"""How right and how sure: figures from evidence, answers and the rows' truth. No model is asked here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from app.classification.classifier import IntentModel
from app.classification.decision import Calibration, Evidence, fuse, probabilities
from app.classification.head import log_softmax
from app.domain import OUT_OF_SCOPE
from study.results import Arrays
from training.metrics import calibration_error, score, wilson

Row = Mapping[str, Any]
Floats = npt.NDArray[np.float32]
Decided = tuple[Floats, Floats, float]
"""Intent probabilities given in scope (n, intents), of being in scope (n,), and the threshold."""
BINS = 10


def label_scores(
    arrays: Arrays,
    rows: Sequence[Row],
    model: IntentModel,
    groups: Mapping[str, str],
    *,
    alone: bool,
) -> dict[str, Any]:
    """Accuracy, calibration and every row's decision. ``alone``: one half without fusion."""
    out = model.labels.index(OUT_OF_SCOPE)
    truth = _truth(rows, model)
    evidence = Evidence(**arrays)
    decided = _alone(evidence.ngram, out) if alone else _fused(evidence, model.calibration, out)
    found = _scored(decided, truth, out)
    best, answer = _choices(decided, out)
    inside = truth != out
    confidence = decided[0].max(axis=1)
    hits = best == truth
    return {
        **found,
        "by_group": _shares(hits, inside, [groups.get(row["intent"], "") for row in rows]),
        "by_language": _shares(hits, inside, [row["language"] for row in rows]),
        "reliability": reliability(confidence[inside], hits[inside]),
        "decisions": [model.labels[i] for i in answer],
        "confidences": [round(float(value), 4) for value in confidence],
        "hits": [bool(hit) if within else None for hit, within in zip(hits, inside, strict=True)],
    }


def level_scores(
    arrays: Arrays, rows: Sequence[Row], model: IntentModel, *, alone: bool
) -> dict[str, Any]:
    """In-scope accuracy at each level of noise, in all and by language."""
    out = model.labels.index(OUT_OF_SCOPE)
    truth = _truth(rows, model)
    evidence = Evidence(**arrays)
    decided = _alone(evidence.ngram, out) if alone else _fused(evidence, model.calibration, out)
    best, _ = _choices(decided, out)
    levels = np.array([row["level"] for row in rows])
    languages = np.array([row["language"] for row in rows])
    inside = truth != out
    found: dict[str, Any] = {}
    for level in sorted(set(levels.tolist())):
        here = inside & (levels == level)
        found[str(level)] = {
            "all": _share(best[here] == truth[here]),
            **{
                str(language): _share((best == truth)[here & (languages == language)])
                for language in sorted(set(languages.tolist()))
            },
        }
    return {"levels": found}


def ablations(arrays: Arrays, rows: Sequence[Row], model: IntentModel) -> dict[str, Any]:
    """The same evidence decided on in other ways: each half alone, plain fusion, and as calibrated."""
    out = model.labels.index(OUT_OF_SCOPE)
    truth = _truth(rows, model)
    evidence = Evidence(**arrays)
    given = model.calibration
    variants: dict[str, Callable[[], Decided]] = {
        "language model alone": lambda: _alone(evidence.lm, out),
        "n-grams alone": lambda: _alone(evidence.ngram, out),
        "both, equal weights": lambda: _alone(fuse(evidence.lm, evidence.ngram, 0.5, 0.5), out),
        "both, fitted weights": lambda: _alone(
            fuse(evidence.lm, evidence.ngram, given.lm_weight, given.ngram_weight), out
        ),
        "both, fitted weights, scope gate": lambda: _fused(evidence, given, out),
    }
    return {name: _scored(decide(), truth, out) for name, decide in variants.items()}


def cart_scores(answers: Sequence[Mapping[str, Any]], rows: Sequence[Row]) -> dict[str, Any]:
    """Exact match in the paper's schema: action, product and quantity, or none where none is meant."""
    rows = rows[: len(answers)]
    hits = [one["said"] == row["expected"] for one, row in zip(answers, rows, strict=True)]
    asked = [row["expected"]["action"] != "none" for row in rows]
    found: dict[str, Any] = {
        "exact": _share(hits),
        "exact_actions": _share([hit for hit, one in zip(hits, asked, strict=True) if one]),
        "valid": _share([one["said"] is not None for one in answers]),
        "by_language": _shares(
            np.array(hits), np.ones(len(hits), np.bool_), [row["language"] for row in rows]
        ),
        "hits": hits,
    }
    sure = [one["probability"] for one in answers]
    if all(value is not None for value in sure):
        confidence = np.array(sure, np.float32)
        found["ece"] = calibration_error(confidence, np.array(hits))
    return found


def reliability(confidence: Floats, hits: npt.NDArray[np.bool_]) -> list[dict[str, float]]:
    """Mean confidence, accuracy and messages of bins of equal width; empty ones are left out."""
    places = np.minimum((confidence * BINS).astype(int), BINS - 1)
    return [
        {
            "confidence": float(confidence[places == place].mean()),
            "accuracy": float(hits[places == place].mean()),
            "n": int((places == place).sum()),
        }
        for place in range(BINS)
        if (places == place).any()
    ]


def _truth(rows: Sequence[Row], model: IntentModel) -> npt.NDArray[np.int64]:
    return np.array([model.labels.index(row["intent"]) for row in rows], np.int64)


def _fused(evidence: Evidence, calibration: Calibration, out: int) -> Decided:
    return (*probabilities(evidence, calibration, out), calibration.threshold)


def _alone(scores: Floats, out: int) -> Decided:
    """One distribution by itself: answering where in scope is the likelier."""
    given: Floats = np.exp(log_softmax(np.delete(scores, out, axis=1)))
    whole = np.exp(log_softmax(scores))
    return given, np.float32(1.0) - whole[:, out], 0.5


def _choices(decided: Decided, out: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The best intent of each row, and the decision with the threshold, as columns."""
    given, in_scope, threshold = decided
    best = given.argmax(axis=1)
    best = best + (best >= out)
    return best, np.where(in_scope >= threshold, best, out)


def _scored(decided: Decided, truth: npt.NDArray[np.int64], out: int) -> dict[str, Any]:
    given, in_scope, threshold = decided
    scores = score(given, in_scope, truth, out, threshold)
    _, answer = _choices(decided, out)
    return {**asdict(scores), "exact": _share(answer == truth)}


def _share(hits: Sequence[bool] | npt.NDArray[np.bool_]) -> dict[str, Any]:
    return asdict(wilson(int(np.sum(hits)), len(hits)))


def _shares(
    hits: npt.NDArray[np.bool_], rows: npt.NDArray[np.bool_], names: Sequence[str]
) -> dict[str, Any]:
    """The share of hits among ``rows``, by name."""
    array = np.array(names)
    return {
        str(name): _share(hits[rows & (array == name)])
        for name in sorted(set(array[rows].tolist()))
        if name
    }
