from __future__ import annotations

import numpy as np
import pytest

from training.ngram_fit import Taught, fit_ngrams, score_all

TEXTS = [
    "where is my order",
    "track my parcel",
    "has it been shipped",
    "i want a refund",
    "give my money back",
    "refund me please",
    "do you sell mugs",
    "looking for a lamp",
    "any garden chairs",
]
LABELS = [0, 0, 0, 1, 1, 1, 3, 3, 3]


@pytest.mark.parametrize("balanced", [False, True])
def test_what_was_fitted_is_recognised(balanced: bool):
    """Each training text gets its own label back, with a distribution over all columns."""
    model = fit_ngrams(TEXTS, LABELS, count=4, balanced=balanced)
    scores, known = score_all(model, TEXTS)
    assert scores.argmax(axis=1).tolist() == LABELS
    assert np.exp(scores).sum(axis=1) == pytest.approx(1, abs=1e-5)
    assert known == pytest.approx(1, abs=1e-5)


def test_a_column_without_rows_is_never_chosen():
    """Labels may be ahead of their data."""
    model = fit_ngrams(TEXTS, LABELS, count=4)
    scores, _ = score_all(model, [*TEXTS, "zzz", "?"])
    assert (scores[:, 2] < np.delete(scores, 2, axis=1).min(axis=1)).all()


def test_two_labels_are_enough():
    """Two labels, where the library keeps one row of weights only."""
    model = fit_ngrams(TEXTS[:6], LABELS[:6], count=3)
    scores, _ = score_all(model, TEXTS[:6])
    assert scores.argmax(axis=1).tolist() == LABELS[:6]


def test_typos_are_seen_through():
    """Character n-grams carry over what words alone would lose."""
    model = fit_ngrams(TEXTS, LABELS, count=4)
    scores, _ = score_all(model, ["were is my oder", "refnd plz", "gardn chair"])
    assert scores.argmax(axis=1).tolist() == [0, 1, 3]


def test_the_most_frequent_features_are_kept():
    """The bound on size holds; buckets stay sorted, as look-ups need them."""
    model = fit_ngrams(TEXTS, LABELS, count=4, word_features=7, char_features=11)
    assert len(model.word_buckets) == len(model.word_weights) == 7
    assert len(model.char_buckets) == len(model.char_weights) == 11
    assert (np.diff(model.char_buckets) > 0).all()


def test_fitting_repeats():
    """The same rows give the same weights."""
    one, other = (fit_ngrams(TEXTS, LABELS, count=4) for _ in range(2))
    assert np.array_equal(one.char_weights, other.char_weights)


def test_a_teacher_adds_words_that_nobody_labelled():
    """Texts with a teacher's probabilities are learned from, each shared among its likely labels."""
    texts = ["parcel tracing", "tracing please", "tracing or refund", "tracing or money back"]
    probabilities = np.array(
        [[0.99, 0.01, 0, 0], [0.98, 0, 0, 0.02], [0.5, 0.5, 0, 0], [0.4, 0.6, 0, 0]], np.float32
    )
    plain = fit_ngrams(TEXTS, LABELS, count=4)
    taught = fit_ngrams(TEXTS, LABELS, count=4, taught=Taught(texts, probabilities))
    before, _ = score_all(plain, ["tracing", "tracing or money"])
    after, known = score_all(taught, ["tracing", "tracing or money"])
    assert known[0] == pytest.approx(1, abs=1e-5)
    assert after[0, 0] > before[0, 0]
    assert after[0].argmax() == 0
    assert abs(after[1, 0] - after[1, 1]) < 2.0, "both labels were taught"
    assert score_all(taught, TEXTS)[0].argmax(axis=1).tolist() == LABELS


def test_a_sure_teacher_is_as_good_as_labels():
    """Probabilities of one are labels: the same model comes out."""
    sure = np.eye(4, dtype=np.float32)[LABELS[5:]]
    labelled = fit_ngrams(TEXTS, LABELS, count=4)
    taught = fit_ngrams(TEXTS[:5], LABELS[:5], count=4, taught=Taught(TEXTS[5:], sure))
    assert np.allclose(labelled.word_weights, taught.word_weights)
    assert np.allclose(labelled.bias, taught.bias)


def test_a_teacher_without_texts_changes_nothing():
    nothing = Taught([], np.zeros((0, 4), np.float32))
    plain, taught = (fit_ngrams(TEXTS, LABELS, count=4, taught=t) for t in (None, nothing))
    assert np.array_equal(plain.char_weights, taught.char_weights)


def test_a_teacher_without_a_clue_does_no_harm():
    """Many labels, none of them likely: the likeliest ones are learned, and all numbers stay finite."""
    vague = Taught(["zzz qqq"], np.full((1, 25), 1 / 25, np.float32))
    model = fit_ngrams(TEXTS * 6, LABELS * 6, count=25, taught=vague)
    assert np.isfinite(model.char_weights).all()
    assert score_all(model, TEXTS)[0].argmax(axis=1).tolist() == LABELS
