"""Hidden states on a plain CPU, through llama.cpp: the prompt is decoded once and shared.

Sequence 0 holds ``<bos>`` and the prompt's prefix. Every message lives in a sequence of its own for
the length of one ``llama_decode``, begins with the cells of sequence 0 and ends with the suffix, at
whose last token the hidden state is taken. No text is generated and no output layer is computed.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import llama_cpp
import numpy as np

from app.artifacts.manifest import PromptSpec
from app.backends.base import (
    MAX_PROMPT_TOKENS,
    BackendInfo,
    BackendOptions,
    Enough,
    HiddenStates,
    MarkedTokens,
    TokenIds,
    keep_ends,
)
from app.backends.gguf_prefix import PrefixContext
from app.backends.llama_context import LlamaContext, LlamaModel
from app.backends.llama_log import missing_instruction_sets, route_logs
from app.errors import (
    BackendError,
    BackendUnavailable,
    InferenceFailed,
    ManifestInvalid,
    ShopintentError,
)

logger = logging.getLogger(__name__)

_SHARED = 0


class GgufBackend:
    """A GGUF model. ``weights`` must have been verified: llama.cpp trusts what it reads."""

    context_type: type[LlamaContext] = LlamaContext

    def __init__(
        self, weights: Path, prompt: PromptSpec, max_message_tokens: int, options: BackendOptions
    ) -> None:
        self._context: LlamaContext | None = None
        self._prefixes: PrefixContext | None = None
        self._options = options
        with _border(BackendUnavailable, f"loading {weights.name}"):
            _start_library()
            self._model = LlamaModel(weights)
            try:
                self._set_up(prompt, max_message_tokens, options)
            except BaseException:
                self.close()
                raise

    def _set_up(self, prompt: PromptSpec, max_message_tokens: int, options: BackendOptions) -> None:
        self._prefix = self._model.beginning() + self._model.tokenise(prompt.prefix)
        self._suffix = np.array(self._model.tokenise(prompt.suffix), np.int32)
        longest = len(self._prefix) + max_message_tokens + len(self._suffix)
        if longest > self._model.trained_context:
            raise ManifestInvalid(
                f"{longest} tokens do not fit the {self._model.trained_context} of the model"
            )
        self.info = BackendInfo(
            kind="gguf",
            hidden_size=self._model.hidden_size,
            max_sequences=options.max_sequences,
            max_tokens=options.max_tokens,
            max_message_tokens=min(max_message_tokens, options.max_tokens),
            max_prefix_tokens=max(
                0, min(options.max_prefix_tokens, self._room(max_message_tokens))
            ),
            kept_prefix_tokens=options.kept_prefix_tokens,
        )
        self._context = self.context_type(
            self._model,
            tokens=max(
                options.max_tokens + options.max_sequences * len(self._suffix),
                len(self._prefix),
            ),
            shared=len(self._prefix),
            sequences=options.max_sequences + 1,
            rows=options.max_sequences,
            threads=options.threads,
            give_way=options.give_way,
        )
        self._recover(self._context)

    def _room(self, max_message_tokens: int) -> int:
        """Tokens that the model's context leaves before a message."""
        return self._model.trained_context - 1 - max_message_tokens - MAX_PROMPT_TOKENS

    def tokenise(self, text: str) -> TokenIds:
        with _border(InferenceFailed, "tokenising"):
            return keep_ends(self._model.tokenise(text), self.info.max_message_tokens)

    def embed(self, messages: Sequence[TokenIds]) -> HiddenStates:
        with _border(InferenceFailed, f"computing {len(messages)} messages"):
            context = self._open_context()
            if not self._ready:
                self._recover(context)
            count = self._fill(context, messages)
            try:
                rows = context.decode(count).copy()
            except Exception:
                self._recover(context)
                raise
            for sequence in range(1, len(messages) + 1):
                context.forget(sequence, len(self._prefix))
            if not np.isfinite(rows).all():
                raise InferenceFailed("the model computed hidden states that are not finite")
            return rows

    def embed_after(
        self, prefix: MarkedTokens, message: MarkedTokens, enough: Enough | None = None
    ) -> tuple[HiddenStates, HiddenStates]:
        with _border(InferenceFailed, "computing a message after its prefix"):
            self._open_context()
            if self._prefixes is None:  # a model that serves no prefixes pays nothing for them
                self._prefixes = PrefixContext(self._model, self.info, self._options)
            return self._prefixes.embed(prefix, message, enough)

    def _open_context(self) -> LlamaContext:
        if self._context is None:
            raise InferenceFailed("the model has been closed")
        return self._context

    def _fill(self, context: LlamaContext, messages: Sequence[TokenIds]) -> int:
        """Lay the messages side by side into the batch; returns the number of tokens."""
        tokens = sum(map(len, messages))
        if not 0 < len(messages) <= self.info.max_sequences or tokens > self.info.max_tokens:
            raise InferenceFailed(f"{len(messages)} messages of {tokens} tokens are no batch")
        context.marks[:] = 0
        at = 0
        for sequence, message in enumerate(messages, 1):
            middle = at + len(message)
            end = middle + len(self._suffix)
            if end == at:
                raise InferenceFailed("a message without tokens")
            context.tokens[at:middle] = message
            context.tokens[middle:end] = self._suffix
            start = len(self._prefix)
            context.positions[at:end] = np.arange(start, start + end - at)
            context.sequences[at:end] = sequence
            context.marks[end - 1] = 1
            at = end
        return at

    def _decode_prefix(self, context: LlamaContext) -> None:
        count = len(self._prefix)
        if not count:
            return
        context.tokens[:count] = self._prefix
        context.positions[:count] = np.arange(count)
        context.sequences[:count] = _SHARED
        context.marks[:] = 0
        context.marks[count - 1] = 1
        context.decode(count)
        context.share(_SHARED, range(1, self.info.max_sequences + 1))

    def _recover(self, context: LlamaContext) -> None:
        """Nothing of a failed batch stays behind; the next one finds the prompt as ever."""
        self._ready = False
        context.clear()
        self._decode_prefix(context)
        self._ready = True

    def close(self) -> None:
        if self._prefixes is not None:
            self._prefixes.close()
            self._prefixes = None
        if self._context is not None:
            self._context.close()
            self._context = None
        self._model.close()


@contextmanager
def _border(failure: type[BackendError], doing: str) -> Iterator[None]:
    """Whatever the library raises gets a name of ours here, and only here."""
    try:
        yield
    except ShopintentError:
        raise
    except Exception as error:
        raise failure(f"llama.cpp failed while {doing}: {error}") from error


def _start_library() -> None:
    route_logs()
    llama_cpp.llama_backend_init()
    if "AMX" in llama_cpp.llama_print_system_info().decode():
        logger.warning(
            "llama.cpp was built with AMX: if it ends in an illegal instruction, empty pip's cache of it "
            "(pip cache remove llama_cpp_python) and install it again without CMAKE_ARGS"
        )
    missing = missing_instruction_sets()
    if missing:
        logger.warning(
            "llama.cpp was built without %s, which this CPU has: rebuild it for full speed",
            ", ".join(missing),
        )
