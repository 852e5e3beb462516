"""Pages of other origins: none unless named, and never past the keys."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from app.serving.service import Service
from app.settings import Settings
from tests.api.test_auth import CLASSIFY, KEYS, bearer, refused
from tests.api.test_problems import check
from tests.conftest import Running

SHOP, OTHER = "https://shop.example", "https://evil.example"
ASKS = {
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,content-type",
}


@pytest.fixture(scope="module")
def shared(service_with: Callable[..., Running]) -> Running:
    return service_with(keys=KEYS, cors_origins=(SHOP,))


def test_a_named_origin_may_ask(shared: Running) -> None:
    """Its browser is told so without a key, and can read answers and refusals."""
    told = shared.client.options("/v1/classify", headers={"origin": SHOP, **ASKS})
    assert told.status_code == 200
    assert told.headers["access-control-allow-origin"] == SHOP
    assert "access-control-allow-credentials" not in told.headers
    headers = {"origin": SHOP, **bearer(CLASSIFY)}
    answer = shared.client.post("/v1/classify", json={"text": "hello"}, headers=headers)
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, SHOP)
    refusal = shared.client.post("/v1/classify", json={"text": "hello"}, headers={"origin": SHOP})
    refused(refusal)
    assert refusal.headers["access-control-allow-origin"] == SHOP


def test_a_named_origin_reads_what_went_wrong_here(
    shared: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault that nobody foresaw is a problem to pages too, with its id, not a network that failed."""

    def fail(_: Service) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Service, "check_open", fail)
    headers = {"origin": SHOP, **bearer(CLASSIFY)}
    answer = shared.client.post("/v1/classify", json={"text": "hello"}, headers=headers)
    check(answer, 500, "internal-error")
    assert answer.headers["access-control-allow-origin"] == SHOP
    assert "X-Request-Id" in answer.headers["access-control-expose-headers"]


def test_another_origin_may_not(shared: Running, service: Running) -> None:
    """Nor may any where none is named; and an origin opens nothing without a key."""
    told = shared.client.options("/v1/classify", headers={"origin": OTHER, **ASKS})
    assert told.status_code == 400
    assert "access-control-allow-origin" not in told.headers
    refused(shared.client.get("/v1/models", headers={"origin": SHOP}))
    told = service.client.options("/v1/classify", headers={"origin": SHOP, **ASKS})
    assert told.status_code == 405
    answer = service.client.get("/v1/models", headers={"origin": SHOP})
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(
    "origins",
    ["shop.example", "https://shop.example/", "https://a b", "ftp://x", "https://*.x",
     "https://shop.example:x", "https://shop.example:65536", "https://:443", "https://dućan.example"],
)  # fmt: skip
def test_what_is_no_origin_is_refused(monkeypatch: pytest.MonkeyPatch, origins: str) -> None:
    """A setting that would never match anything stops the start."""
    monkeypatch.setenv("INTENT_CORS_ORIGINS", origins)
    with pytest.raises(ValueError, match="an origin is a scheme and a host"):
        Settings()


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ("https://Shop.example:443", SHOP), ("HTTPS://SHOP.EXAMPLE", SHOP),
        ("http://shop.example:80", "http://shop.example"),
        ("http://shop.example:443", "http://shop.example:443"),
        ("https://shop.example:08443", "https://shop.example:8443"),
        ("http://[::1]:5173", "http://[::1]:5173"), ("*", "*"),
    ],
)  # fmt: skip
def test_origins_are_kept_as_browsers_send_them(
    monkeypatch: pytest.MonkeyPatch, given: str, sent: str
) -> None:
    """Small letters, and no port that goes without saying: the two are compared as text."""
    monkeypatch.setenv("INTENT_CORS_ORIGINS", f"{given},{given}")
    assert Settings().cors_origins == (sent,)
