from __future__ import annotations

from zlib import crc32

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.classification.ngrams import BUCKETS, NgramModel, features, fold, weigh
from tests.fake_artifact import EXAMPLES, fake_model

TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=60)


@pytest.fixture(scope="module")
def model() -> NgramModel:
    return fake_model().ngrams


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Košarica 12", "kosarica 47"),
        ("ĐURĐICA", "durdica"),
        ("Straße", "strasse"),
        ("¿Dónde está?", "¿donde esta?"),
        ("cafe\u0301", "caf\u00e9"),
    ],
)
def test_spellings_that_meet(one: str, other: str):
    """Case, diacritics and which digit it is do not count."""
    assert fold(one) == fold(other)


@given(TEXT)
def test_folding_loses_digits_and_combining_marks(text: str):
    """No ASCII digit but 0 is left."""
    assert not set("123456789") & set(fold(text))


@given(TEXT)
def test_features_are_sorted_distinct_buckets(text: str):
    """What the model's look-up relies on."""
    f = features(text)
    for buckets, counts in ((f.words, f.word_counts), (f.chars, f.char_counts)):
        assert (np.diff(buckets) > 0).all()
        assert ((buckets >= 0) & (buckets < BUCKETS)).all()
        assert buckets.shape == counts.shape
        assert (counts >= 1).all()


@given(TEXT)
def test_any_text_gets_a_distribution(text: str):
    """Probabilities sum to one and the known share is a share, for whatever is typed."""
    log_probabilities, known = fake_model().ngrams.score(text)
    assert np.exp(log_probabilities).sum() == pytest.approx(1, abs=1e-5)
    assert 0 <= known <= 1 + 1e-6


def test_familiar_wording_is_known_and_gibberish_is_not(model: NgramModel):
    """The share tells another language or noise from what was trained on."""
    assert model.score("where is my order")[1] == pytest.approx(1)
    assert model.score("zzqx vvwk")[1] < 0.2


def test_words_of_an_intent_speak_for_it(model: NgramModel):
    """The linear model points at the intent whose words stand there."""
    for column, texts in enumerate(EXAMPLES.values()):
        assert model.score(texts[0])[0].argmax() == column


def test_values_have_unit_length_when_all_is_known():
    """TF-IDF rows are normalised; unknown n-grams take their part of the length."""
    buckets, counts = np.array([3, 7]), np.array([1, 4], np.float32)
    idf = np.array([1.0, 2.0], np.float32)
    rows, values, known = weigh(buckets, counts, buckets, idf)
    assert rows.tolist() == [0, 1]
    assert np.linalg.norm(values) == pytest.approx(1)
    assert known == pytest.approx(1)
    _, values, known = weigh(np.array([3, 9]), counts, buckets, idf)
    assert np.linalg.norm(values) < 1
    assert known < 0.5


@pytest.mark.parametrize("token", ["a", "mug", "ŧ", "日本茶", "æther"])
def test_grams_are_of_letters_whatever_their_bytes(token: str):
    """A letter of several bytes is never cut, one of a single byte is hashed the same."""
    padded = f" {token} "
    grams = {padded[i : i + n] for n in range(2, 6) for i in range(max(1, len(padded) - n + 1))}
    wanted = sorted({crc32(gram.encode()) % BUCKETS for gram in grams})
    assert features(token).chars.tolist() == wanted
