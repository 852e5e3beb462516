"""Many callers, bulk callers, callers who leave: each gets the answer that a single one would get."""

from __future__ import annotations

import json
import socket
import struct
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.conftest import wait_for
from tests.e2e.conftest import NAME, PATIENCE, Answer, Expected, Storefront

pytestmark = pytest.mark.weights

COMPANY = 0.03
"""How far a confidence may move with the messages that share a forward pass: sums of other lengths
round differently."""


def test_batch_equals_single_answers(
    storefront: Storefront, messages: list[Expected], answers: list[Answer]
) -> None:
    """A batch is answered in order, each message as if it had come alone."""
    results = storefront.classify_batch([message.text for message in messages], top_k=100)
    _assert_equal(results, answers)
    assert len({result["id"] for result in results}) == len(messages)


def test_batch_keeps_its_order(storefront: Storefront, messages: list[Expected]) -> None:
    """Backwards in, backwards out, also with the same message twice."""
    texts = [message.text for message in messages[:12]]
    there = storefront.classify_batch([*texts, texts[0]])
    back = storefront.classify_batch([texts[0], *reversed(texts)])
    _assert_equal(list(reversed(back)), there)
    _assert_equal([there[0]], [there[-1]])


def test_same_message_same_answer(storefront: Storefront) -> None:
    """Computed twice, a message alone gets the very same numbers; spaces around it change nothing."""
    text = "can i swap these shoes for a bigger size"
    first, second, spaced = (
        storefront.classify(one, top_k=100) for one in (text, text, f"  {text}\n")
    )
    assert first["ranking"] == second["ranking"] == spaced["ranking"]
    assert first["intent"] == second["intent"] == spaced["intent"]
    assert len({first["id"], second["id"], spaced["id"]}) == 3


def test_fifty_callers_at_once(
    storefront: Storefront, messages: list[Expected], answers: list[Answer]
) -> None:
    """All are answered, each with the answer to its own message, and the model works in batches."""
    before = storefront.metric("intent_batch_messages_count", model=NAME)
    together = threading.Barrier(len(messages))

    def ask(message: Expected) -> Answer:
        together.wait(PATIENCE)
        return storefront.classify(message.text, top_k=100)

    with ThreadPoolExecutor(len(messages)) as callers:
        crowded = list(callers.map(ask, messages))
    _assert_equal(crowded, answers)
    assert storefront.metric("intent_batch_messages_count", model=NAME) - before < len(messages)


def test_work_of_a_caller_who_hangs_up_is_dropped(storefront: Storefront) -> None:
    """What is not computed yet never is; the next caller is served as ever."""
    batch = 250
    computed = storefront.metric("intent_batch_messages_sum", model=NAME)
    left = storefront.metric("intent_requests_total", status="499")
    texts = [f"where is order number {number}, it should be here by now" for number in range(batch)]
    body = json.dumps({"texts": texts}).encode()
    head = (
        "POST /v1/classify/batch HTTP/1.1\r\n"
        "Host: localhost\r\n"
        "Content-Type: application/json\r\n"
        "Request-Timeout-Ms: 600000\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", storefront.port)) as caller:
        caller.sendall(head.encode() + body)
        wait_for(lambda: storefront.metric("intent_queue_tokens", model=NAME) > 0, PATIENCE)
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wait_for(lambda: storefront.metric("intent_requests_total", status="499") > left, PATIENCE)
    wait_for(lambda: storefront.metric("intent_queue_tokens", model=NAME) == 0, PATIENCE)
    assert storefront.classify("where is my parcel")["in_scope"]
    assert storefront.metric("intent_batch_messages_sum", model=NAME) - computed < batch


def _assert_equal(given: list[Answer], expected: list[Answer]) -> None:
    assert [one["intent"] for one in given] == [one["intent"] for one in expected]
    for one, other in zip(given, expected, strict=True):
        assert one["confidence"] == pytest.approx(other["confidence"], abs=COMPANY)
