"""Hidden states through torch: 4-bit GPTQ weights on a GPU, or unquantised ones for comparison.

Rows are padded on the right to one of few shapes. On a GPU each shape is recorded once, at load, and
replayed; on a CPU the same code runs step by step, which is how it is tested.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from app import metrics
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
from app.backends.torch_decoder import Decoder, load_decoder
from app.backends.torch_graphs import Execution, Recorded, Runner, make_runner
from app.backends.torch_shapes import Pass, Shapes
from app.errors import (
    BackendError,
    BackendUnavailable,
    InferenceFailed,
    ManifestInvalid,
    ShopintentError,
)

logger = logging.getLogger(__name__)

Precision = Literal["bfloat16", "float16", "float32"]


class GptqBackend:
    """A checkpoint directory whose files must have been verified.

    ``device``, ``precision``, ``kernel`` and ``execution`` are chosen by what the machine has, unless
    they are given, as measurements do; ``joined`` is that of :func:`load_decoder`.
    """

    def __init__(
        self,
        checkpoint: Path,
        prompt: PromptSpec,
        max_message_tokens: int,
        options: BackendOptions,
        *,
        device: str | None = None,
        precision: Precision | None = None,
        kernel: str | None = None,
        execution: Execution | None = None,
        joined: bool = True,
    ) -> None:
        self._decoder: Decoder | None = None
        with _border(BackendUnavailable, f"loading {checkpoint.name}"):
            place = _device(device)
            if place.type == "cpu":
                torch.set_num_threads(options.threads)
            self._tokeniser, self._beginning = read_tokeniser(checkpoint)
            decoder = load_decoder(
                checkpoint,
                place,
                _precision(place, precision),
                kernel,
                joined=joined,
                plain_bytes=options.plain_bytes,
            )
            self._set_up(decoder, prompt, max_message_tokens, options)
            self._runner: Runner = make_runner(decoder, self._shapes, execution)
            self._decoder = decoder
            _report(decoder, self._runner)

    def _set_up(
        self, decoder: Decoder, prompt: PromptSpec, max_message_tokens: int, options: BackendOptions
    ) -> None:
        self._prefix = [*self._beginning, *self._ids(prompt.prefix)]
        self._suffix = self._ids(prompt.suffix)
        longest = len(self._prefix) + max_message_tokens + len(self._suffix)
        if longest > decoder.trained_context:
            raise ManifestInvalid(
                f"{longest} tokens do not fit the {decoder.trained_context} of the model"
            )
        around = len(self._beginning) + max_message_tokens + MAX_PROMPT_TOKENS
        before = max(0, min(options.max_prefix_tokens, decoder.trained_context - around))
        self.info = BackendInfo(
            kind="gptq",
            hidden_size=decoder.hidden_size,
            max_sequences=options.max_sequences,
            max_tokens=options.max_tokens,
            max_message_tokens=min(max_message_tokens, options.max_tokens),
            max_prefix_tokens=before,
        )
        self._shapes = Shapes(
            options.max_sequences,
            longest=max(longest, before + around),
            cells=2 * options.max_tokens,  # room for the messages' prompts, and for padding
        )

    def _ids(self, text: str) -> list[int]:
        """Ids of a text alone. Text that looks like a special token stays text."""
        if not text:
            return []
        return list(self._tokeniser.encode(text, add_special_tokens=False).ids)

    def tokenise(self, text: str) -> TokenIds:
        with _border(InferenceFailed, "tokenising"):
            self._open_decoder()
            return keep_ends(self._ids(text), self.info.max_message_tokens)

    def embed(self, messages: Sequence[TokenIds]) -> HiddenStates:
        with _border(InferenceFailed, f"computing {len(messages)} messages"):
            self._open_decoder()
            tokens = sum(map(len, messages))
            if not 0 < len(messages) <= self.info.max_sequences or tokens > self.info.max_tokens:
                raise InferenceFailed(f"{len(messages)} messages of {tokens} tokens are no batch")
            rows = [[*self._prefix, *message, *self._suffix] for message in messages]
            if not all(rows):
                raise InferenceFailed("a message without tokens")
            return self._states(rows, [[len(row) - 1] for row in rows])

    def embed_after(
        self,
        prefix: MarkedTokens,
        message: MarkedTokens,
        enough: Enough | None = None,  # noqa: ARG002
    ) -> tuple[HiddenStates, HiddenStates]:
        """All of it in one pass each time: on a GPU a catalog costs little more than a message.

        ``enough`` is never asked: a second pass would cost more there than the last marks do.
        """
        with _border(InferenceFailed, "computing a message after its prefix"):
            self._open_decoder()
            before, after = len(prefix.tokens), len(message.tokens)
            most = self.info.max_message_tokens + MAX_PROMPT_TOKENS
            if before > self.info.max_prefix_tokens or after > most:
                raise InferenceFailed(f"{before} and {after} tokens are more than announced")
            row = [*self._beginning, *prefix.tokens, *message.tokens]
            starts = len(self._beginning), len(self._beginning) + before
            marks = [
                start + mark
                for start, part in zip(starts, (prefix, message), strict=True)
                for mark in part.marks
            ]
            states = self._states([row], [marks])
            return states[: len(prefix.marks)], states[len(prefix.marks) :]

    def _open_decoder(self) -> Decoder:
        if self._decoder is None:
            raise InferenceFailed("the model has been closed")
        return self._decoder

    def _states(self, rows: Sequence[TokenIds], marks: Sequence[Sequence[int]]) -> HiddenStates:
        """States at the marked places of each row, float32 (all marks, hidden), in order."""
        found: list[HiddenStates] = [np.empty(0, np.float32)] * len(rows)
        for each in self._shapes.plan([len(row) for row in rows]):
            self._compute(each, rows, marks, found)
        states = np.concatenate(found)
        if not np.isfinite(states).all():
            raise InferenceFailed("the model computed hidden states that are not finite")
        return states

    def _compute(
        self,
        each: Pass,
        rows: Sequence[TokenIds],
        marks: Sequence[Sequence[int]],
        found: list[HiddenStates],
    ) -> None:
        """Run one pass, in halves where the memory does not hold it whole."""
        try:
            states = self._run(each, rows, [marks[place] for place in each.places])
        except torch.OutOfMemoryError as error:
            if len(each.places) == 1:
                raise InferenceFailed("a single message does not fit into memory") from error
            metrics.OUT_OF_MEMORY.inc()
            logger.warning("%d messages do not fit into memory: halved", len(each.places))
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            for half in each.halves():
                self._compute(half, rows, marks, found)
            return
        for place, part in zip(each.places, states, strict=True):
            found[place] = part

    def _run(
        self, each: Pass, rows: Sequence[TokenIds], marks: Sequence[Sequence[int]]
    ) -> list[HiddenStates]:
        ids = np.zeros((each.rows, each.length), np.int64)
        for row, place in enumerate(each.places):
            ids[row, : len(rows[place])] = rows[place]
        if ids.min() < 0 or ids.max() >= self._open_decoder().vocabulary:
            # A GPU would stop for good, not only for this batch.
            raise InferenceFailed("a token that the model does not have")
        counts = [len(places) for places in marks]
        row_of = np.repeat(np.arange(len(marks)), counts)
        place_of = np.concatenate([np.asarray(places, np.int64) for places in marks])
        with torch.inference_mode():
            states = self._runner(torch.from_numpy(ids))
            chosen = states[torch.from_numpy(row_of), torch.from_numpy(place_of)]
            flat: HiddenStates = chosen.float().cpu().numpy()
        return np.split(flat, np.cumsum(counts)[:-1])

    def close(self) -> None:
        if self._decoder is not None:
            self._decoder = None
            del self._runner
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


@contextmanager
def _border(failure: type[BackendError], doing: str) -> Iterator[None]:
    """Whatever the library raises gets a name of ours here, and only here."""
    try:
        yield
    except ShopintentError:
        raise
    except Exception as error:
        raise failure(f"torch failed while {doing}: {error}") from error


def _device(name: str | None) -> torch.device:
    device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.type not in {"cpu", "cuda"}:
        raise BackendUnavailable(f"no device {device.type!r}: cpu or cuda")
    return device


def _precision(device: torch.device, name: Precision | None) -> torch.dtype:
    """bfloat16 on a GPU: Gemma's states go beyond what float16 holds."""
    if name:
        dtype: torch.dtype = getattr(torch, name)
        return dtype
    if device.type == "cpu":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


