"""Rates: each caller has a bucket of its own, refusals say when to come back."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from app.api.keys import Scope, new_key
from app.api.rates import Rates, weight_of
from app.settings import Settings
from tests.conftest import Running
from tests.fake_artifact import write_fake_artifact
from tests.fake_cart import SHOP, fake_cart

ONE, KEY_ONE = new_key("one", [Scope.CLASSIFY])
OTHER, KEY_OTHER = new_key("other", [Scope.CLASSIFY])


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_bucket_empties_and_fills() -> None:
    """The burst is served at once; afterwards the rate is kept, with the exact time to wait."""
    clock = Clock()
    rates = Rates(per_second=2.0, burst=3.0, clock=clock)
    assert [rates.take("a") for _ in range(3)] == [None] * 3
    refused = rates.take("a")
    assert refused is not None
    assert refused.retry_after == 0.5
    assert rates.take("b") is None
    clock.now = 0.5
    assert rates.take("a") is None
    assert rates.take("a") is not None
    clock.now = 100.0
    assert [rates.take("a") is None for _ in range(4)] == [True, True, True, False]


def test_a_large_batch_is_served_and_paid_for() -> None:
    """What is larger than the bucket is not refused for ever; its caller waits afterwards."""
    clock = Clock()
    rates = Rates(per_second=10.0, burst=5.0, clock=clock)
    assert rates.take("a") is None
    rates.charge("a", 99)
    refused = rates.take("a")
    assert refused is not None
    assert 9.5 <= refused.retry_after <= 10.0
    clock.now = 10.1
    assert rates.take("a") is None


def test_what_was_given_back_can_be_asked_again() -> None:
    """As if it had not been charged, and never more than the bucket holds."""
    clock = Clock()
    rates = Rates(per_second=1.0, burst=3.0, clock=clock)
    assert rates.take("a") is None
    rates.charge("a", 99)
    clock.now = 10.0
    rates.give_back("a", 99)
    assert [rates.take("a") is None for _ in range(4)] == [True, True, True, False]


def test_callers_are_forgotten_in_turn() -> None:
    """A crowd of addresses takes bounded memory."""
    rates = Rates(per_second=1.0, burst=1.0)
    for caller in range(20_000):
        rates.take(str(caller))
    assert len(rates) == 10_000


def test_refusals_are_told_as_429(run: Callable[..., Running]) -> None:
    """One key's excess does not touch another's; a batch counts its messages; probes are free."""
    keys = f"{KEY_ONE.line};{KEY_OTHER.line}"
    service = run(
        keys=keys, rate_per_second=0.01, rate_burst=4.0, public_metrics=True
    ).wait_until_ready()

    def ask(key: str, *texts: str) -> int:
        headers = {"authorization": f"Bearer {key}"}
        response = service.client.post("/v1/classify/batch", json={"texts": texts}, headers=headers)
        if response.status_code == 429:
            assert response.json()["type"] == "/docs#rate-limited"
            assert int(response.headers["retry-after"]) >= 1
        return response.status_code

    assert [ask(ONE, "a", "b", "c"), ask(ONE, "d"), ask(ONE, "e")] == [200, 200, 429]
    assert ask(OTHER, "a") == 200
    assert ask("wrong", "a") == 401
    assert service.client.get("/livez").status_code == 200
    counted = service.client.get("/metrics").text
    for status in (401, 429):  # under the route that they wanted, though they never came to it
        wanted = f'intent_requests_total{{route="/v1/classify/batch",status="{status}"}}'
        assert wanted in counted


def test_without_keys_addresses_are_counted(run: Callable[..., Running]) -> None:
    """A header that anybody can write does not make a new caller."""
    service = run(rate_per_second=0.01, rate_burst=2.0).wait_until_ready()
    statuses = [
        service.client.get("/v1/models", headers={"x-forwarded-for": f"192.0.2.{n}"}).status_code
        for n in range(4)
    ]
    assert statuses == [200, 200, 429, 429]


def test_long_messages_count_as_several() -> None:
    """A rate bounds work: what takes the model ten times as long counts ten times."""
    assert weight_of(["", "a", "a" * 256]) == 3
    assert weight_of(["a" * 257]) == 2
    assert weight_of(["a" * 2000]) == 8


def test_a_long_message_is_paid_for(run: Callable[..., Running]) -> None:
    """It is answered, and its caller waits for it afterwards."""
    service = run(rate_per_second=0.01, rate_burst=7.0).wait_until_ready()
    assert service.classify("where is my order " * 100).status_code == 200
    refused = service.classify("where is my order")
    assert (refused.status_code, refused.json()["type"]) == (429, "/docs#rate-limited")


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"texts": ["a"] * 300}, 422),
        ({"texts": ["a", "a" * 100_000]}, 422),
        ({"texts": ["a"] * 200 + [" "]}, 422),
        ({"texts": ["a"] * 200, "model": "nosuch"}, 404),
    ],
)
def test_a_refused_request_counts_as_one(
    run: Callable[..., Running], body: dict[str, object], status: int
) -> None:
    """A mistake locks nobody out."""
    service = run(rate_per_second=0.001, rate_burst=3.0).wait_until_ready()
    for _ in range(2):
        assert service.client.post("/v1/classify/batch", json=body).status_code == status
    assert service.classify("where is my order").status_code == 200
    assert service.classify("where is my order").status_code == 429


def test_the_time_to_wait_is_told_as_it_is(run: Callable[..., Running]) -> None:
    """Of a legal request's debt too, however long it lasts."""
    service = run(rate_per_second=0.1, rate_burst=10.0).wait_until_ready()
    texts = ["where is my order"] * 200
    answer = service.client.post("/v1/classify/batch", json={"texts": texts})
    assert answer.status_code == 200
    refused = service.classify("where is my order")
    assert refused.status_code == 429
    assert 1850 < int(refused.headers["retry-after"]) <= 1910


def test_a_new_catalog_is_paid_for_once(run: Callable[..., Running], settings: Settings) -> None:
    """Then it is known, and each message on it counts as one."""
    write_fake_artifact(settings.store_dir, version="2", cart=fake_cart())
    service = run(rate_per_second=0.001, rate_burst=30.0).wait_until_ready()

    def left() -> float:
        (rates,) = (
            one.kwargs["rates"] for one in service.server.config.app.user_middleware
            if "rates" in one.kwargs
        )  # fmt: skip
        return rates._level("127.0.0.1")

    catalog = [f"{product}, packet of {n}" for n in range(2, 6) for product in SHOP]

    def ask(text: str) -> float:
        before = left()
        answer = service.client.post("/v1/cart", json={"text": text, "catalog": catalog})
        assert answer.status_code == 200
        return round(before - left())

    first, second, again = ask("two green teas"), ask("an olive oil"), ask("an olive oil")
    assert first > second == again == 1
