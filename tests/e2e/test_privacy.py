"""What the service tells its operators, and that no customer's word is in it."""

from __future__ import annotations

import json

import pytest

from tests.conftest import wait_for
from tests.e2e.conftest import NAME, Storefront

pytestmark = pytest.mark.weights

SECRET = "zwordfisch"
JSON = {"content-type": "application/json"}


def test_metrics_measure_the_work(storefront: Storefront) -> None:
    """Requests, queue and inference have histograms, and a computed message moves each of them."""
    names = ("intent_request_duration", "intent_queue_duration", "intent_inference_duration")
    counts = [f"{name}_seconds_count" for name in names]
    before = [storefront.metric(name) for name in counts]
    storefront.classify("where is my parcel")
    after = [storefront.metric(name) for name in counts]
    assert all(one > other for one, other in zip(after, before, strict=True))
    assert storefront.metric("intent_inference_duration_seconds_bucket", le="+Inf", model=NAME)
    assert storefront.metric("intent_model_info", model=NAME, backend="gguf") == 1


def test_no_customers_word_in_metrics_or_log(storefront: Storefront) -> None:
    """Served, refused, malformed or misaddressed: the words stay out, at the finest log level too."""
    client = storefront.client
    classify, batch = "/v1/classify", "/v1/classify/batch"
    responses = [
        client.post(classify, json={"text": f"where is my {SECRET}"}),
        client.post(batch, json={"texts": [f"add a {SECRET} to my basket", SECRET]}),
        client.post(batch, json={"texts": [SECRET, ""]}),
        client.post(classify, json={"text": SECRET * 250}),
        client.post(classify, json={"text": "hi", SECRET: SECRET}),
        client.post(classify, json={"text": {SECRET: SECRET}}),
        client.post(classify, json={"text": "hi", "model": SECRET}),
        client.post(classify, content=f'{{"text": "{SECRET}', headers=JSON),
        client.post(classify, content=SECRET, headers={"content-type": f"text/{SECRET}"}),
        client.request(SECRET.upper(), classify),
        client.get(f"/{SECRET}?text={SECRET}"),
        client.get(f"/v1/models/{SECRET}"),
    ]
    assert [one.status_code for one in responses[:2]] == [200, 200]
    assert all(400 <= one.status_code < 500 for one in responses[2:])
    last = responses[-1].headers["x-request-id"]
    wait_for(lambda: last in storefront.log.read_text())
    log = storefront.log.read_text()
    assert SECRET not in log.lower()
    assert SECRET not in client.get("/metrics").text.lower()
    for line in log.splitlines():
        assert "event" in json.loads(line)


def test_every_request_has_its_log_line(storefront: Storefront) -> None:
    """A caller's request id leads to one line with route, status and duration."""
    sent = storefront.client.post(
        "/v1/classify", json={"text": "hello"}, headers={"X-Request-Id": "till-7.b"}
    )
    assert sent.headers["x-request-id"] == "till-7.b"

    def lines() -> list[dict[str, object]]:
        return [line for line in storefront.lines() if line.get("request_id") == "till-7.b"]

    wait_for(lines)
    (line,) = lines()
    assert (line["route"], line["status"]) == ("/v1/classify", 200)
    assert line["duration_ms"] > 0
