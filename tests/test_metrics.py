"""What Prometheus scrapes."""

from __future__ import annotations

import re
from collections.abc import Callable

from prometheus_client.parser import text_string_to_metric_families

from app import metrics
from tests.conftest import Running

REQUIRED = {
    "intent_requests_total", "intent_request_duration_seconds_bucket",
    "intent_queue_duration_seconds_bucket", "intent_inference_duration_seconds_bucket",
    "intent_batch_messages_bucket", "intent_queue_tokens", "intent_rejections_total",
    "intent_predictions_total", "intent_confidence_bucket", "intent_cache_requests_total",
    "intent_model_info", "intent_model_loads_total", "intent_requests_in_flight",
    "intent_process_resident_memory_bytes",
}  # fmt: skip


def test_all_metrics_are_there_and_named_alike(run: Callable[..., Running]) -> None:
    """After one answer and one refusal each metric has samples, and all names start with intent_."""
    service = run().wait_until_ready()
    service.classify("hello there")
    service.classify("")
    response = service.client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    samples = {
        sample.name
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }
    assert samples >= REQUIRED
    assert all(name.startswith("intent_") for name in samples)


def test_no_label_holds_what_a_caller_wrote(service: Running) -> None:
    """Texts, paths and model names of callers never become labels."""
    service.classify("swordfish", model="swordfish")
    service.classify("swordfish")
    service.client.get("/swordfish/swordfish?swordfish")
    service.client.get("/v1/models/swordfish")
    assert "swordfish" not in service.client.get("/metrics").text


def test_decisions_are_counted_by_intent(service: Running) -> None:
    """Each given answer counts once under its intent, cached or not."""
    labels = {"model": "storefront", "version": "1", "intent": "order_status"}

    def count() -> float:
        return metrics.REGISTRY.get_sample_value("intent_predictions_total", labels) or 0.0

    before = count()
    for _ in range(3):
        assert service.classify("track my parcel").json()["intent"] == "order_status"
    assert count() == before + 3


def test_buckets_are_dense_between_1_ms_and_1_s() -> None:
    """At least eight bounds in each decade where the answers lie, in ascending order."""
    bounds = metrics.SECONDS
    assert list(bounds) == sorted(set(bounds))
    for low in (0.001, 0.01, 0.1):
        assert sum(low <= bound <= 10 * low for bound in bounds) >= 8


def test_openmetrics_is_spoken_on_request(service: Running) -> None:
    """A scraper that prefers OpenMetrics gets it."""
    accept = {"accept": "application/openmetrics-text; version=1.0.0"}
    response = service.client.get("/metrics", headers=accept)
    assert response.headers["content-type"].startswith("application/openmetrics-text")
    assert re.search(r"# EOF\s*$", response.text)
