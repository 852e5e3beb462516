from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from app.artifacts.base_package import silent
from app.backends.base import BackendOptions, HiddenStates, TokenIds
from app.backends.fake import FakeBackend
from app.errors import FileDamaged, InferenceFailed
from tests.fake_artifact import EXAMPLES, HIDDEN, fake_model, write_fake_artifact
from training.examples import Example
from training.ngram_teaching import ANSWERS, TaughtNgrams, kept_ngrams

UNLABELLED = ["where is my parcel now", "parcel please", "refund my money", "cash back now"]


class Counting(FakeBackend):
    """Counts the messages that it reads."""

    read = 0

    def embed(self, messages: Sequence[TokenIds]) -> HiddenStates:
        self.read += len(messages)
        return super().embed(messages)


@pytest.fixture
def backend() -> Counting:
    return Counting(HIDDEN, BackendOptions(threads=1, max_sequences=3), fail_on="poison")


@pytest.fixture
def source(tmp_path: Path) -> TaughtNgrams:
    model = fake_model()
    labelled = [Example(text, intent) for intent, texts in EXAMPLES.items() for text in texts]
    return TaughtNgrams(labelled, UNLABELLED, model.labels, model.head, tmp_path / "run", silent)


def test_the_language_model_teaches_new_words(source: TaughtNgrams, backend: Counting):
    """Words that only stand in unlabelled texts are known afterwards."""
    word = "cash"
    plain = replace(source, unlabelled=[], run=source.run / "plain")
    assert not any(word in text for texts in EXAMPLES.values() for text in texts)
    assert plain(backend).score(word)[1] < source(backend).score(word)[1]
    assert backend.read == len(UNLABELLED)


def test_answers_are_kept_and_come_out_again(source: TaughtNgrams, backend: Counting):
    """A run that goes on does not ask again, and learns the same."""
    first, second = source(backend), source(backend)
    assert backend.read == len(UNLABELLED)
    assert np.array_equal(first.char_weights, second.char_weights)
    assert [path.name for path in source.run.iterdir()] == [ANSWERS]


def test_other_heads_and_texts_are_asked_anew(source: TaughtNgrams, backend: Counting):
    """Kept answers belong to one head and one list of texts."""
    source(backend)
    head = replace(source.head, bias=source.head.bias + np.float32(1))
    replace(source, head=head)(backend)
    assert backend.read == 2 * len(UNLABELLED)
    replace(source, unlabelled=UNLABELLED[:2])(backend)
    assert backend.read == 2 * len(UNLABELLED) + 2


def test_nothing_is_kept_of_an_aborted_run(source: TaughtNgrams, backend: Counting):
    """Half the answers would pass for all of them."""
    broken = replace(source, unlabelled=[*UNLABELLED, "poison"])
    with pytest.raises(InferenceFailed):
        broken(backend)
    assert not source.run.exists()


def test_the_ngrams_of_a_version_are_kept_for_the_same_intents(tmp_path: Path):
    """Nothing is asked and nothing fitted; other intents, or another order of them, are refused."""
    labels = write_fake_artifact(tmp_path).intents
    version = tmp_path / "storefront" / "1"
    kept = kept_ngrams(version, labels)
    expected = fake_model().ngrams
    assert np.array_equal(kept.char_buckets, expected.char_buckets)
    np.testing.assert_allclose(kept.char_weights, expected.char_weights, rtol=1e-3)
    with pytest.raises(ValueError, match="other intents"):
        kept_ngrams(version, labels[::-1])


def test_damaged_ngrams_are_not_kept(tmp_path: Path):
    labels = write_fake_artifact(tmp_path).intents
    version = tmp_path / "storefront" / "1"
    (version / "ngrams.safetensors").write_bytes(b"half a file")
    with pytest.raises(FileDamaged):
        kept_ngrams(version, labels)
