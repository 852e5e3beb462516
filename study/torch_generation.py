"""Generation through transformers on a CPU: plain precision, and GPTQ checkpoints as it loads them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from study.generation import Chooser, Logits


class TorchDecoder:
    """One text at a time, keys and values kept, logits of the last token only."""

    def __init__(self, weights: Path, precision: str, vocabulary: Path, threads: int) -> None:
        torch.set_num_threads(threads)
        self._tokeniser: Any = AutoTokenizer.from_pretrained(weights)
        self._model: Any = AutoModelForCausalLM.from_pretrained(
            weights, dtype=getattr(torch, precision), device_map="cpu"
        ).eval()
        first = self._tokeniser.bos_token_id
        given = self._tokeniser("a").input_ids
        self._beginning = [first] if first is not None and given[:1] == [first] else []
        self.end = int(self._tokeniser.eos_token_id)
        self._vocabulary_file = vocabulary
        self._vocabulary: Any = None
        self._past: Any = None

    def tokenise(self, text: str) -> list[int]:
        if not text:
            return []
        ids: list[int] = self._tokeniser(
            text, add_special_tokens=False, split_special_tokens=True
        ).input_ids
        return ids

    def start(self, tokens: Sequence[int]) -> Logits:
        self._past = None
        return self._decode([*self._beginning, *tokens])

    def step(self, token: int) -> Logits:
        return self._decode([token])

    def _decode(self, tokens: Sequence[int]) -> Logits:
        with torch.inference_mode():
            given = self._model(
                input_ids=torch.tensor([list(tokens)]),
                past_key_values=self._past,
                use_cache=True,
                logits_to_keep=1,
            )
        self._past = given.past_key_values
        return np.asarray(given.logits[0, -1].float().numpy(), np.float32)

    def text(self, tokens: Sequence[int]) -> str:
        text: str = self._tokeniser.decode(list(tokens))
        return text

    def constrain(self, rules: str) -> Chooser:
        """Through llama.cpp's grammar, on the same vocabulary: transformers has none of its own."""
        from study.llama_generation import Grammar

        if self._vocabulary is None:
            self._vocabulary = _read_vocabulary(self._vocabulary_file)
        import llama_cpp

        return Grammar(llama_cpp.llama_model_get_vocab(self._vocabulary.handle), rules)

    def close(self) -> None:
        self._past = self._model = None


def _read_vocabulary(gguf: Path) -> Any:
    from app.backends.llama_context import LlamaModel
    from app.backends.llama_log import route_logs

    route_logs()
    return LlamaModel(gguf, vocabulary_only=True)
