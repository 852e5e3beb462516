"""Settings come from the environment, once, and cannot change afterwards."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

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


def test_settings_are_frozen() -> None:
    """Nobody changes them while the service runs."""
    with pytest.raises(ValidationError):
        Settings().port = 1  # type: ignore[misc]