def read_tokeniser(checkpoint: Path) -> tuple[Any, list[int]]:
    """The tokeniser, and the token that begins every text.

    There is none where the model was trained without (SmolLM2 names one, and was).
    """
    from transformers import AutoTokenizer

    given = AutoTokenizer.from_pretrained(checkpoint, local_files_only=True)
    first = given.bos_token_id
    beginning = [first] if first is not None and given("a").input_ids[:1] == [first] else []
    tokeniser = given.backend_tokenizer
    # What a customer types stays text, whatever it looks like.
    tokeniser.encode_special_tokens = True
    return tokeniser, beginning


def _report(decoder: Decoder, runner: Runner) -> None:
    recorded = f", {len(runner.shapes)} shapes recorded" if isinstance(runner, Recorded) else ""
    logger.info(
        "on %s in %s, kernel %s, %.0f MB of weights%s",
        decoder.device,
        str(decoder.dtype).removeprefix("torch."),
        decoder.kernel,
        decoder.weight_bytes / 1e6,
        recorded,
    )
    if decoder.device.type == "cuda":
        for kind, read in (
            ("allocated", torch.cuda.memory_allocated),
            ("reserved", torch.cuda.memory_reserved),
        ):
            metrics.GPU_MEMORY.labels(kind).set_function(partial(read, decoder.device))
