"""The same weights without the service: one bare decode, bare decodes in batches, and generated JSON.

Written as a careful user of llama.cpp would: logits for the last token only, all threads, nothing
computed twice. It shares the model's weights between both contexts and is idle while the service
is measured.
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import llama_cpp

from app.artifacts.manifest import Manifest
from app.backends.base import keep_ends
from app.backends.llama_context import LlamaError, LlamaModel
from app.backends.llama_log import route_logs

_LONGEST_ANSWER = 64


class Weights:
    """The artifact's weights file, and messages as the model gets them."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        route_logs()
        llama_cpp.llama_backend_init()
        self.model = LlamaModel(path)
        self._limit = manifest.max_message_tokens
        self._before = self.model.beginning() + self.model.tokenise(manifest.prompt.prefix)
        self._after = self.model.tokenise(manifest.prompt.suffix)

    def prompt(self, text: str) -> list[int]:
        """Token ids of a normalised text with all that stands around it."""
        return self._before + keep_ends(self.model.tokenise(text), self._limit) + self._after

    def close(self) -> None:
        self.model.close()


class BareDecoder:
    """``llama_decode`` and the logits of each last token; nothing else."""

    def __init__(self, weights: Weights, *, threads: int, sequences: int, tokens: int) -> None:
        params = _context_params(threads, tokens)
        params.n_seq_max = params.n_outputs_max = sequences
        self.handle = _open(weights, params)
        self._memory = llama_cpp.llama_get_memory(self.handle)
        self._batch = llama_cpp.llama_batch_init(tokens, 0, 1)
        self._room = tokens

    def time(self, prompts: Sequence[Sequence[int]]) -> float:
        """Seconds for all prompts in one decode, each in a sequence of its own, without preparation."""
        llama_cpp.llama_memory_clear(self._memory, False)  # noqa: FBT003
        rows = fill(self._batch, prompts, self._room)
        started = perf_counter()
        _decode(self.handle, self._batch)
        for row in rows:
            _ = llama_cpp.llama_get_logits_ith(self.handle, row)[0]
        return perf_counter() - started

    def close(self) -> None:
        llama_cpp.llama_batch_free(self._batch)
        llama_cpp.llama_free(self.handle)


@dataclass(frozen=True, slots=True)
class Generated:
    """One generated answer: its text, its tokens, and where the seconds went."""

    text: str
    tokens: int
    seconds: float
    choosing_seconds: float
    """Spent in the grammar and the choice of tokens, not in the model."""


class JsonGenerator:
    """Greedy generation of ``{"intent": "..."}`` under a GBNF grammar over the model's intents.

    It ends with the closing brace, without asking for the token that ends the text.
    """

    def __init__(
        self, weights: Weights, intents: Sequence[str], *, threads: int, tokens: int
    ) -> None:
        self.handle = _open(weights, _context_params(threads, tokens + _LONGEST_ANSWER))
        self._room = tokens
        self._memory = llama_cpp.llama_get_memory(self.handle)
        self._vocab = llama_cpp.llama_model_get_vocab(weights.model.handle)
        self._batch = llama_cpp.llama_batch_init(tokens, 0, 1)
        params = llama_cpp.llama_sampler_chain_default_params()
        self._sampler = llama_cpp.llama_sampler_chain_init(params)
        rules = grammar(intents).encode()
        constraint = llama_cpp.llama_sampler_init_grammar(self._vocab, rules, b"root")
        if not constraint:
            raise LlamaError("the grammar was refused")
        llama_cpp.llama_sampler_chain_add(self._sampler, constraint)
        llama_cpp.llama_sampler_chain_add(self._sampler, llama_cpp.llama_sampler_init_greedy())

    def generate(self, prompt: Sequence[int]) -> Generated:
        """From the prompt's token ids to the whole answer."""
        started = perf_counter()
        choosing = 0.0
        llama_cpp.llama_memory_clear(self._memory, False)  # noqa: FBT003
        llama_cpp.llama_sampler_reset(self._sampler)
        fill(self._batch, [prompt], self._room)
        text = b""
        for count in range(_LONGEST_ANSWER):
            _decode(self.handle, self._batch)
            at = perf_counter()
            token = llama_cpp.llama_sampler_sample(self._sampler, self.handle, -1)
            choosing += perf_counter() - at
            text += self._piece(token)
            if text.endswith(b"}"):
                seconds = perf_counter() - started
                return Generated(text.decode(), count + 1, seconds, choosing)
            fill(self._batch, [[token]], self._room, start=len(prompt) + count)
        raise LlamaError("the grammar let no answer end")

    def _piece(self, token: int) -> bytes:
        room = ctypes.create_string_buffer(128)
        length = llama_cpp.llama_token_to_piece(self._vocab, token, room, len(room), 0, False)  # noqa: FBT003
        return room.raw[: max(0, length)]

    def close(self) -> None:
        llama_cpp.llama_sampler_free(self._sampler)
        llama_cpp.llama_batch_free(self._batch)
        llama_cpp.llama_free(self.handle)


def grammar(intents: Sequence[str]) -> str:
    """GBNF of ``{"intent": "<one of the intents>"}``."""
    names = " | ".join(json.dumps(intent) for intent in intents)
    return f'root ::= "{{\\"intent\\": \\"" intent "\\"}}"\nintent ::= {names}\n'


def fill(batch: Any, prompts: Sequence[Sequence[int]], room: int, start: int = 0) -> list[int]:
    """Lay prompts side by side into a ``llama_batch``; returns the places of their last tokens."""
    if sum(map(len, prompts)) > room:
        raise LlamaError(f"more than {room} tokens for one batch")
    at = 0
    rows = []
    for sequence, prompt in enumerate(prompts):
        for position, token in enumerate(prompt, start):
            batch.token[at] = token
            batch.pos[at] = position
            batch.n_seq_id[at] = 1
            batch.seq_id[at][0] = sequence
            batch.logits[at] = 0
            at += 1
        batch.logits[at - 1] = 1
        rows.append(at - 1)
    batch.n_tokens = at
    return rows


def _context_params(threads: int, tokens: int) -> Any:
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = tokens
    params.n_threads = params.n_threads_batch = threads
    params.kv_unified = (
        True  # one cache for all sequences: batches of unequal lengths go in one pass
    )
    params.swa_full = False  # as the service has it: 5 to 10% faster than the default
    params.no_perf = True
    return params


def _open(weights: Weights, params: Any) -> Any:
    handle = llama_cpp.llama_init_from_model(weights.model.handle, params)
    if not handle:
        raise LlamaError(f"no context for {params.n_ctx} tokens")
    return handle


def _decode(handle: Any, batch: Any) -> None:
    status = llama_cpp.llama_decode(handle, batch)
    if status:
        raise LlamaError(f"llama_decode returned {status}")
