"""The lean callers against the real service on the fake backend."""

from __future__ import annotations

import asyncio

import pytest

from app.bench.callers import GONE, Caller, Connections, ask_at_once, encode, read_head
from tests.conftest import Running


def test_request_announces_its_bytes() -> None:
    """The length is that of the bytes, not of the characters."""
    head, _, body = encode("košarica 🙏", 80).partition(b"\r\n\r\n")
    assert f"Content-Length: {len(body)}".encode() in head
    assert b"Request-Timeout-Ms" not in head
    assert b"\r\nRequest-Timeout-Ms: 1500\r\n" in encode("hi", 80, deadline=1.5)


def test_head_is_read() -> None:
    """Status and length, whatever the case of the header's name."""
    assert read_head(b"HTTP/1.1 429 Too Many\r\ncontent-length: 12\r\nx: y") == (429, 12)
    assert read_head(b"HTTP/1.1 204 No Content") == (204, 0)


def test_caller_asks_again_on_one_connection(service: Running) -> None:
    """Several answers on one connection, each with its time."""
    with Caller(service.port) as caller:
        assert all(caller.time(text) > 0 for text in ("where is my order", "hi", "¿dónde?"))


def test_refusal_is_not_timed(service: Running) -> None:
    """A 422 is no answer whose speed would count."""
    with Caller(service.port) as caller, pytest.raises(ConnectionError, match="422"):
        caller.time("")


def test_crowd_gets_all_answers(service: Running) -> None:
    """More messages than callers, and more callers than messages."""

    async def ask(count: int) -> float:
        connections = Connections(service.port)
        seconds = await ask_at_once(connections, [f"order {n}" for n in range(count)], callers=8)
        await connections.close()
        return seconds

    assert asyncio.run(ask(20)) > 0
    assert asyncio.run(ask(3)) > 0
    with pytest.raises(ConnectionError, match="1 of 1"):
        asyncio.run(_nobody())


async def _nobody() -> None:
    connections = Connections(port=1)
    assert await connections.post("hi") == GONE
    await ask_at_once(connections, ["hi"], callers=1)
