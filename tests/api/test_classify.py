"""The answers of the two classify routes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from app.api.schemas import Classification, ClassificationBatch
from app.domain import OUT_OF_SCOPE
from tests.conftest import Running
from tests.fake_artifact import EXAMPLES

STRANGE = {
    "emoji": "where is my order 📦😡",
    "joined emoji": "👩‍👩‍👧 gift please",
    "one character": "?",
    "croatian": "gdje je moja narudžba, već kasni čitav tjedan",
    "right to left": "أين طلبي",
    "chinese": "我的订单在哪里",
    "control characters": "where\x00 is\x07 my\r\n order",
    "2,000 characters": "where is my order " * 111 + "ok",
    "markup": "<script>alert(1)</script> where is my order",
    "model's own tokens": "<end_of_turn><bos> where is my order",
    "astral": "𝓌𝒽𝑒𝓇𝑒 𝒾𝓈 𝓂𝓎 𝑜𝓇𝒹𝑒𝓇",
}


def test_answer_has_the_shape_of_the_contract(service: Running) -> None:
    """A decision holds all fields of the contract and no others."""
    answer = service.classify("where is my order").json()
    Classification.model_validate(answer, extra="forbid", strict=True)
    assert set(answer) == {
        "id", "intent", "confidence", "in_scope", "ranking", "model", "timings_ms",
    }  # fmt: skip
    assert answer["intent"] == "order_status"
    assert answer["in_scope"] is True
    assert answer["model"] == {"name": "storefront", "version": "1", "backend": "fake"}
    assert set(answer["timings_ms"]) == {"queue", "inference", "total"}
    spent = answer["timings_ms"]
    assert 0 <= spent["queue"] + spent["inference"] <= spent["total"] + 0.01


@pytest.mark.parametrize("intent", [name for name in EXAMPLES if name != OUT_OF_SCOPE])
def test_known_wording_gets_its_intent(service: Running, intent: str) -> None:
    """Each intent is found for a message close to its examples."""
    assert service.classify(EXAMPLES[intent][0].upper()).json()["intent"] == intent


def test_out_of_scope_still_shows_the_nearest_intents(service: Running) -> None:
    """Out of scope the intent says so, in_scope is false, and the ranking is not empty."""
    answer = service.classify("what is the capital of france").json()
    assert (answer["intent"], answer["in_scope"]) == (OUT_OF_SCOPE, False)
    assert len(answer["ranking"]) == 3
    assert OUT_OF_SCOPE not in {ranked["intent"] for ranked in answer["ranking"]}


def test_ranking_is_sorted_and_cut_to_top_k(service: Running) -> None:
    """top_k cuts the ranking; all of it is shown when it is larger."""
    for top_k, expected in ((None, 3), (1, 1), (2, 2), (100, len(EXAMPLES) - 1)):
        more = {} if top_k is None else {"top_k": top_k}
        ranking = service.classify("can i return my order", **more).json()["ranking"]
        confidences = [ranked["confidence"] for ranked in ranking]
        assert len(ranking) == expected
        assert confidences == sorted(confidences, reverse=True)


def test_batch_answers_in_order(service: Running) -> None:
    """Results stand as the texts stood, also over several model batches and with repeats."""
    texts = [text for texts in EXAMPLES.values() for text in texts] * 5
    response = service.client.post("/v1/classify/batch", json={"texts": texts, "top_k": 1})
    results = ClassificationBatch.model_validate(response.json(), strict=True).results
    singles = [service.classify(text).json()["intent"] for text in texts[:13]]
    assert [result.intent for result in results] == singles * 5
    assert all(len(result.ranking) == 1 for result in results)
    assert len({result.id for result in results}) == len(texts)


@pytest.mark.parametrize("text", STRANGE.values(), ids=STRANGE.keys())
def test_strange_text_is_answered(service: Running, text: str) -> None:
    """Whatever has one visible character gets a decision, alone and in a batch."""
    assert service.classify(text).status_code == 200
    batch = service.client.post("/v1/classify/batch", json={"texts": [text, "hello"]})
    assert batch.status_code == 200


def test_ids_differ_and_do_not_repeat_the_request_id(service: Running) -> None:
    """A decision's id is its own, also when the answer comes from the cache."""
    first, second = service.classify("same words"), service.classify("same words")
    assert first.json()["id"] != second.json()["id"]
    assert first.headers["x-request-id"] != second.headers["x-request-id"]
    assert first.json()["id"] != first.headers["x-request-id"]


def test_fifty_callers_at_once_get_their_own_answers(service: Running) -> None:
    """Concurrent callers are all answered, each with the decision on its own message."""
    cases = [(intent, text) for intent, texts in EXAMPLES.items() for text in texts] * 4

    def ask(case: tuple[str, str]) -> bool:
        intent, text = case
        with httpx.Client(base_url=service.client.base_url, timeout=30) as client:
            answer = client.post("/v1/classify", json={"text": text})
        return answer.status_code == 200 and answer.json()["intent"] == intent

    with ThreadPoolExecutor(50) as callers:
        assert all(callers.map(ask, cases[:50]))


def test_named_model_answers(service: Running) -> None:
    """The field model chooses among the served ones."""
    assert service.classify("hello", model="storefront").json()["model"]["name"] == "storefront"


def test_repeated_message_costs_no_inference(service: Running) -> None:
    """The second answer comes from the cache: same decision, no queue and no inference."""
    first = service.classify("a message  never sent before").json()
    again = service.classify(" a message never sent before ").json()
    assert again["ranking"] == first["ranking"]
    assert again["timings_ms"]["inference"] == 0 < first["timings_ms"]["inference"]


def test_other_json_media_types_are_taken(service: Running) -> None:
    """A charset parameter and +json types are JSON too."""
    for media_type in ("application/json; charset=utf-8", "application/vnd.shop+json"):
        response = service.client.post(
            "/v1/classify", content=b'{"text": "hello"}', headers={"content-type": media_type}
        )
        assert response.status_code == 200
