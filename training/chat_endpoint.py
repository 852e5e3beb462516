"""An OpenAI-compatible chat endpoint: one question, one answer, patience with busy servers."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

import httpx

from app.errors import ShopintentError

ATTEMPTS = 6
FIRST_PAUSE = 1.0
LONGEST_PAUSE = 60.0
_TRANSIENT = {408, 409, 425, 429}


def _json_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """OpenAI, which refuses the other."""
    return {
        "type": "json_schema",
        "json_schema": {"name": "answer", "strict": True, "schema": schema},
    }


def _json_object(schema: Mapping[str, Any]) -> dict[str, Any]:
    """llama.cpp and llama-cpp-python; the latter answers the other with 500, as if it were broken."""
    return {"type": "json_object", "schema": schema}


FORMATS = (_json_object, _json_schema)
"""Values of ``response_format``, tried in turn where a server answers that it is a bad request."""


class EndpointFailed(ShopintentError):
    """The endpoint refuses, or did not answer after several attempts."""


class ChatEndpoint:
    """``address`` ends where ``/chat/completions`` begins, as in ``http://localhost:8000/v1``.

    Asks for answers that follow a JSON schema in the ways that servers know, :data:`FORMATS`, and falls
    back on asking in words only. Thread-safe. ``sleep`` is called with the seconds between attempts.
    """

    def __init__(
        self,
        address: str,
        model: str,
        key: str = "",
        timeout: float = 120.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.model = model
        self._url = f"{address.rstrip('/')}/chat/completions"
        self._sleep = sleep
        self._formats = list(FORMATS)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._client = httpx.Client(timeout=timeout, headers=headers)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._client.close()

    def ask(
        self,
        system: str,
        user: str,
        schema: Mapping[str, Any],
        max_tokens: int,
        temperature: float,
        seed: int,
    ) -> str:
        """The answer, after ``schema`` where the server can. Raises :class:`EndpointFailed`."""
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [
                {"role": "system", "content": system},
                {"role": "user", "content": user},
            ],
            "max_tokens": max_tokens,
            "temperature": temperature,
            "seed": seed,
        }
        reason = wait = ""
        for attempt in range(ATTEMPTS):
            if attempt:
                self._sleep(_pause(attempt, wait))
            try:
                response = self._post(body, schema)
            except httpx.TransportError as error:
                reason, wait = type(error).__name__, ""
                continue
            if response.status_code == 200:
                return _content(response)
            if response.status_code not in _TRANSIENT and response.status_code < 500:
                raise EndpointFailed(f"the endpoint answered with status {response.status_code}")
            reason = f"status {response.status_code}"
            wait = response.headers.get("Retry-After", "")
        raise EndpointFailed(f"no answer after {ATTEMPTS} attempts (the last: {reason})")

    def _post(self, body: dict[str, Any], schema: Mapping[str, Any]) -> httpx.Response:
        while self._formats:
            wanted = self._formats[0]
            asked = body | {"response_format": wanted(schema)}
            response = self._client.post(self._url, json=asked)
            if response.status_code not in {400, 422}:
                return response
            # Another thread may have found out at the same time.
            if wanted in self._formats:
                self._formats.remove(wanted)
        return self._client.post(self._url, json=body)


def _pause(attempt: int, wait: str) -> float:
    """What the server asked for, else doubling with jitter, so that clients do not march in step."""
    if wait.isdigit():
        return min(float(wait), LONGEST_PAUSE)
    return min(FIRST_PAUSE * 2.0 ** (attempt - 1), LONGEST_PAUSE) * random.uniform(0.75, 1.25)


def _content(response: httpx.Response) -> str:
    """The first choice's text; empty where the answer has none, which no caller can use."""
    try:
        content = response.json()["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError):
        return ""
    return content if isinstance(content, str) else ""
