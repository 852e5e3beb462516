"""Failures on the wire: one shape, the right status, and never the customer's words."""

from __future__ import annotations

import inspect
import socket
from collections.abc import Callable, Iterator

import httpx
import pytest

from app import errors
from app.api.problems import FAILURES, MEDIA_TYPE, Problem, kind_of
from tests.conftest import Running

SECRET = "swordfish"
JSON = {"content-type": "application/json"}


def check(response: httpx.Response, status: int, slug: str) -> dict[str, object]:
    """The response is a well-formed problem of this kind that quotes nothing of the request."""
    assert response.status_code == status
    assert response.headers["content-type"] == MEDIA_TYPE
    content: dict[str, object] = response.json()
    Problem.model_validate(content, extra="forbid")
    assert content["type"] == f"/docs#{slug}"
    assert content["status"] == status
    assert content["request_id"] == response.headers["x-request-id"]
    assert SECRET not in response.text
    assert ("retry-after" in response.headers) == (status in {429, 503})
    return content


def pointers(content: dict[str, object]) -> list[object]:
    found = content["errors"]
    assert isinstance(found, list)
    return [one.get("pointer") for one in found]


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "#/text"),
        ({"text": None}, "#/text"),
        ({"text": 5}, "#/text"),
        ({"text": [SECRET]}, "#/text"),
        ({"text": {"a": SECRET}}, "#/text"),
        ({"text": SECRET, "top_k": 0}, "#/top_k"),
        ({"text": SECRET, "top_k": 101}, "#/top_k"),
        ({"text": SECRET, "top_k": "3"}, "#/top_k"),
        ({"text": SECRET, "top_k": 1.5}, "#/top_k"),
        ({"text": SECRET, "top_k": True}, "#/top_k"),
        ({"text": SECRET, "model": 1}, "#/model"),
        ({"text": SECRET, "model": f"{SECRET} {SECRET}"}, "#/model"),
        ({"text": SECRET, "topk": 3}, "#/topk"),
        ({"text": "x", f"{SECRET} is my password": 3}, "#"),
        ([SECRET], "#"),
        (SECRET, "#"),
    ],
)
def test_broken_schema_is_pointed_at(service: Running, body: object, pointer: str) -> None:
    """422 names the field by JSON pointer and never repeats what was in it."""
    content = check(service.client.post("/v1/classify", json=body), 422, "invalid-request")
    assert pointers(content) == [pointer]


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "#/texts"),
        ({"texts": SECRET}, "#/texts"),
        ({"texts": []}, "#/texts"),
        ({"texts": ["fine", 7]}, "#/texts/1"),
        ({"texts": ["fine", None, SECRET]}, "#/texts/1"),
    ],
)
def test_broken_batch_is_pointed_at(service: Running, body: object, pointer: str) -> None:
    """The pointer of a batch names the very text."""
    content = check(service.client.post("/v1/classify/batch", json=body), 422, "invalid-request")
    assert pointers(content) == [pointer]


@pytest.mark.parametrize("text", ["", " ", "\n\t ", "\u200b\u200d", "\x00\x01", "\ufeff"])
def test_text_without_a_visible_character_is_empty(service: Running, text: str) -> None:
    """Nothing to classify is 422, alone and as one of a batch, which is refused whole."""
    content = check(service.classify(text), 422, "empty-text")
    assert pointers(content) == ["#/text"]
    batch = service.client.post("/v1/classify/batch", json={"texts": [SECRET, text]})
    assert pointers(check(batch, 422, "empty-text")) == ["#/texts/1"]


def test_text_over_the_limit_is_refused(service: Running) -> None:
    """2,000 characters are taken, 2,001 are not; characters, not bytes."""
    assert service.classify("š" * 2000).status_code == 200
    content = check(service.classify(SECRET + "š" * 1992), 422, "text-too-long")
    assert pointers(content) == ["#/text"]


def test_batch_over_the_limit_is_refused(run: Callable[..., Running]) -> None:
    """More texts than the setting allows are refused as a whole."""
    service = run(max_batch=3).wait_until_ready()
    post = service.client.post
    assert post("/v1/classify/batch", json={"texts": ["a", "b", "c"]}).status_code == 200
    response = post("/v1/classify/batch", json={"texts": ["a", "b", "c", SECRET]})
    check(response, 422, "batch-too-large")


@pytest.mark.parametrize(
    "body",
    [
        b"{", b'{"text": "swordfish}', b"swordfish", b"\xff\xfe", b'{"text": "\xff"}',
        b"[" * 100_000, b'{"text": 1e}', b'{"top_k": ' + b"9" * 5000 + b"}",
    ],
)  # fmt: skip
def test_malformed_json_is_400(service: Running, body: bytes) -> None:
    """What is no JSON is 400, however deep or wrongly encoded."""
    response = service.client.post("/v1/classify", content=body, headers=JSON)
    check(response, 400, "malformed-request")


@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "text/plain"},
        {"content-type": "application/x-www-form-urlencoded"},
        {"content-type": "multipart/form-data; boundary=x"},
        {"content-type": ""},
        {},
        {"content-type": "application/json", "content-encoding": "gzip"},
    ],
)
def test_other_content_types_are_415(service: Running, headers: dict[str, str]) -> None:
    """Only plain JSON is read; a form from another site is not."""
    response = service.client.post(
        "/v1/classify", content=b'{"text": "swordfish"}', headers=headers
    )
    check(response, 415, "unsupported-media-type")


