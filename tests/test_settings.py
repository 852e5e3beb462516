"""Settings come from the environment, once, and cannot change afterwards."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import ValidationError
from uvicorn.middleware.proxy_headers import _TrustedHosts

from app.settings import Settings


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOST", "PORT", "STORE_DIR", "MODELS", "BACKEND", "THREADS"):
        monkeypatch.delenv(f"INTENT_{name}", raising=False)


def test_defaults_are_those_of_the_contract() -> None:
    """Loopback, 8080, model_store, the default model, the artifact's own backend."""
    settings = Settings()
    assert (settings.host, settings.port) == ("127.0.0.1", 8080)
    assert settings.store_dir == Path("model_store")
    assert settings.models == ("storefront",)
    assert settings.backend is None
    assert (settings.max_text_chars, settings.max_batch) == (2000, 256)


def test_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each field has a variable; names are split at commas, trimmed, without repeats."""
    monkeypatch.setenv("INTENT_PORT", "9000")
    monkeypatch.setenv("INTENT_MODELS", " storefront, my-shop,,storefront ")
    monkeypatch.setenv("INTENT_BACKEND", "fake")
    monkeypatch.setenv("INTENT_THREADS", "")
    settings = Settings()
    assert settings.port == 9000
    assert settings.models == ("storefront", "my-shop")
    assert settings.backend == "fake"
    assert settings.threads is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "70000"), ("PORT", "http"), ("MODELS", ""), ("MODELS", "../etc"),
        ("BACKEND", "onnx"), ("THREADS", "0"), ("MAX_BATCH", "0"), ("LOG_LEVEL", "loud"),
    ],
)  # fmt: skip
def test_nonsense_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """A wrong value stops the start instead of being guessed at."""
    monkeypatch.setenv(f"INTENT_{name}", value)
    with pytest.raises(ValidationError):
        Settings()


def test_proxies_are_addresses_and_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Written as the server compares them: a host's bits would keep a network from ever matching."""
    monkeypatch.setenv(
        "INTENT_TRUSTED_PROXIES", "10.0.0.5/24, 192.0.2.7,2001:DB8:0::1,2001:db8::1/32"
    )
    proxies = ("10.0.0.0/24", "192.0.2.7", "2001:db8::1", "2001:db8::/32")
    assert Settings().trusted_proxies == proxies
    assert "10.0.0.77" in _TrustedHosts(list(proxies))
    monkeypatch.setenv("INTENT_TRUSTED_PROXIES", "*")
    assert Settings().trusted_proxies == ("*",)


@pytest.mark.parametrize(
    "proxy",
    ["localhost", "nginx", "not an address!", "10.0.0.0/33", "10.0.0.5/", "[::1]", "10.0.0.1:80", "/run/x"],
)  # fmt: skip
def test_what_is_no_proxy_is_refused(monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    """It would never match anything; the sentence names it. ``*`` does so beside others too."""
    for value in (proxy, f"192.0.2.7,{proxy}"):
        monkeypatch.setenv("INTENT_TRUSTED_PROXIES", value)
        with pytest.raises(ValidationError, match=f"{re.escape(repr(proxy))}: a proxy is"):
            Settings()
    monkeypatch.setenv("INTENT_TRUSTED_PROXIES", "*,192.0.2.7")
    with pytest.raises(ValidationError, match=r"'\*': a proxy is"):
        Settings()


def test_settings_are_frozen() -> None:
    """Nobody changes them while the service runs."""
    with pytest.raises(ValidationError):
        Settings().port = 1  # type: ignore[misc]
