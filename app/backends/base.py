"""What a backend is: token ids of messages in, one hidden state a message out.

A backend owns a language model and nothing else: no labels, no calibration, no queue. It states its
own limits in :class:`BackendInfo`, so callers never ask which kind it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

TokenIds: TypeAlias = Sequence[int]
HiddenStates: TypeAlias = npt.NDArray[np.float32]


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


@dataclass(frozen=True, slots=True)
class BackendOptions:
    """What the operator decides; every backend takes the same."""

    threads: int
    """Threads that compute one batch, the calling one included."""
    max_sequences: int = 16
    max_tokens: int = 1024
    """Message tokens in one batch, prompt not counted."""


class Backend(Protocol):
    """One loaded model.

    ``tokenise`` may be called from any thread; ``embed`` and ``close`` only from the one that owns
    the model. Failures are raised as :class:`app.errors.BackendError`.
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

    def close(self) -> None:
        """Free the model. Idempotent."""
        ...


def keep_ends(tokens: list[int], limit: int) -> list[int]:
    """Head and tail of a message that is too long: the request stands at either end, seldom between."""
    if len(tokens) <= limit:
        return tokens
    head = (limit + 1) // 2
    return tokens[:head] + tokens[len(tokens) - (limit - head) :]
