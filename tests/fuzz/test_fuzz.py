"""Whatever comes in, an answer that the OpenAPI document knows goes out, and nobody else waits."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.api.problems import MEDIA_TYPE, Problem
from tests.conftest import Running, wait_for
from tests.fuzz.fuzzing import fuzz

JSON = {"content-type": "application/json"}
ANY_TEXT = st.text(st.characters(), max_size=300)  # lone surrogates and controls too
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | ANY_TEXT,
    lambda inner: (
        st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=9), inner, max_size=5)
    ),
)
KINDLY = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def test_schemathesis_finds_nothing(tmp_path: Path) -> None:
    """A short run with all checks; `make fuzz` is the long one."""
    outcome = fuzz(tmp_path, examples=4, phases="examples,fuzzing", seed=7)
    assert outcome.status == 0, outcome.output
    assert outcome.cases > 60
    assert "request failed" not in outcome.log


def told_right(response: httpx.Response) -> None:
    """An answer, or a well-formed problem that is the caller's doing."""
    if response.status_code != 200:
        assert 400 <= response.status_code < 500, response.text
        assert response.headers["content-type"] == MEDIA_TYPE
        Problem.model_validate(response.json(), extra="forbid")


@KINDLY
@given(text=ANY_TEXT)
def test_any_text_is_answered_or_refused(service: Running, text: str) -> None:
    """All of Unicode on every route that takes text, with entities that cut out their values."""
    content = json.dumps({"text": text, "entities": True}).encode()
    response = service.client.post("/v1/classify", content=content, headers=JSON)
    told_right(response)
    if response.status_code == 200:
        for one in response.json()["entities"]:
            assert text[one["start"] : one["end"]] == one["value"]
    parsed = service.client.post("/model/parse", content=content, headers=JSON)
    assert parsed.status_code == response.status_code
    if parsed.status_code == 200:
        assert parsed.json()["text"] == text
    tensor = {"name": "text", "datatype": "BYTES", "shape": [1], "data": [text]}
    told_right(
        service.client.post("/v2/models/storefront/infer", content=json.dumps({"inputs": [tensor]}))
    )


@KINDLY
@given(body=ANY_JSON, path=st.sampled_from(["/v1/classify", "/v1/classify/batch", "/model/parse",
                                            "/v1/feedback", "/v2/models/storefront/infer"]))  # fmt: skip
def test_any_json_is_answered_or_refused(service: Running, body: object, path: str) -> None:
    """No shape of JSON is a failure of ours."""
    told_right(service.client.post(path, content=json.dumps(body).encode(), headers=JSON))


@KINDLY
@given(content=st.binary(max_size=200))
def test_any_bytes_are_refused(service: Running, content: bytes) -> None:
    """Nor are bytes that are no JSON."""
    told_right(service.client.post("/v1/classify", content=content, headers=JSON))


MEGABYTE = 1_000_000
LARGE = {
    "wrong items": b'{"texts": [' + b"1," * 499_000 + b"1]}",
    "empty items": b'{"texts": [' + b'"",' * 330_000 + b'""]}',
    "unknown fields": json.dumps({f"k{n}": 1 for n in range(80_000)}).encode(),
    "deep lists": b"[" * MEGABYTE,
    "deep objects": b'{"text":' * 120_000,
    "one long text": b'{"text": "' + b"a" * (MEGABYTE - 20) + b'"}',
    "digits": b'{"top_k": ' + b"9" * (MEGABYTE - 20) + b"}",
    "white space": b" " * MEGABYTE,
    "controls": b'{"text": "' + b"\\u0000" * 160_000 + b'"}',
    "combining marks": b'{"text": "' + b"\\u0301" * 160_000 + b'"}',
    "tensor of numbers": b'{"inputs":[{"name":"text","datatype":"BYTES","shape":[9],"data":['
    + b"1," * 450_000 + b"1]}]}",
    "parameters": json.dumps({"inputs": [{"parameters": {f"k{n}": [] for n in range(60_000)}}]}).encode(),
}  # fmt: skip


@pytest.mark.parametrize("content", LARGE.values(), ids=LARGE.keys())
@pytest.mark.parametrize(
    "path", ["/v1/classify/batch", "/v1/classify", "/v2/models/storefront/infer"]
)
def test_a_megabyte_is_refused_in_no_time(service: Running, path: str, content: bytes) -> None:
    """However it is filled: well under the seconds that one error for each item would take."""
    started = time.process_time()  # of this process, in which the service runs too
    told_right(service.client.post(path, content=content, headers=JSON))
    assert time.process_time() - started < 1.5


HALF_A_BODY = (
    b"POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    b'Content-Length: 100\r\n\r\n{"text": "whe'
)


def test_half_open_connections_hinder_nobody(run: Callable[..., Running]) -> None:
    """Callers that connect and say nothing, or half a head, or half a body, are hung up on in time."""
    service = run(read_seconds=1.0).wait_until_ready()
    beginnings = (
        b"",
        b"POST /v1/classify HTTP/1.1\r\nHost: x\r\nX-Slow: ",
        HALF_A_BODY,
    )
    held = [socket.create_connection(("127.0.0.1", service.port)) for _ in range(90)]
    for number, connection in enumerate(held):
        connection.sendall(beginnings[number % 3])
        connection.settimeout(30)
    assert service.classify("where is my order").status_code == 200
    answers = [b"".join(iter(lambda c=connection: c.recv(4096), b"")) for connection in held]
    assert {answer[:12] for answer in answers} == {b"", b"HTTP/1.1 408"}
    for connection in held:
        connection.close()


def test_an_endless_head_is_cut_off(service: Running) -> None:
    """Headers without end take bounded memory."""
    with socket.create_connection(("127.0.0.1", service.port), timeout=30) as connection:
        answer, number = b"", 0
        # It is hung up on while talking.
        with contextlib.suppress(OSError):
            connection.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n")
            for number in range(100_000):
                connection.sendall(b"X-%d: %s\r\n" % (number, b"a" * 1000))
        with contextlib.suppress(OSError):
            answer = connection.recv(4096)
        assert answer[:12] in {b"HTTP/1.1 431", b""}
        assert number < 50_000


def test_a_caller_that_resets_is_forgotten(service: Running) -> None:
    """Connections reset in the middle of a body leave nothing behind."""
    for _ in range(50):
        connection = socket.create_connection(("127.0.0.1", service.port), timeout=30)
        connection.sendall(HALF_A_BODY)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
    wait_for(lambda: "intent_requests_in_flight 1.0" in service.client.get("/metrics").text)
    assert threading.active_count() < 100
