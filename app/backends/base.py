"""What a backend is: token ids of messages in, hidden states out.

A backend owns a language model and nothing else: no labels, no calibration, no queue. It states its
own limits in :class:`BackendInfo`, so callers never ask which kind it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

MAX_PROMPT_TOKENS = 64
"""Tokens that a prompt may put behind the message in :meth:`Backend.embed_after`."""

TokenIds: TypeAlias = Sequence[int]
HiddenStates: TypeAlias = npt.NDArray[np.float32]
Enough: TypeAlias = Callable[[HiddenStates], bool]
"""Asked with the states at the first marks of a message: whether those at the others are not wanted."""
FIRST_MARKS = 2
"""How many there are then."""


@dataclass(frozen=True, slots=True)
class MarkedTokens:
    """Token ids, and the places (ascending) at which hidden states are wanted."""

    tokens: tuple[int, ...]
    marks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class BackendInfo:
    """What a backend is and how much it takes at once."""

    kind: str
    """``gguf``, ``gptq`` or ``fake``."""
    hidden_size: int
    max_sequences: int
    """Messages in one :meth:`Backend.embed` call."""
    max_tokens: int
    """Message tokens in one :meth:`Backend.embed` call, prompt not counted."""
    max_message_tokens: int
    """Tokens of one message; longer ones lose their middle in :meth:`Backend.tokenise`."""
    max_prefix_tokens: int = 768
    """Tokens of the prefix in one :meth:`Backend.embed_after` call."""
    kept_prefix_tokens: int = 4096
    """Of all prefixes that cost nothing, or next to nothing, the next time; the last one never does."""


@dataclass(frozen=True, slots=True)
class BackendOptions:
    """What the operator decides; every backend takes the same."""

    threads: int
    """Threads that compute one batch, the calling one included."""
    max_sequences: int = 16
    max_tokens: int = 1024
    """Message tokens in one batch, prompt not counted."""
    max_prefix_tokens: int = 768
    """Tokens before a message in :meth:`Backend.embed_after`: a shop's catalog."""
    kept_prefix_tokens: int = 4096
    """Tokens of prefixes whose attention state may be kept for the next message."""
    plain_bytes: int = 512_000_000
    """Quantised matrices of a torch model that take no more than this as plain numbers are made plain."""
    give_way: Callable[[], bool] | None = None
    """Called now and then while computing, and may take its time: others go first. False once it need
    not be called any more. A backend whose steps cannot be told apart ignores it."""


class Backend(Protocol):
    """One loaded model.

    ``tokenise`` may be called from any thread; the others only from the one that owns the model.
    Failures are raised as :class:`app.errors.BackendError`.
    """

    @property
    def info(self) -> BackendInfo: ...

    def tokenise(self, text: str) -> TokenIds:
        """Token ids of the message alone, without prompt, at most ``info.max_message_tokens``."""
        ...

    def embed(self, messages: Sequence[TokenIds]) -> HiddenStates:
        """Last hidden state (after the final norm) at the last prompt token of each message.

        Returns float32 of shape ``(len(messages), info.hidden_size)``, in order. A message's row
        does not depend on the others in the batch, up to rounding.
        """
        ...

    def embed_after(
        self, prefix: MarkedTokens, message: MarkedTokens, enough: Enough | None = None
    ) -> tuple[HiddenStates, HiddenStates]:
        """Hidden states (after the final norm) at the marks of a prefix and of what follows it.

        As one causal pass over ``<bos>`` (where the model was trained with one) + prefix + message
        gives them; neither the prompt of :meth:`embed` nor any token is added. Marks count from the
        start of their own part. Returns float32 of shapes ``(len(prefix.marks), info.hidden_size)``
        and ``(len(message.marks), info.hidden_size)``.

        A backend may keep what it computed for a prefix and use it when the same tokens and marks
        come again: no state of the prefix depends on what follows it. One that computes all of it
        each time is right too. ``prefix`` holds at most ``info.max_prefix_tokens``, ``message`` at
        most ``info.max_message_tokens`` and :data:`MAX_PROMPT_TOKENS` behind it.

        A backend whose time grows with each token may ask ``enough`` and, if so, give the states at the
        first :data:`FIRST_MARKS` marks of the message alone.
        """
        ...

    def close(self) -> None:
        """Free the model. Idempotent."""
        ...


def keep_ends(tokens: list[int], limit: int) -> list[int]:
    """Head and tail of a message that is too long: the request stands at either end, seldom between."""
    if len(tokens) <= limit:
        return tokens
    head = (limit + 1) // 2
    return tokens[:head] + tokens[len(tokens) - (limit - head) :]
