"""Messages after long prefixes that come again: a shop's catalog is computed once, then remembered.

The context holds one prefix at a time. A message is decoded behind it and taken off again, so the next
one on the same prefix costs its own tokens only. What the memory holds of a prefix (about 18 KB a
token with Gemma 3 270M) is copied out beside it, least recently used first to go; to copy it back
takes half a millisecond for a catalog of thirty products.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import llama_cpp
import numpy as np
import numpy.typing as npt

from app.backends.base import (
    FIRST_MARKS,
    MAX_PROMPT_TOKENS,
    BackendInfo,
    BackendOptions,
    Enough,
    HiddenStates,
    MarkedTokens,
)
from app.backends.llama_context import BF16, F16, LlamaContext, LlamaModel
from app.errors import InferenceFailed

_CHUNK_TOKENS = 256
_CHUNK_ROWS = 16
"""Hidden states of one decode: for each the library moves a vocabulary-wide row, a megabyte."""
_SEQUENCE = 0


@dataclass(frozen=True, slots=True)
class _Kept:
    states: HiddenStates
    memory: npt.NDArray[np.uint8]


class PrefixContext:
    """A context of its own on a loaded model. The owner thread's; raises what the library raises."""

    context_type: type[LlamaContext] = LlamaContext

    def __init__(self, model: LlamaModel, info: BackendInfo, options: BackendOptions) -> None:
        self._beginning = tuple(model.beginning())
        self._max_prefix = info.max_prefix_tokens
        self._max_message = info.max_message_tokens + MAX_PROMPT_TOKENS
        self._max_kept = options.kept_prefix_tokens
        self._kept: OrderedDict[MarkedTokens, _Kept] = OrderedDict()
        self._held: MarkedTokens | None = None
        """The prefix that the context holds, alone."""
        self._held_states: HiddenStates = np.empty((0, model.hidden_size), np.float32)
        cells = len(self._beginning) + self._max_prefix + self._max_message
        self._context = self.context_type(
            model,
            tokens=_CHUNK_TOKENS,
            shared=max(0, cells - _CHUNK_TOKENS),
            sequences=1,
            rows=_CHUNK_ROWS,
            threads=options.threads,
            keep_window=True,
            flash_attention=False,
            cell_type=_cell_type(),
            give_way=options.give_way,
        )

    @property
    def kept(self) -> tuple[MarkedTokens, ...]:
        """Remembered prefixes, least recently used first."""
        return tuple(self._kept)

    def embed(
        self, prefix: MarkedTokens, message: MarkedTokens, enough: Enough | None = None
    ) -> tuple[HiddenStates, HiddenStates]:
        """See :meth:`app.backends.base.Backend.embed_after`."""
        if len(prefix.tokens) > self._max_prefix or len(message.tokens) > self._max_message:
            raise InferenceFailed(
                f"{len(prefix.tokens)} and {len(message.tokens)} tokens are more than announced"
            )
        try:
            self._hold(prefix)
            start = len(self._beginning) + len(prefix.tokens)
            states = self._decode_message(message, start, enough)
            self._context.forget(_SEQUENCE, start)
        except BaseException:
            # Nothing of a failed message stays behind; copies of prefixes are not touched by it.
            self._held = None
            self._context.clear()
            raise
        if not (np.isfinite(states).all() and np.isfinite(self._held_states).all()):
            self._kept.pop(prefix, None)
            self._held = None
            raise InferenceFailed("the model computed hidden states that are not finite")
        return self._held_states.copy(), states

    def _hold(self, prefix: MarkedTokens) -> None:
        """Bring the context to hold this prefix and nothing else."""
        kept = self._kept.get(prefix)
        if kept is not None:
            self._kept.move_to_end(prefix)
        if self._held == prefix:
            return
        self._held = None
        self._context.clear()
        if kept is not None:
            del self._kept[prefix]  # comes back when it has been put back whole
            self._context.restore(_SEQUENCE, kept.memory)
            self._kept[prefix] = kept
            self._held_states = kept.states
        else:
            count = len(self._beginning)
            marks = tuple(mark + count for mark in prefix.marks)
            self._held_states = self._decode(self._beginning + prefix.tokens, marks, 0)
            self._remember(prefix)
        self._held = prefix

    def _remember(self, prefix: MarkedTokens) -> None:
        if len(prefix.tokens) > self._max_kept:
            return
        tokens = len(prefix.tokens) + sum(len(kept.tokens) for kept in self._kept)
        while tokens > self._max_kept:
            oldest, _ = self._kept.popitem(last=False)
            tokens -= len(oldest.tokens)
        self._kept[prefix] = _Kept(self._held_states, self._context.state(_SEQUENCE))

    def _decode_message(
        self, message: MarkedTokens, start: int, enough: Enough | None
    ) -> HiddenStates:
        """In two steps where the first may be enough: what stands behind it costs as much a token."""
        if enough is None or len(message.marks) <= FIRST_MARKS:
            return self._decode(message.tokens, message.marks, start)
        cut = message.marks[FIRST_MARKS - 1] + 1
        first = self._decode(message.tokens[:cut], message.marks[:FIRST_MARKS], start)
        if enough(first):
            return first
        marks = tuple(mark - cut for mark in message.marks[FIRST_MARKS:])
        return np.concatenate([first, self._decode(message.tokens[cut:], marks, start + cut)])

    def _decode(self, tokens: tuple[int, ...], marks: tuple[int, ...], start: int) -> HiddenStates:
        """Append tokens from position ``start`` on; states at the marks, (len(marks), hidden)."""
        context = self._context
        states = np.empty((len(marks), self._held_states.shape[1]), np.float32)
        at = done = 0
        while at < len(tokens):
            due = marks[done : done + _CHUNK_ROWS]
            end = min(at + _CHUNK_TOKENS, len(tokens))
            if len(marks) > done + _CHUNK_ROWS:
                end = min(end, due[-1] + 1)
            due = tuple(mark for mark in due if mark < end)
            count = end - at
            context.tokens[:count] = tokens[at:end]
            context.positions[:count] = np.arange(start + at, start + end)
            context.sequences[:count] = _SEQUENCE
            context.marks[:] = 0
            context.marks[[mark - at for mark in due]] = 1
            if not due:
                context.marks[count - 1] = 1  # the library wants one in each decode
            rows = context.decode(count)
            states[done : done + len(due)] = rows[: len(due)]
            at, done = end, done + len(due)
        return states

    def close(self) -> None:
        """Free the context. Idempotent."""
        self._held = None
        self._kept.clear()
        self._context.close()


def _cell_type() -> int:
    """bfloat16 where this build computes with it: as true to the model, and faster than float16."""
    built = llama_cpp.llama_print_system_info()
    return BF16 if b"AVX512_BF16 = 1" in built else F16
