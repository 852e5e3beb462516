"""Feedback: by its caller only, by id, kept as the operator wants, gone when it should be."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from app.api.keys import Scope, new_key
from tests.conftest import Running

WEB, KEY_WEB = new_key("web", [Scope.CLASSIFY, Scope.FEEDBACK])
APP, KEY_APP = new_key("app", [Scope.CLASSIFY, Scope.FEEDBACK])
OPS, KEY_OPS = new_key("ops", [Scope.ADMIN])
KEYS = ";".join(key.line for key in (KEY_WEB, KEY_APP, KEY_OPS))


class Shop:
    def __init__(self, service: Running, path: Path) -> None:
        self.service = service
        self.path = path

    def ask(self, text: str, key: str = WEB) -> str:
        response = self.send("POST", "/v1/classify", key, {"text": text})
        assert response.status_code == 200
        return response.json()["id"]

    def tell(self, decision: str, intent: str, key: str = WEB) -> httpx.Response:
        return self.send("POST", "/v1/feedback", key, {"id": decision, "intent": intent})

    def delete(self, decision: str, key: str = OPS) -> int:
        return self.send("DELETE", f"/v1/feedback/{decision}", key).status_code

    def send(self, method: str, path: str, key: str, body: object = None) -> httpx.Response:
        return self.service.client.request(
            method, path, headers={"authorization": f"Bearer {key}"}, json=body
        )

    def kept(self) -> list[tuple]:
        with sqlite3.connect(self.path) as connection:
            return connection.execute("SELECT id, client, intent, text FROM feedback").fetchall()


@pytest.fixture
def open_shop(run: Callable[..., Running], tmp_path: Path) -> Callable[..., Shop]:
    def start(**changes: object) -> Shop:
        path = tmp_path / "kept" / "feedback.sqlite"
        service = run(keys=KEYS, feedback_file=path, **changes).wait_until_ready()
        return Shop(service, path)

    return start


def test_text_is_kept_only_when_enabled_and_masked(open_shop: Callable[..., Shop]) -> None:
    """By default the verdict alone; with the setting the message, without what leads to a person."""
    shop = open_shop()
    told = shop.tell(shop.ask("where is my order 4711"), "order_status")
    assert told.json()["text_kept"] is False
    assert shop.kept()[0][2:] == ("order_status", None)
    assert b"4711" not in shop.path.read_bytes()
    shop = open_shop(feedback_text=True)
    decision = shop.ask("where is my order 4711? ana@mail.example")
    assert shop.tell(decision, "return_exchange").json() == {
        "id": decision, "intent": "return_exchange", "text_kept": True,
    }  # fmt: skip
    row = next(row for row in shop.kept() if row[0] == decision)
    assert row == (decision, "web", "return_exchange", "where is my order <order_number>? <email>")
    assert (shop.path.stat().st_mode & 0o077) == 0


def test_the_last_word_counts(open_shop: Callable[..., Shop]) -> None:
    """A second verdict on a decision replaces the first."""
    shop = open_shop()
    decision = shop.ask("where is my order")
    for intent in ("order_status", "cart_add", "out_of_scope"):
        assert shop.tell(decision, intent).status_code == 200
    assert [row[2] for row in shop.kept()] == ["out_of_scope"]


def test_only_its_own_caller_can_tell(open_shop: Callable[..., Shop]) -> None:
    """Another's decision, an unknown one and a made-up intent are refused; nothing is kept."""
    shop = open_shop()
    decision = shop.ask("where is my order")
    for refused, slug in (
        (shop.tell(decision, "order_status", APP), "unknown-prediction"),
        (shop.tell("0" * 32, "order_status"), "unknown-prediction"),
        (shop.tell(decision, "swordfish"), "unknown-intent"),
        (shop.tell("../" + decision, "order_status"), "invalid-request"),
    ):
        assert refused.json()["type"] == f"/docs#{slug}"
        assert "swordfish" not in refused.text
    assert shop.kept() == []


def test_batch_and_rasa_decisions_can_be_told_too(open_shop: Callable[..., Shop]) -> None:
    """Every answer with an id takes feedback."""
    shop = open_shop()
    batch = shop.send("POST", "/v1/classify/batch", WEB, {"texts": ["where is my order", "hi"]})
    parsed = shop.send("POST", "/model/parse", WEB, {"text": "where is my order"})
    ids = [one["id"] for one in batch.json()["results"]] + [parsed.json()["id"]]
    assert [shop.tell(one, "order_status").status_code for one in ids] == [200] * 3


def test_deleted_is_gone_from_the_disk(open_shop: Callable[..., Shop]) -> None:
    """Delete by id overwrites the text in the file and its log, and forgets the decision."""
    shop = open_shop(feedback_text=True)
    decision = shop.ask("my zwordfisch is broken")
    assert shop.tell(decision, "return_exchange").status_code == 200
    assert shop.delete(decision, WEB) == 403
    assert shop.delete(decision) == 204
    assert shop.delete(decision) == 404
    assert shop.tell(decision, "return_exchange").status_code == 404
    for path in shop.path.parent.iterdir():
        assert b"zwordfisch" not in path.read_bytes(), path


def test_memory_of_decisions_is_bounded(open_shop: Callable[..., Shop]) -> None:
    """The oldest are forgotten first."""
    shop = open_shop(feedback_recent_bytes=2_000)
    first, *_, last = [shop.ask(f"where is my order {n}") for n in range(5)]
    assert shop.tell(first, "order_status").status_code == 404
    assert shop.tell(last, "order_status").status_code == 200


def test_without_a_file_there_is_no_feedback(run: Callable[..., Running]) -> None:
    """Off by default: 404 of its own kind, and nothing is remembered."""
    service = run().wait_until_ready()
    decision = service.classify("hello").json()["id"]
    response = service.client.post("/v1/feedback", json={"id": decision, "intent": "order_status"})
    assert response.status_code == 404
    assert response.json()["type"] == "/docs#feedback-off"


def test_a_full_disk_is_a_503(open_shop: Callable[..., Shop]) -> None:
    """Feedback that cannot be kept is told so; messages are answered as ever."""
    shop = open_shop()
    decision = shop.ask("where is my order")
    with sqlite3.connect(shop.path) as connection:
        connection.execute("DROP TABLE feedback")
    lost = shop.tell(decision, "order_status")
    assert (lost.status_code, lost.json()["type"]) == (503, "/docs#feedback-lost")
    shop.ask("where is my order now")
