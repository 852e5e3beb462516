"""What callers do to a connection below the routes: bounded, in time, and never read in two ways."""

from __future__ import annotations

import contextlib
import re
import socket
import time
from collections.abc import Callable
from typing import BinaryIO

import pytest

from tests.api.test_auth import ALL, KEYS
from tests.conftest import PATIENCE, Running

HEAD = b"POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
KEY = b"Authorization: Bearer " + ALL.encode() + b"\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
BODY = b'{"text": "where is my order"}'
CHUNK = b"%x\r\n%s\r\n" % (len(BODY), BODY)
MODELS = b"GET /v1/models HTTP/1.1\r\nHost: x\r\n"


@pytest.fixture(scope="module")
def guarded(service_with: Callable[..., Running]) -> Running:
    return service_with(keys=KEYS)


def connect(service: Running) -> socket.socket:
    return socket.create_connection(("127.0.0.1", service.port), timeout=PATIENCE)


def statuses(service: Running, *pieces: bytes) -> list[bytes]:
    """Of all answers to what is sent in so many writes, until the connection ends."""
    with connect(service) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(ConnectionError):  # it may be hung up on while talking
            for piece in pieces:
                connection.sendall(piece)
        answer = b""
        with contextlib.suppress(ConnectionError):
            while received := connection.recv(65536):
                answer += received
    return re.findall(rb"HTTP/1\.1 (\d{3}) ", answer)


def status_of_next(answers: BinaryIO) -> int:
    """Read one answer to its end, and no further."""
    head = b"".join(iter(answers.readline, b"\r\n"))
    answers.read(int(re.search(rb"content-length: (\d+)", head)[1]))
    return int(head.split(b" ")[1])


def test_a_key_in_the_trailers_opens_nothing(guarded: Running) -> None:
    """What stands behind a body is no header, or whatever checks headers could be gone round."""
    request = HEAD + CHUNKED + b"Connection: close\r\n\r\n" + CHUNK + b"0\r\n" + KEY + b"\r\n"
    assert statuses(guarded, request) == [b"401"]


def test_trailers_change_nothing(guarded: Running) -> None:
    """A request with harmless ones is answered; a length or an address among them is not believed."""
    told = b"X-Checksum: 7\r\nX-Forwarded-For: 127.0.0.1\r\nRequest-Timeout-Ms: 0\r\n"
    head = HEAD + KEY + CHUNKED + b"Connection: close\r\n\r\n"
    assert statuses(guarded, head + CHUNK + b"0\r\n" + told + b"\r\n") == [b"200"]


@pytest.mark.parametrize("key", [b"", KEY], ids=["stranger", "caller"])
@pytest.mark.parametrize(
    ("beginning", "more"),
    [
        (b"0\r\n", b"X-Long: " + b"a" * 4000 + b"\r\n"),
        (b"0\r\nX-Long: ", b"a" * 4000),
        (b"1;extension=", b"a" * 4000),
    ],
    ids=["many trailers", "one trailer", "chunk extension"],
)
def test_what_never_ends_is_cut_off(
    guarded: Running, key: bytes, beginning: bytes, more: bytes
) -> None:
    """Trailers took two gigabytes of memory in six seconds once, from a caller without a key."""
    sent = 0
    with connect(guarded) as connection, contextlib.suppress(OSError):
        connection.sendall(HEAD + key + CHUNKED + b"\r\n" + beginning)
        while sent < 400 << 20:
            connection.sendall(more)
            sent += len(more)
    assert sent < 80 << 20  # what kernels hold on both sides, and much more than is kept


def test_small_chunks_are_a_body_like_any_other(guarded: Running) -> None:
    """However it is cut up: the bound is on what is no body."""
    spaced = b" " * 30_000 + BODY
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in spaced) + b"0\r\n\r\n"
    assert len(chunks) > 2 * (64 << 10)
    assert statuses(guarded, HEAD + KEY + CHUNKED + b"Connection: close\r\n\r\n" + chunks) == [
        b"200"
    ]


@pytest.mark.parametrize(
    ("framing", "body"),
    [
        (b"Content-Length: %d\r\n" % len(BODY), BODY),
        (CHUNKED, CHUNK + b"0\r\n\r\n"),
    ],
    ids=["length", "chunked"],
)
@pytest.mark.parametrize("together", [0, 10, 1000])
@pytest.mark.parametrize("protocol", [b"h2c", b"websocket"])
def test_an_offer_to_upgrade_is_passed_over(
    guarded: Running, framing: bytes, body: bytes, together: int, protocol: bytes
) -> None:
    """The request is answered as if there were none: Java's client sends one with its first request."""
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: " + protocol + b"\r\n"
    head = HEAD + KEY + offer + b"HTTP2-Settings: AAEAAEAAAAIAAAAB\r\n" + framing + b"\r\n"
    assert statuses(guarded, head + body[:together], body[together:]) == [b"200"]


def test_the_body_of_an_upgrade_is_no_request(guarded: Running) -> None:
    """Nor is what follows it: else a proxy and this service would see different requests."""
    inner = MODELS + KEY + b"\r\n"
    offer = b"Connection: Upgrade\r\nUpgrade: h2c\r\n"
    head = HEAD + KEY + offer + b"Content-Length: %d\r\n\r\n" % len(inner)
    assert statuses(guarded, head, inner) == [b"400"]
    none = HEAD + KEY + offer + b"\r\n"
    assert b"200" not in statuses(guarded, none, inner)


def test_a_few_requests_may_wait_on_a_connection(guarded: Running) -> None:
    """Pipelined requests are answered in turn; a heap of them is refused, as each takes memory."""
    one = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
    last = b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    assert statuses(guarded, one * 19 + last) == [b"200"] * 20
    assert statuses(guarded, one * 2000 + last).count(b"200") <= 40


def test_a_caller_that_does_not_read_is_hung_up_on(run: Callable[..., Running]) -> None:
    """Its answers wait no longer than a request may take to arrive."""
    service = run(read_seconds=0.5).wait_until_ready()
    with connect(service) as connection, contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            connection.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n")
            time.sleep(0.005)
        pytest.fail("answers that nobody read were kept all the time")
    assert service.client.get("/livez").status_code == 200


def test_the_rest_of_a_refused_body_can_wait(guarded: Running) -> None:
    """A stranger's megabytes are read slowly and for nothing; the refusal comes at once, and whoever
    then has the right key may go on upon the same connection.
    """
    megabytes = b" " * (8 << 20)
    length = b"Content-Length: %d\r\n\r\n"
    with connect(guarded) as connection:
        connection.sendall(HEAD + length % len(megabytes) + megabytes[:1])
        answers = connection.makefile("rb")
        assert status_of_next(answers) == 401
        started = time.monotonic()
        connection.sendall(megabytes[1:])
        assert time.monotonic() - started > 0.3
        connection.sendall(HEAD + KEY + length % len(BODY) + BODY)
        assert status_of_next(answers) == 200
