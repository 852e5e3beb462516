"""Traces: off by default; where on, an answered request is told as its steps, without its words."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from app.settings import Settings
from tests.conftest import Running
from tests.fake_artifact import write_fake_artifact
from tests.fake_cart import SHOP, fake_cart

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Collector(HTTPServer):
    """An OTLP/HTTP collector that keeps what it is sent."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        super().__init__(("127.0.0.1", 0), _Receiver)

    def spans(self) -> list[Span]:
        return [
            span
            for body in self.bodies
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]


class _Receiver(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.server.bodies.append(self.rfile.read(int(self.headers["content-length"])))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        thread = threading.Thread(target=collector.serve_forever)
        thread.start()
        yield collector
        collector.shutdown()
        thread.join()


def test_a_request_is_told_as_its_steps(run: Callable[..., Running], collector: Collector) -> None:
    """Tokenise, queue and inference below the request, inside it, under the caller's trace."""
    endpoint = f"http://127.0.0.1:{collector.server_port}/v1/traces"
    service = run(traces_endpoint=endpoint).wait_until_ready()
    asked = service.client.post(
        "/v1/classify", json={"text": "where is my zwordfisch"}, headers={"traceparent": PARENT}
    )
    assert asked.status_code == 200
    service.classify("where is my zwordfisch")  # from the cache: nothing waits, nothing computes
    service.__exit__()
    spans = collector.spans()
    assert sorted(span.name for span in spans) == [
        "classify", "classify", "inference", "queue", "tokenise",
    ]  # fmt: skip
    whole = next(span for span in spans if span.parent_span_id.hex() == "b7ad6b7169203331")
    assert whole.trace_id.hex() == "0af7651916cd43dd8448eb211c80319c"
    steps = [span for span in spans if span.parent_span_id == whole.span_id]
    assert len(steps) == 3
    for span in steps:
        assert span.trace_id == whole.trace_id
        assert whole.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano
        assert span.end_time_unix_nano <= whole.end_time_unix_nano + 1_000_000
    assert b"zwordfisch" not in b"".join(collector.bodies)


def test_a_cart_is_told_too(
    run: Callable[..., Running], settings: Settings, collector: Collector
) -> None:
    """With the same steps, and no product in them."""
    write_fake_artifact(settings.store_dir, version="2", cart=fake_cart())
    endpoint = f"http://127.0.0.1:{collector.server_port}/v1/traces"
    service = run(traces_endpoint=endpoint).wait_until_ready()
    asked = {"text": "two green teas please", "catalog": [*SHOP, "zwordfisch"]}
    assert service.client.post("/v1/cart", json=asked).status_code == 200
    service.__exit__()
    assert sorted(span.name for span in collector.spans()) == [
        "cart", "inference", "queue", "tokenise",
    ]  # fmt: skip
    assert b"zwordfisch" not in b"".join(collector.bodies)
