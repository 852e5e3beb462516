from __future__ import annotations

from dataclasses import replace

import pytest

from app.classification.cascade import FirstStage
from app.classification.classifier import Classifier
from app.domain import OUT_OF_SCOPE
from tests.fake_artifact import EXAMPLES, fake_cascade, fake_classifier, fake_model

SURE = {text: intent for intent, texts in EXAMPLES.items() for text in texts}


def stage(least: float) -> FirstStage:
    model, cascade = fake_model(), fake_cascade()
    return FirstStage(model.ngrams, model.labels, cascade.calibration, least)


def test_ngrams_answer_what_they_know_and_pass_on_the_rest():
    """An answer is a whole prediction: every intent ranked, probabilities that fit in one."""
    known, strange = stage(0.8).answers(["where is my order", "xyzzy plugh"])
    assert strange is None
    assert known is not None
    assert known.in_scope
    assert known.intent == "order_status"
    assert known.confidence >= 0.8
    assert len(known.ranking) == len(EXAMPLES) - 1
    assert sum(score.confidence for score in known.ranking) <= 1.0


def test_what_is_out_of_scope_is_left_to_the_language_model():
    """N-grams cannot tell what they have never seen, however sure they are of what they have."""
    answers = stage(0.3).answers(EXAMPLES[OUT_OF_SCOPE])
    assert all(answer is None or answer.intent != OUT_OF_SCOPE for answer in answers)
    assert None in answers


def test_a_lower_threshold_only_adds_answers():
    """Whoever is answered carefully is answered fast as well, and alike."""
    texts = [*SURE, "my order and my parcel", "card", "shoes"]
    careful, fast = stage(0.9).answers(texts), stage(0.5).answers(texts)
    assert 0 < sum(a is not None for a in careful) <= sum(a is not None for a in fast)
    for one, other in zip(careful, fast, strict=True):
        assert one is None or one == other


@pytest.mark.parametrize("stages", ["off", "relief", "careful", "fast"])
def test_a_classifier_without_a_cascade_has_no_first_stage(stages: str):
    """Whatever the operator asks for: nothing was fitted."""
    assert fake_classifier().first_stage(stages) is None  # type: ignore[arg-type]


def test_the_operator_chooses_the_threshold():
    """Off is off; careful and fast are those of the artifact."""
    model = replace(fake_model(), cascade=fake_cascade(careful=2.0))
    classifier = Classifier(fake_classifier().backend, model)
    assert classifier.first_stage("off") is None
    careful, fast = classifier.first_stage("careful"), classifier.first_stage("fast")
    assert careful is not None
    assert fast is not None
    assert careful.answers(["where is my order"]) == [None]
    assert fast.answers(["where is my order"]) != [None]


def test_the_short_cut_rules_out_nothing_that_is_sure():
    """Asked for any confidence at all, n-grams say of each message what they say of all at once."""
    texts = [*SURE, "my order and my parcel", "card", "shoes", "xyzzy plugh"]
    everything = stage(0.0).answers(texts)
    assert None not in everything
    for least in (0.2, 0.5, 0.8, 0.95):
        for given, found in zip(stage(least).answers(texts), everything, strict=True):
            assert found is not None
            sure = found.confidence >= least
            assert (given is not None) == sure
            assert given is None or given.intent == found.intent