def test_announced_body_over_the_limit_is_413(run: Callable[..., Running]) -> None:
    """The length header alone is enough to refuse."""
    service = run(max_body_bytes=1024).wait_until_ready()
    response = service.classify(SECRET * 200)
    check(response, 413, "body-too-large")


def test_streamed_body_over_the_limit_is_413(run: Callable[..., Running]) -> None:
    """A chunked body is cut off as soon as too much of it has come."""
    service = run(max_body_bytes=1024).wait_until_ready()

    def chunks() -> Iterator[bytes]:
        yield b'{"text": "'
        for _ in range(100):
            yield SECRET.encode() * 10
        yield b'"}'

    response = service.client.post("/v1/classify", content=chunks(), headers=JSON)
    check(response, 413, "body-too-large")


def test_unending_body_is_refused_before_it_ends(run: Callable[..., Running]) -> None:
    """The answer to a chunked body comes while its sender is still talking."""
    service = run(max_body_bytes=1024).wait_until_ready()
    with socket.create_connection(("127.0.0.1", service.port), timeout=30) as connection:
        connection.sendall(
            b"POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n800\r\n" + b"a" * 0x800 + b"\r\n"
        )
        assert connection.recv(64).startswith(b"HTTP/1.1 413 ")


def test_unknown_model_is_404(service: Running) -> None:
    """A name that is not served is told apart from a path that does not exist."""
    check(service.classify(SECRET, model="nobody"), 404, "unknown-model")
    check(service.client.get("/v1/models/nobody"), 404, "unknown-model")


@pytest.mark.parametrize("path", ["/", "/v1/nothing", "/v1/swordfish/x", "/static/../main.py"])
def test_framework_refusals_are_problems_too(service: Running, path: str) -> None:
    """404 and 405 of the framework have the same shape."""
    if path == "/":
        response = service.client.delete("/v1/classify")
        check(response, 405, "method-not-allowed")
        assert response.headers["allow"] == "POST"
    else:
        check(service.client.get(path), 404, "not-found")


@pytest.mark.parametrize("value", ["abc", "0", "-5", "1.5", "600001", "9" * 40, SECRET])
def test_unreadable_deadline_is_422(service: Running, value: str) -> None:
    """A deadline header must be a whole number of milliseconds within bounds."""
    response = service.client.post(
        "/v1/classify", json={"text": "hello"}, headers={"Request-Timeout-Ms": value}
    )
    content = check(response, 422, "invalid-request")
    assert content["errors"][0]["header"] == "Request-Timeout-Ms"  # type: ignore[index]


@pytest.mark.parametrize(
    ("method", "address", "parameter"),
    [
        ("POST", "/v1/admin/models/storefront/reload?wait=601", "wait"),
        ("DELETE", f"/v1/feedback/{SECRET}", "id"),
    ],
)
def test_what_is_wrong_in_an_address_is_not_sought_in_the_body(
    service: Running, method: str, address: str, parameter: str
) -> None:
    """The parameter is named, and no pointer into a body that has nothing of that name or is none."""
    response = service.client.request(method, address, headers=JSON)
    content = check(response, 422, "invalid-request")
    assert pointers(content) == [None]
    assert content["errors"][0]["parameter"] == parameter  # type: ignore[index]


def test_request_id_is_kept_if_it_is_fit_for_a_log(service: Running) -> None:
    """A caller's id comes back; one that could forge a log line is replaced."""
    get = service.client.get
    assert get("/livez", headers={"X-Request-Id": "abc-123"}).headers["x-request-id"] == "abc-123"
    for bad in ("a b", "a" * 129, '"}', "é"):
        given = get("/livez", headers={"X-Request-Id": bad.encode()}).headers["x-request-id"]
        assert len(given) == 32


def test_every_error_has_a_chosen_status() -> None:
    """Each class of the exception tree maps to a kind; only what cannot be foreseen is a 500."""
    tree = [
        member
        for _, member in inspect.getmembers(errors, inspect.isclass)
        if issubclass(member, errors.ShopintentError)
    ]
    assert {error: kind_of(error("x")).status for error in tree if not error.__subclasses__()} == {
        errors.EmptyText: 422,
        errors.TextTooLong: 422,
        errors.BatchTooLarge: 422,
        errors.CatalogInvalid: 422,
        errors.NoCartModel: 422,
        errors.UnknownIntent: 422,
        errors.FeedbackOff: 404,
        errors.UnknownPrediction: 404,
        errors.FeedbackLost: 503,
        errors.UnknownModel: 404,
        errors.QueueFull: 429,
        errors.RateLimited: 429,
        errors.NotReady: 503,
        errors.DeadlineExceeded: 504,
        errors.ChangeUnderWay: 409,
        errors.CandidateRefused: 409,
        errors.ManifestInvalid: 503,
        errors.FileDamaged: 503,
        errors.WeightsNotBuilt: 503,
        errors.GoldenMismatch: 503,
        errors.BackendUnavailable: 503,
        errors.InferenceFailed: 500,
    }
    slugs = [kind.slug for kind in FAILURES.values()]
    assert len(set(slugs)) == len(slugs)
