"""Clients of Rasa's HTTP API find what they are used to."""

from __future__ import annotations

from app.api.rasa import ParseResult
from tests.conftest import Running


def test_parse_has_rasas_shape(service: Running) -> None:
    """Intent, ranking and entities under Rasa's names, for the decision of /v1/classify."""
    text = "where is my order 4711?"
    response = service.client.post("/model/parse", json={"text": text, "message_id": "b2831e73"})
    found = response.json()
    ParseResult.model_validate(found, extra="forbid", strict=True)
    expected = service.classify(text, top_k=10).json()
    assert found["text"] == text
    assert found["intent"] == {"name": expected["intent"], "confidence": expected["confidence"]}
    assert found["intent_ranking"][0] == found["intent"]
    assert [one["name"] for one in found["intent_ranking"]] == [
        one["intent"] for one in expected["ranking"]
    ]
    assert found["entities"] == [
        {
            "entity": "order_number",
            "start": 18,
            "end": 22,
            "value": "4711",
            "extractor": "RegexEntityExtractor",
        }
    ]


def test_out_of_scope_leads_the_ranking(service: Running) -> None:
    """As in Rasa, the first of the ranking is the intent, out of scope too."""
    found = service.client.post("/model/parse", json={"text": "what is the capital of france"})
    ranking = found.json()["intent_ranking"]
    assert found.json()["intent"]["name"] == "out_of_scope"
    assert ranking[0] == found.json()["intent"]
    assert len({one["name"] for one in ranking}) == len(ranking) > 1


def test_wrong_requests_are_problems(service: Running) -> None:
    """The same refusals as on our own routes."""
    post = service.client.post
    assert post("/model/parse", json={}).status_code == 422
    assert post("/model/parse", json={"text": " "}).status_code == 422
    assert post("/model/parse", json={"text": "a" * 2001}).status_code == 422
    assert post("/model/parse", content=b'{"text": "a"}').status_code == 415
    assert post("/model/parse?token=x", json={"text": "hello"}).status_code == 200


def test_entities_come_only_when_asked_for(service: Running) -> None:
    """On our own routes the request says so; offsets cut the value out of the text as sent."""
    text = "  👟 size 42, order no. AB-77 "
    assert "entities" not in service.classify(text).json()
    found = service.classify(text, entities=True).json()["entities"]
    assert [(one["type"], one["value"]) for one in found] == [
        ("size", "42"), ("order_number", "AB-77"),
    ]  # fmt: skip
    assert all(text[one["start"] : one["end"]] == one["value"] for one in found)
    batch = service.client.post(
        "/v1/classify/batch", json={"texts": [text, "hello"], "entities": True}
    )
    assert [one["entities"] for one in batch.json()["results"]] == [found, []]
    assert service.classify(text, entities="yes").status_code == 422
