"""What the default model answers to messages that it has never seen."""

from __future__ import annotations

import json

import pytest

from app.artifacts.store import Artifact
from app.classification.loading import CONFIDENCE_TOLERANCE
from app.classification.prompt import normalise
from app.domain import OUT_OF_SCOPE
from tests.e2e.conftest import NAME, Answer, Expected, Storefront
from tests.process import ROOT

pytestmark = pytest.mark.weights

ROUNDING = 1e-3
"""45 confidences, each rounded to six places, and one single-precision sum."""


def test_at_least_45_of_50_are_right(messages: list[Expected], answers: list[Answer]) -> None:
    """Real-sounding messages of every kind are understood."""
    wrong = [
        f"{message.text!r} is {message.intent}, not {answer['intent']}"
        for message, answer in zip(messages, answers, strict=True)
        if answer["intent"] != message.intent
    ]
    assert len(messages) == 50
    assert len(wrong) <= 5, wrong


def test_the_fifty_were_not_trained_on(artifact: Artifact, messages: list[Expected]) -> None:
    """None of them is among our own utterances that the model is made from."""
    seeds = list((ROOT / "training" / "data" / "seeds").rglob("*.jsonl"))
    assert seeds
    trained = {
        normalise(json.loads(line)["text"]).casefold()
        for path in seeds
        for line in path.read_text().splitlines()
    }
    assert not trained & {normalise(message.text).casefold() for message in messages}


@pytest.mark.parametrize(
    ("text", "intent"),
    [
        ("my parcel was due tuesday and still nothing", "delivery_delay"),
        ("put two of the blue mugs in my basket", "cart_add"),
        ("what's the capital of france", OUT_OF_SCOPE),
    ],
)
def test_these_three_are_right(storefront: Storefront, text: str, intent: str) -> None:
    """The messages of the README and the try-it page mean what they mean."""
    assert storefront.classify(text)["intent"] == intent


@pytest.mark.parametrize(
    ("text", "intent"),
    [
        ("paket je trebao stići u utorak, a još ga nema", "delivery_delay"),
        ("dodaj dvije plave šalice u košaricu", "cart_add"),
        ("želim otkazati narudžbu", "order_cancel"),
        ("mogu li platiti karticom?", "payment_methods"),
        ("koji je glavni grad Francuske", OUT_OF_SCOPE),
        ("el paquete tenía que llegar el martes y todavía nada", "delivery_delay"),
        ("añade dos tazas azules a mi carrito", "cart_add"),
        ("quiero devolver los zapatos", "return_exchange"),
        ("¿puedo pagar con PayPal?", "payment_methods"),
        ("¿cuál es la capital de Francia?", OUT_OF_SCOPE),
    ],
)
def test_croatian_and_spanish(storefront: Storefront, text: str, intent: str) -> None:
    """The other languages of the manifest are understood too."""
    assert storefront.classify(text)["intent"] == intent


def test_answer_has_the_published_shape(storefront: Storefront, artifact: Artifact) -> None:
    """Every field of the contract is there, and nothing else."""
    answer = storefront.classify("where is my parcel")
    assert set(answer) == {
        "id", "intent", "confidence", "in_scope", "ranking", "model", "timings_ms",
    }  # fmt: skip
    assert answer["model"] == {
        "name": NAME,
        "version": artifact.manifest.version,
        "backend": "gguf",
    }
    assert set(answer["timings_ms"]) == {"queue", "inference", "total"}
    assert 0 < answer["timings_ms"]["inference"] <= answer["timings_ms"]["total"]
    assert len(answer["ranking"]) == 3
    assert len(storefront.classify("where is my parcel", top_k=1)["ranking"]) == 1


def test_rankings_are_distributions(answers: list[Answer], artifact: Artifact) -> None:
    """Every intent once, best first; with what is left for out-of-scope they sum to about one."""
    intents = set(artifact.manifest.intents) - {OUT_OF_SCOPE}
    for answer in answers:
        confidences = [scored["confidence"] for scored in answer["ranking"]]
        assert {scored["intent"] for scored in answer["ranking"]} == intents
        assert len(confidences) == len(intents)
        assert confidences == sorted(confidences, reverse=True)
        assert min(confidences) >= 0
        if answer["in_scope"]:
            assert answer["ranking"][0] == {
                "intent": answer["intent"],
                "confidence": answer["confidence"],
            }
            assert sum(confidences) <= 1 + ROUNDING
        else:
            assert sum(confidences) + answer["confidence"] == pytest.approx(1, abs=ROUNDING)


def test_out_of_scope_shows_the_nearest(answers: list[Answer]) -> None:
    """Whoever is told "out of scope" still sees what came nearest."""
    refused = [answer for answer in answers if not answer["in_scope"]]
    assert refused
    for answer in refused:
        assert answer["intent"] == OUT_OF_SCOPE
        assert OUT_OF_SCOPE not in {scored["intent"] for scored in answer["ranking"]}
        assert answer["ranking"]


def test_golden_answers_come_over_http(storefront: Storefront, artifact: Artifact) -> None:
    """The manifest's golden messages are answered on the wire as when the model was published."""
    assert artifact.manifest.golden
    for golden in artifact.manifest.golden:
        answer = storefront.classify(golden.text)
        assert answer["intent"] == golden.intent
        assert answer["confidence"] == pytest.approx(golden.confidence, abs=CONFIDENCE_TOLERANCE)


def test_the_model_tells_of_itself(storefront: Storefront, artifact: Artifact) -> None:
    """Labels, languages and evaluation are those of the manifest."""
    told = storefront.client.get(f"/v1/models/{NAME}").json()
    assert told["state"] == "live"
    assert told["default"] is True
    assert [intent["intent"] for intent in told["intents"]] == list(artifact.manifest.intents)
    assert told["languages"] == ["en", "hr", "es"]
    assert told["evaluation"] == artifact.manifest.evaluation
