"""How right and how sure, from evidence that is known."""

from __future__ import annotations

import numpy as np
import pytest

from study.scores import ablations, cart_scores, label_scores, level_scores, reliability
from tests.fake_artifact import EXAMPLES, fake_model

MODEL = fake_model()
LABELS = MODEL.labels
ROWS = [
    {"text": text, "intent": intent, "language": "en", "level": 0}
    for intent, texts in EXAMPLES.items()
    for text in texts
]


def arrays(right: bool = True) -> dict[str, np.ndarray]:
    """Evidence that is sure of the right intent of each row, or of another one."""
    scores = np.full((len(ROWS), len(LABELS)), -9.0, np.float32)
    for place, row in enumerate(ROWS):
        column = LABELS.index(row["intent"])
        scores[place, column if right else (column + 1) % len(LABELS)] = 0.0
    return {
        "lm": scores,
        "ngram": scores,
        "prototype_cosine": np.ones(len(ROWS), np.float32),
        "known_share": np.ones(len(ROWS), np.float32),
    }


def test_right_evidence_is_all_right() -> None:
    """Accuracy is one, for every group and language, and every row is a hit."""
    groups = dict.fromkeys(LABELS, "all")
    found = label_scores(arrays(), ROWS, MODEL, groups, alone=True)
    assert found["accuracy"]["value"] == found["exact"]["value"] == 1.0
    assert found["by_group"]["all"]["value"] == found["by_language"]["en"]["value"] == 1.0
    assert found["decisions"] == [row["intent"] for row in ROWS]
    assert all(hit in {True, None} for hit in found["hits"])


def test_wrong_evidence_is_all_wrong() -> None:
    """No in-scope message is right, and sure errors are a calibration error near one."""
    found = label_scores(arrays(right=False), ROWS, MODEL, {}, alone=True)
    assert found["accuracy"]["value"] < 0.5
    assert found["ece"] > 0.5


def test_levels_are_told_apart() -> None:
    """Each level of noise has its own share, in all and by language."""
    rows = [{**row, "level": place % 2} for place, row in enumerate(ROWS)]
    found = level_scores(arrays(), rows, MODEL, alone=False)
    assert set(found["levels"]) == {"0", "1"}
    assert found["levels"]["0"]["all"] == found["levels"]["0"]["en"]


def test_ablations_decide_on_the_same_evidence() -> None:
    """Every variant is right where both halves are."""
    found = ablations(arrays(), ROWS, MODEL)
    assert len(found) >= 4
    assert {one["accuracy"]["value"] for one in found.values()} == {1.0}


def test_cart_answers_are_exact_or_not() -> None:
    """Action, product and quantity all count; an answer that is no JSON is invalid, not a crash."""
    add = {"action": "add", "product": "Tea", "quantity": 2}
    rows = [
        {"expected": add, "language": "en"},
        {"expected": add, "language": "hr"},
        {"expected": {"action": "none"}, "language": "hr"},
        {"expected": add, "language": "en"},
    ]
    answers = [
        {"said": add, "probability": 0.9},
        {"said": {**add, "quantity": 3}, "probability": 0.2},
        {"said": {"action": "none"}, "probability": 0.8},
        {"said": None, "probability": 0.1},
    ]
    found = cart_scores(answers, rows)
    assert found["hits"] == [True, False, True, False]
    assert found["exact"]["value"] == 0.5
    assert found["exact_actions"]["value"] == pytest.approx(1 / 3)
    assert found["valid"]["value"] == 0.75
    assert found["by_language"]["hr"]["value"] == 0.5
    assert 0 < found["ece"] < 0.3


def test_a_baseline_without_confidence_has_no_calibration() -> None:
    """Where no probability is given, none is made up."""
    found = cart_scores(
        [{"said": {"action": "none"}, "probability": None}],
        [{"expected": {"action": "none"}, "language": "en"}],
    )
    assert "ece" not in found


def test_empty_bins_are_left_out() -> None:
    """Two kinds of confidence are two bins, each with its share of hits."""
    bins = reliability(np.array([0.95, 0.96, 0.31], np.float32), np.array([True, False, True]))
    assert [(one["n"], one["accuracy"]) for one in bins] == [(1, 1.0), (2, 0.5)]
