"""A deterministic backend without a model: for tests, and for trying the service with no weights.

Its hidden states are hashed character trigrams, so texts that share wording lie close together and a
head of class means classifies them sensibly.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from zlib import crc32

import numpy as np

from app.backends.base import (
    FIRST_MARKS,
    BackendInfo,
    BackendOptions,
    Enough,
    HiddenStates,
    MarkedTokens,
    TokenIds,
    keep_ends,
)
from app.errors import InferenceFailed


class FakeBackend:
    """Token ids are UTF-8 bytes. It sleeps ``seconds_per_token`` for every token it is given.

    A batch with a text that contains ``fail_on`` raises :class:`InferenceFailed`, as a poisoned
    message would.
    """

    def __init__(
        self,
        hidden_size: int,
        options: BackendOptions,
        *,
        max_message_tokens: int = 256,
        seconds_per_token: float = 0.0,
        fail_on: str | None = None,
    ) -> None:
        self.info = BackendInfo(
            kind="fake",
            hidden_size=hidden_size,
            max_sequences=options.max_sequences,
            max_tokens=options.max_tokens,
            max_message_tokens=min(max_message_tokens, options.max_tokens),
            max_prefix_tokens=options.max_prefix_tokens,
            kept_prefix_tokens=options.kept_prefix_tokens,
        )
        self.seconds_per_token = seconds_per_token
        self.fail_on = fail_on

    def tokenise(self, text: str) -> TokenIds:
        return keep_ends(list(text.encode()), self.info.max_message_tokens)

    def embed(self, messages: Sequence[TokenIds]) -> HiddenStates:
        tokens = sum(map(len, messages))
        if not 0 < len(messages) <= self.info.max_sequences or tokens > self.info.max_tokens:
            raise InferenceFailed(f"{len(messages)} messages of {tokens} tokens are no batch")
        return self._states(self._read(messages))

    def embed_after(
        self, prefix: MarkedTokens, message: MarkedTokens, enough: Enough | None = None
    ) -> tuple[HiddenStates, HiddenStates]:
        """A mark of the prefix sees its own line, one of the message all since the last of these."""
        self._read([prefix.tokens, message.tokens])
        starts = [_text(prefix.tokens[: mark + 1]) for mark in prefix.marks]
        lines = [start.rstrip("\n").rpartition("\n")[2] for start in starts]
        begun = prefix.tokens[prefix.marks[-1] + 1 :] if prefix.marks else prefix.tokens
        heads = [_text((*begun, *message.tokens[: mark + 1])) for mark in message.marks]
        ends, states = self._states(lines), self._states(heads)
        first = states[:FIRST_MARKS]
        return ends, first if enough is not None and enough(first) else states

    def _read(self, parts: Sequence[TokenIds]) -> list[str]:
        texts = [_text(tokens) for tokens in parts]
        if self.seconds_per_token:
            time.sleep(self.seconds_per_token * sum(len(tokens) for tokens in parts))
        if self.fail_on is not None and any(self.fail_on in text for text in texts):
            raise InferenceFailed("the fake backend was told to fail on this message")
        return texts

    def _states(self, texts: Sequence[str]) -> HiddenStates:
        states = np.stack([self._trigrams(text) for text in texts])
        states /= np.linalg.norm(states, axis=1, keepdims=True)
        return states

    def _trigrams(self, text: str) -> HiddenStates:
        padded = f"  {text.lower()} "
        state = np.zeros(self.info.hidden_size, np.float32)
        for start in range(len(padded) - 2):
            state[crc32(padded[start : start + 3].encode()) % len(state)] += 1.0
        return state

    def close(self) -> None:
        """Nothing to free."""


def _text(tokens: TokenIds) -> str:
    return bytes(tokens).decode(errors="replace")
