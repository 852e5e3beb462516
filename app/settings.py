"""The service's settings: one frozen object, read from the environment by main and cli only."""

from __future__ import annotations

import re
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from app.artifacts.manifest import Name
from app.classification.cascade import Stages

_ORIGIN = re.compile(r"(https?)://([a-z0-9._-]+|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?")
_DEFAULT_PORTS = {"http": 80, "https": 443}


class Settings(BaseSettings):
    """Every field is an environment variable with the prefix ``INTENT_``, for example ``INTENT_PORT``."""

    model_config = SettingsConfigDict(env_prefix="INTENT_", frozen=True, extra="ignore")

    host: str = "127.0.0.1"
    port: int = Field(8080, ge=0, le=65535)

    auth: Literal["auto", "on", "off"] = "auto"
    """``auto``: keys are asked for where there are any; without any it starts on loopback only."""
    keys: str = ""
    """Lines that ``shopintent keys new`` prints, separated by ``;``. Hashes, no secrets."""
    keys_file: Path | None = None
    """A file of such lines; read again within a second of a change."""
    public_metrics: bool = False
    """``/metrics`` without a key, where keys are asked for."""
    cors_origins: Annotated[tuple[str, ...], NoDecode] = ()
    """Origins whose pages may ask, comma-separated, for example ``https://shop.example``."""
    trusted_proxies: Annotated[tuple[str, ...], NoDecode] = ()
    """Addresses and networks whose ``X-Forwarded-For`` tells who asks, comma-separated; ``*``: all."""
    rate_per_second: float = Field(0.0, ge=0)
    """Messages that one key, or without keys one address, may send on average; 0 sets no limit."""
    rate_burst: float = Field(60.0, ge=1)
    """Messages that it may send at once after a silence."""
    read_seconds: float = Field(30.0, gt=0)
    """How long a request may take to arrive; slower callers are hung up on."""

    store_dir: Path = Path("model_store")
    models: Annotated[tuple[Name, ...], NoDecode] = Field(("storefront",), min_length=1)
    """Names to serve, comma-separated; the first is the default model."""
    watch_seconds: float = Field(0.0, ge=0, le=3600)
    """How often the store is looked at for a newly active version; 0 never."""
    signing_key_file: Path | None = None
    """With a key only models are served whose manifest was signed with it: ``models sign``."""
    backend: Literal["gguf", "gptq", "fake"] | None = None
    """By default the artifact's own format."""

    threads: int | None = Field(None, ge=1, le=256)
    """Threads that compute one batch; by default from the CPU affinity and the cgroup quota."""
    cascade: Stages = "relief"
    """Whether n-grams answer messages that they are sure of, without the language model."""
    max_sequences: int = Field(16, ge=1, le=256)
    """Messages in one forward pass."""
    max_tokens: int = Field(1024, ge=64, le=65536)
    """Message tokens in one forward pass."""
    gpu_plain_mb: int = Field(512, ge=0)
    """On a GPU: quantised matrices that take no more than this as 16 bits are made plain at load."""
    cart_catalog_tokens: int = Field(768, ge=256, le=8192)
    """Catalog tokens that the model reads; of a longer catalog the products likeliest to be meant."""
    cart_cache_tokens: int = Field(4096, ge=0)
    """Catalog tokens whose state is kept for the next message: about 18 KB each, 75 MB in all."""

    max_text_chars: int = Field(2000, ge=1)
    max_batch: int = Field(256, ge=1)
    max_catalog: int = Field(2000, ge=1)
    """Products in the catalog of a cart request."""
    max_entry_chars: int = Field(200, ge=1)
    """Characters of one of them."""
    max_body_bytes: int = Field(1 << 20, ge=1024)
    queue_tokens: int = Field(8192, ge=1)
    """Bound on the message tokens that are admitted and not yet answered, for each model."""
    deadline_ms: int = Field(10_000, ge=1)
    """For requests that send no ``Request-Timeout-Ms``."""
    cache_bytes: int = Field(16 << 20, ge=0)
    """Bound on the memory of the result cache; 0 turns it off."""
    drain_seconds: float = Field(1.0, ge=0, le=300)
    """How long a stopping service still answers, with 503, before it stops listening."""

    feedback_file: Path | None = None
    """SQLite file that keeps feedback; without it none is taken."""
    feedback_text: bool = False
    """Keep messages with their feedback, masked. Until then they stay in memory, bounded."""
    feedback_days: float = Field(90.0, gt=0)
    """How long feedback is kept."""
    feedback_recent_bytes: int = Field(16 << 20, ge=0)
    """Memory for the newest decisions, which feedback can still be given on."""

    traces_endpoint: str | None = None
    """OTLP/HTTP address that traces are sent to, for example ``http://collector:4318/v1/traces``."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["auto", "json", "console"] = "auto"
    """``auto``: readable on a terminal, JSON elsewhere."""

    @field_validator("models", "cors_origins", "trusted_proxies", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(name.strip() for name in value.split(",") if name.strip())
        return value

    @field_validator("models")
    @classmethod
    def _distinct(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(value))

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(
            dict.fromkeys(origin if origin == "*" else _origin(origin) for origin in value)
        )

    @field_validator("trusted_proxies")
    @classmethod
    def _are_addresses(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return value if value == ("*",) else tuple(map(_proxy, value))

    @field_validator(
        "backend",
        "threads",
        "keys_file",
        "feedback_file",
        "traces_endpoint",
        "signing_key_file",
        mode="before",
    )
    @classmethod
    def _empty_is_unset(cls, value: object) -> object:
        return None if value == "" else value


def _origin(given: str) -> str:
    """As browsers write it: in small letters, without the scheme's own port."""
    found = _ORIGIN.fullmatch(given.lower())
    if found is None or int(found[3] or 0) > 65535:
        raise ValueError(
            f"{given!r}: an origin is a scheme and a host, without a path, other letters than a to z "
            "written as xn--; or * for all"
        )
    scheme, host, port = found.groups()
    if port is None or int(port) == _DEFAULT_PORTS[scheme]:
        return f"{scheme}://{host}"
    return f"{scheme}://{host}:{int(port)}"


def _proxy(given: str) -> str:
    """An address, or a network without the bits of a host, as the server compares them."""
    try:
        return str(ip_network(given, strict=False) if "/" in given else ip_address(given))
    except ValueError:
        raise ValueError(
            f"{given!r}: a proxy is an IP address or a network such as 10.0.0.0/24; or * alone, for all"
        ) from None
