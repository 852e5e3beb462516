"""Generation through llama.cpp's low-level API, as a careful user of it would write it."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import numpy.typing as npt

from app.backends.llama_context import LlamaError, LlamaModel
from app.backends.llama_log import route_logs
from app.bench.rivals import fill
from study.generation import Logits

_CONTEXT, _CHUNK = 1536, 512
"""Tokens of a whole text, and of one decode."""
_FIRST_GUESSES = 256


class Grammar:
    """Greedy choice under a grammar: the likeliest token if it is allowed, as llama.cpp's own tools do.

    To ask for a few tokens costs microseconds, for the whole vocabulary many milliseconds.
    """

    def __init__(self, vocabulary: Any, rules: str) -> None:
        self._sampler = llama_cpp.llama_sampler_init_grammar(vocabulary, rules.encode(), b"root")
        if not self._sampler:
            raise LlamaError("the grammar was refused")

    def choose(self, logits: Logits) -> int:
        guesses: npt.NDArray[np.intp] = np.array([logits.argmax()])
        token = self._likeliest(guesses, logits)
        if token is None:
            token = self._likeliest(
                np.argpartition(-logits, _FIRST_GUESSES)[:_FIRST_GUESSES], logits
            )
        if token is None:
            token = self._likeliest(np.arange(len(logits)), logits)
        if token is None:
            raise LlamaError("the grammar allows nothing")
        llama_cpp.llama_sampler_accept(self._sampler, token)
        return token

    def _likeliest(self, tokens: npt.NDArray[np.intp], logits: Logits) -> int | None:
        """The likeliest of these tokens that the grammar allows."""
        candidates = (llama_cpp.llama_token_data * len(tokens))()
        for place, token in enumerate(tokens.tolist()):
            candidates[place] = llama_cpp.llama_token_data(token, float(logits[token]), 0.0)
        array = llama_cpp.llama_token_data_array(candidates, len(tokens), -1, False)  # noqa: FBT003
        llama_cpp.llama_sampler_apply(self._sampler, ctypes.byref(array))
        allowed = [
            (one.logit, one.id) for one in array.data[: array.size] if not math.isinf(one.logit)
        ]
        return int(max(allowed)[1]) if allowed else None

    def close(self) -> None:
        llama_cpp.llama_sampler_free(self._sampler)


class LlamaDecoder:
    """One text at a time on a GGUF file."""

    def __init__(self, weights: Path, threads: int) -> None:
        route_logs()
        llama_cpp.llama_backend_init()
        self._model = LlamaModel(weights)
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = _CONTEXT, _CHUNK, _CHUNK
        params.n_seq_max = params.n_outputs_max = 1
        params.n_threads = params.n_threads_batch = threads
        params.swa_full = False
        params.no_perf = True
        self._handle = llama_cpp.llama_init_from_model(self._model.handle, params)
        if not self._handle:
            raise LlamaError(f"no context for {_CONTEXT} tokens")
        self._memory = llama_cpp.llama_get_memory(self._handle)
        self._vocabulary = llama_cpp.llama_model_get_vocab(self._model.handle)
        self._size = int(llama_cpp.llama_vocab_n_tokens(self._vocabulary))
        self._batch = llama_cpp.llama_batch_init(_CHUNK, 0, 1)
        self._beginning = self._model.beginning()
        self._length = 0
        self.end = int(llama_cpp.llama_vocab_eos(self._vocabulary))

    def tokenise(self, text: str) -> list[int]:
        return self._model.tokenise(text)

    def start(self, tokens: Sequence[int]) -> Logits:
        llama_cpp.llama_memory_clear(self._memory, False)  # noqa: FBT003
        self._length = 0
        whole = [*self._beginning, *tokens]
        last = (len(whole) - 1) // _CHUNK * _CHUNK
        for at in range(0, last, _CHUNK):
            self._decode(whole[at : at + _CHUNK])
        return self._decode(whole[last:])

    def step(self, token: int) -> Logits:
        return self._decode([token])

    def _decode(self, tokens: Sequence[int]) -> Logits:
        (row,) = fill(self._batch, [tokens], _CHUNK, start=self._length)
        status = llama_cpp.llama_decode(self._handle, self._batch)
        if status:
            raise LlamaError(f"llama_decode returned {status}")
        self._length += len(tokens)
        pointer = llama_cpp.llama_get_logits_ith(self._handle, row)
        return np.ctypeslib.as_array(pointer, (self._size,))

    def text(self, tokens: Sequence[int]) -> str:
        pieces = b"".join(piece_of(self._vocabulary, token) for token in tokens)
        return pieces.decode(errors="replace")

    def constrain(self, rules: str) -> Grammar:
        return Grammar(self._vocabulary, rules)

    def close(self) -> None:
        llama_cpp.llama_batch_free(self._batch)
        llama_cpp.llama_free(self._handle)
        self._model.close()


def piece_of(vocabulary: Any, token: int) -> bytes:
    """The bytes that a token stands for."""
    room = ctypes.create_string_buffer(256)
    length = llama_cpp.llama_token_to_piece(vocabulary, token, room, len(room), 0, False)  # noqa: FBT003
    return room.raw[: max(0, length)]
