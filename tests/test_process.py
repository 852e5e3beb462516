"""``shopintent serve`` as a process of its own: signals, exit codes, what it writes."""

from __future__ import annotations

import shutil
import signal
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from time import sleep

import httpx
import pytest

from tests.conftest import PATIENCE, wait_for
from tests.process import Process


@pytest.fixture
def start(fake_store: Path, tmp_path: Path) -> Iterator[Callable[..., Process]]:
    with ExitStack() as started:
        yield lambda **settings: started.enter_context(
            Process(fake_store, tmp_path / "log", **settings)
        )


def test_sigterm_under_load_loses_no_answer(start: Callable[..., Process]) -> None:
    """Every request sent until the listener closes is answered, with 200 or an honest 503; exit 0."""
    process = start(INTENT_DRAIN_SECONDS="0.5", INTENT_CACHE_BYTES="0")
    wait_for(process.ready)
    seen: Counter[object] = Counter()
    stop = threading.Event()

    def call(number: int) -> None:
        with httpx.Client(base_url=process.url, timeout=PATIENCE) as client:
            for turn in range(100_000):
                if stop.is_set():
                    return
                text = f"where is my order {number} {turn}"
                try:
                    answer = client.post("/v1/classify", json={"text": text})
                except httpx.ConnectError:  # the listener is closed: the request was never taken
                    return
                except httpx.TransportError as error:
                    seen[type(error).__name__] += 1
                    return
                seen[answer.status_code] += 1
                if answer.status_code == 503:
                    assert int(answer.headers["retry-after"]) >= 1
                    assert answer.headers["connection"] == "close"

    callers = [threading.Thread(target=call, args=(number,)) for number in range(8)]
    for caller in callers:
        caller.start()
    wait_for(lambda: seen[200] > 200)
    process.process.send_signal(signal.SIGTERM)
    assert process.process.wait(PATIENCE) == 0
    stop.set()
    for caller in callers:
        caller.join(PATIENCE)
    assert set(seen) == {200, 503}
    answered = Counter(
        line["status"] for line in process.lines() if line.get("route") == "/v1/classify"
    )
    assert answered == seen


def test_a_caller_who_is_slow_to_ask_is_answered(start: Callable[..., Process]) -> None:
    """Who is connected when the listener closes, and asks only then, gets an honest 503."""
    process = start(INTENT_DRAIN_SECONDS="0.5")
    wait_for(process.ready)
    with socket.create_connection(("127.0.0.1", process.port)) as caller:
        caller.settimeout(PATIENCE)
        process.process.send_signal(signal.SIGTERM)
        wait_for(lambda: not _listens(process.port))
        sleep(0.5)
        caller.sendall(b"GET /readyz HTTP/1.1\r\nHost: shop\r\n\r\n")
        assert caller.recv(4096).startswith(b"HTTP/1.1 503 ")
    assert process.process.wait(PATIENCE) == 0


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return False
    return True


def test_log_is_json_without_customers_words(start: Callable[..., Process]) -> None:
    """From start to end each line is an object, and neither text nor path of a caller is in it."""
    process = start(INTENT_LOG_LEVEL="debug", INTENT_DRAIN_SECONDS="0")
    wait_for(process.ready)
    json_type = {"content-type": "application/json"}
    with httpx.Client(base_url=process.url) as client:
        client.post("/v1/classify", json={"text": "swordfish"})
        client.post("/v1/classify/batch", json={"texts": ["swordfish", ""]})
        client.post("/v1/classify", content=b'{"text": "swordfish', headers=json_type)
        client.get("/swordfish?text=swordfish")
    process.process.terminate()
    assert process.process.wait(PATIENCE) == 0
    assert "swordfish" not in process.log.read_text()
    events = [line["event"] for line in process.lines()]
    assert {"model is live", "request", "draining"} <= set(events)
    assert process.process.stdout.read() == b""


def test_without_any_model_it_says_what_to_do(
    start: Callable[..., Process], fake_store: Path
) -> None:
    """Nothing to serve ends the process with an exit code and a sentence."""
    shutil.rmtree(fake_store / "storefront")
    process = start()
    assert process.process.wait(PATIENCE) == 1
    (line,) = [line for line in process.lines() if line["event"] == "no model could be loaded"]
    assert "storefront" in line["reason"]
    assert "shopintent models build" in line["help"]


def test_taken_port_is_an_error(start: Callable[..., Process]) -> None:
    """A port in use ends the process at once with a non-zero exit code."""
    process = start()
    wait_for(process.ready)
    second = start(INTENT_PORT=process.url.rsplit(":", 1)[1])
    assert second.process.wait(PATIENCE) != 0


def test_second_interrupt_is_not_needed(start: Callable[..., Process]) -> None:
    """Ctrl-C stops without the pause for balancers."""
    process = start(INTENT_DRAIN_SECONDS="300")
    wait_for(process.ready)
    process.process.send_signal(signal.SIGINT)
    assert process.process.wait(PATIENCE) == 0
