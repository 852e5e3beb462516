"""The service's settings: one frozen object, read from the environment by main and cli only."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from app.artifacts.manifest import Name


class Settings(BaseSettings):
    """Every field is an environment variable with the prefix ``INTENT_``, for example ``INTENT_PORT``."""

    model_config = SettingsConfigDict(env_prefix="INTENT_", frozen=True, extra="ignore")

    host: str = "127.0.0.1"
    port: int = Field(8080, ge=0, le=65535)

    store_dir: Path = Path("model_store")
    models: Annotated[tuple[Name, ...], NoDecode] = Field(("storefront",), min_length=1)
    """Names to serve, comma-separated; the first is the default model."""
    backend: Literal["gguf", "gptq", "fake"] | None = None
    """By default the artifact's own format."""

    threads: int | None = Field(None, ge=1, le=256)
    """Threads that compute one batch; by default from the CPU affinity and the cgroup quota."""
    max_sequences: int = Field(16, ge=1, le=256)
    """Messages in one forward pass."""
    max_tokens: int = Field(1024, ge=64, le=65536)
    """Message tokens in one forward pass."""

    max_text_chars: int = Field(2000, ge=1)
    max_batch: int = Field(256, ge=1)
    max_body_bytes: int = Field(1 << 20, ge=1024)
    queue_tokens: int = Field(8192, ge=1)
    """Bound on the message tokens that are admitted and not yet answered, for each model."""
    deadline_ms: int = Field(10_000, ge=1)
    """For requests that send no ``Request-Timeout-Ms``."""
    cache_bytes: int = Field(16 << 20, ge=0)
    """Bound on the memory of the result cache; 0 turns it off."""
    drain_seconds: float = Field(1.0, ge=0, le=300)
    """How long a stopping service still answers, with 503, before it stops listening."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["auto", "json", "console"] = "auto"
    """``auto``: readable on a terminal, JSON elsewhere."""

    @field_validator("models", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(name.strip() for name in value.split(",") if name.strip())
        return value

    @field_validator("models")
    @classmethod
    def _distinct(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(value))

    @field_validator("backend", "threads", mode="before")
    @classmethod
    def _empty_is_unset(cls, value: object) -> object:
        return None if value == "" else value
