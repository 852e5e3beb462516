"""Rates: each caller has a bucket of its own, refusals say when to come back."""

from __future__ import annotations

from collections.abc import Callable

from app.api.keys import Scope, new_key
from app.api.rates import Rates
from tests.conftest import Running

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


def test_callers_are_forgotten_in_turn() -> None:
    """A crowd of addresses takes bounded memory."""
    rates = Rates(per_second=1.0, burst=1.0)
    for caller in range(20_000):
        rates.take(str(caller))
    assert len(rates) == 10_000


def test_refusals_are_told_as_429(run: Callable[..., Running]) -> None:
    """One key's excess does not touch another's; a batch counts its messages; probes are free."""
    keys = f"{KEY_ONE.line};{KEY_OTHER.line}"
    service = run(keys=keys, rate_per_second=0.01, rate_burst=4.0).wait_until_ready()

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


def test_without_keys_addresses_are_counted(run: Callable[..., Running]) -> None:
    """A header that anybody can write does not make a new caller."""
    service = run(rate_per_second=0.01, rate_burst=2.0).wait_until_ready()
    statuses = [
        service.client.get("/v1/models", headers={"x-forwarded-for": f"192.0.2.{n}"}).status_code
        for n in range(4)
    ]
    assert statuses == [200, 200, 429, 429]
