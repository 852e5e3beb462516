"""Refusing, giving up, dropping and draining, as callers see it. The model waits for the test."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import httpx
import pytest
import structlog

from app import metrics
from tests.api.test_problems import check
from tests.conftest import Running, wait_for
from tests.gated import GatedBackend


@pytest.fixture
def backend() -> GatedBackend:
    return GatedBackend()


@pytest.fixture
def gated(run: Callable[..., Running], backend: GatedBackend) -> Running:
    """A service whose model holds its batch until ``backend.open()``; room for 60 tokens (bytes)."""
    return run(backend.load, queue_tokens=60).wait_until_ready()


def later(service: Running, *texts: str, **headers: str) -> Future[httpx.Response]:
    """Post a batch from another thread."""
    pool = ThreadPoolExecutor(1)
    future = pool.submit(
        service.client.post, "/v1/classify/batch", json={"texts": texts}, headers=headers
    )
    pool.shutdown(wait=False)
    return future


def hold(service: Running, backend: GatedBackend) -> Future[httpx.Response]:
    """Occupy the owner thread with one message of 10 tokens."""
    first = later(service, "0123456789")
    backend.wait_until_busy()
    return first


def queued_tokens() -> float:
    return metrics.REGISTRY.get_sample_value("intent_queue_tokens", {"model": "storefront"}) or 0.0


def rejections(reason: str) -> float:
    return metrics.REGISTRY.get_sample_value("intent_rejections_total", {"reason": reason}) or 0.0


def test_full_queue_refuses_at_once(gated: Running, backend: GatedBackend) -> None:
    """Beyond the bound in tokens a request gets 429 with Retry-After, and what was admitted is done."""
    before = rejections("queue-full")
    first = hold(gated, backend)
    waiting = later(gated, "a" * 20, "b" * 20)
    wait_for(lambda: queued_tokens() == 50)
    content = check(gated.classify("c" * 11), 429, "queue-full")
    assert "ccc" not in str(content)
    retry = gated.classify("c" * 11).headers["retry-after"]
    assert 1 <= int(retry) <= 600
    fits = later(gated, "d" * 10)
    wait_for(lambda: queued_tokens() == 60)
    backend.open()
    for admitted in (first, waiting, fits):
        assert admitted.result(30).status_code == 200
    assert rejections("queue-full") == before + 2
    wait_for(lambda: queued_tokens() == 0)


def test_what_ngrams_are_sure_of_is_answered_where_it_would_be_refused(
    run: Callable[..., Running], backend: GatedBackend
) -> None:
    """So it is by default; a message that they do not know is refused as ever."""
    service = run(backend.load_staged, queue_tokens=20).wait_until_ready()
    first = hold(service, backend)
    answer = service.classify("where is my order")
    assert answer.status_code == 200
    assert answer.json()["intent"] == "order_status"
    check(service.classify("xyzzy plugh"), 429, "queue-full")
    backend.open()
    assert first.result(30).status_code == 200
    assert backend.batches == [["0123456789"]]


def test_without_a_cascade_overload_is_refused(
    run: Callable[..., Running], backend: GatedBackend
) -> None:
    """An operator may prefer no answer to one from n-grams alone."""
    service = run(backend.load_staged, queue_tokens=20, cascade="off").wait_until_ready()
    first = hold(service, backend)
    check(service.classify("where is my order"), 429, "queue-full")
    backend.open()
    assert first.result(30).status_code == 200


def test_batch_is_admitted_whole_or_not_at_all(gated: Running, backend: GatedBackend) -> None:
    """A batch of which only a part has room is refused as a whole and leaves nothing behind."""
    first = hold(gated, backend)
    response = gated.client.post("/v1/classify/batch", json={"texts": ["e" * 20] * 3})
    check(response, 429, "queue-full")
    backend.open()
    assert first.result(30).status_code == 200
    assert backend.batches == [["0123456789"]]


def test_what_the_queue_refuses_is_not_paid_for(
    run: Callable[..., Running], backend: GatedBackend
) -> None:
    """Its caller may come back as soon as it is told: a refused batch counts as one message."""
    service = run(
        backend.load, queue_tokens=60, rate_per_second=0.001, rate_burst=5.0
    ).wait_until_ready()
    first = hold(service, backend)
    for _ in range(2):
        response = service.client.post("/v1/classify/batch", json={"texts": ["e" * 20] * 50})
        check(response, 429, "queue-full")
    backend.open()
    assert first.result(30).status_code == 200
    assert service.classify("after it").status_code == 200


def test_request_larger_than_the_bound_is_served_when_nothing_waits(
    gated: Running, backend: GatedBackend
) -> None:
    """No legal request is refused for ever: an empty queue takes any."""
    backend.open()
    texts = ["f" * 50] * 20
    response = gated.client.post("/v1/classify/batch", json={"texts": texts})
    assert len(response.json()["results"]) == 20


def test_deadline_is_answered_with_504_and_the_work_is_dropped(
    gated: Running, backend: GatedBackend
) -> None:
    """The caller hears at its deadline, while the model is still busy; its message is never computed."""
    first = hold(gated, backend)
    late = later(gated, "too late", **{"Request-Timeout-Ms": "40"}).result(30)
    check(late, 504, "deadline-exceeded")
    backend.open()
    assert first.result(30).status_code == 200
    assert gated.classify("after it").status_code == 200
    assert ["too late"] not in backend.batches


def test_work_of_a_caller_who_hung_up_is_dropped(gated: Running, backend: GatedBackend) -> None:
    """A closed connection frees its place in the queue before the model gets to it."""
    first = hold(gated, backend)
    hung_up = {"route": "/v1/classify", "status": "499"}
    before = metrics.REGISTRY.get_sample_value("intent_requests_total", hung_up) or 0.0
    body = b'{"text": "nobody waits for me"}'
    with socket.create_connection(("127.0.0.1", gated.port)) as connection:
        connection.sendall(
            b"POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        )
        wait_for(lambda: queued_tokens() > 10)
    wait_for(lambda: queued_tokens() == 10)
    backend.open()
    assert first.result(30).status_code == 200
    assert gated.classify("after it").status_code == 200
    assert backend.batches == [["0123456789"], ["after it"]]
    assert metrics.REGISTRY.get_sample_value("intent_requests_total", hung_up) == before + 1


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/v1/classify", "/v1/classify"),
        ("/v1/cart", "/v1/cart"),
        ("/model/parse", "/model/parse"),
        ("/v2/models/storefront/infer", "/v2/models/{name}/infer"),
    ],
)
def test_a_caller_who_hangs_up_while_sending_has_made_no_mistake(
    service: Running, path: str, route: str
) -> None:
    """Counted as 499 everywhere; no rejection, no failure of ours in the log."""

    def requests(status: int) -> float:
        labels = {"route": route, "status": str(status)}
        return metrics.REGISTRY.get_sample_value("intent_requests_total", labels) or 0.0

    def refused() -> float:
        return sum(
            sample.value
            for family in metrics.REJECTIONS.collect()
            for sample in family.samples
            if sample.name.endswith("_total")
        )

    gone, rejected = requests(499), refused()
    with (
        structlog.testing.capture_logs() as logged,
        socket.create_connection(("127.0.0.1", service.port)) as connection,
    ):
        connection.sendall(
            f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n".encode()
            + b'Content-Length: 100\r\n\r\n{"te'
        )
        connection.close()
        wait_for(lambda: requests(499) == gone + 1)
    assert not [line for line in logged if line["log_level"] == "error"]
    assert refused() == rejected


def test_waiting_messages_share_a_batch(gated: Running, backend: GatedBackend) -> None:
    """What waits while the model is busy is computed together."""
    first = hold(gated, backend)
    others = [later(gated, f"no {number}") for number in range(5)]
    wait_for(lambda: queued_tokens() == 30)
    backend.open()
    assert all(other.result(30).status_code == 200 for other in [first, *others])
    assert [len(batch) for batch in backend.batches] == [1, 5]


def test_poisoned_message_fails_alone(run: Callable[..., Running]) -> None:
    """A message on which the model fails gets a named 500; those that shared its batch are answered."""
    backend = GatedBackend(fail_on="poison")
    service = run(backend.load).wait_until_ready()
    first = hold(service, backend)
    good = [later(service, f"good {number}") for number in range(3)]
    bad = later(service, "fine", "poison")
    wait_for(lambda: queued_tokens() == 10 + 3 * 6 + 10)
    backend.open()
    assert all(other.result(30).status_code == 200 for other in [first, *good])
    content = check(bad.result(30), 500, "inference-failed")
    assert content["errors"][0]["pointer"] == "#/texts/1"  # type: ignore[index]
    assert service.classify("good again").status_code == 200


def test_drain_refuses_new_work_and_finishes_the_old(gated: Running, backend: GatedBackend) -> None:
    """While draining: live, not ready, 503 with Retry-After for new work, answers for the admitted."""
    first = hold(gated, backend)
    gated.lifecycle.draining = True
    assert gated.client.get("/livez").status_code == 200
    check(gated.client.get("/readyz"), 503, "not-ready")
    refused = gated.classify("new work")
    check(refused, 503, "not-ready")
    assert refused.headers["connection"] == "close"
    backend.open()
    assert first.result(30).status_code == 200
    assert backend.batches == [["0123456789"]]


def test_closing_waits_for_admitted_work_and_frees_the_model(
    run: Callable[..., Running], backend: GatedBackend
) -> None:
    """Stopping the service answers what was admitted before the model is closed."""
    service = run(backend.load).wait_until_ready()
    first = hold(service, backend)
    second = later(service, "still waiting")
    wait_for(lambda: queued_tokens() == 23)
    service.server.should_exit = True
    threading.Timer(0.3, backend.open).start()
    assert first.result(30).status_code == 200
    assert second.result(30).status_code == 200
    wait_for(lambda: backend.closed)
