"""Whole Hugging Face model directories, random and tiny: weights, configuration and tokeniser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from training.base_sources import _SAMPLES

HIDDEN = 64
_TEXT = [
    *_SAMPLES,
    "where is my order and when will it come",
    "I want to send the shoes back, they are too small",
    "do you have this in blue, size 42?",
]


def write_tiny_llama(
    directory: Path, *, dtype: torch.dtype = torch.float32, begin: bool = True, **config: Any
) -> Path:
    """Grouped-query attention and a byte-level tokeniser, as Llama 3; the output layer tied."""
    tokeniser = Tokenizer(models.BPE())
    tokeniser.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokeniser.decoder = decoders.ByteLevel()
    tokeniser.train_from_iterator(
        _TEXT,
        trainers.BpeTrainer(
            vocab_size=330,
            special_tokens=["<s>", "</s>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    if begin:
        tokeniser.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", 0)]
        )
    settings = {
        "vocab_size": tokeniser.get_vocab_size() + 6,  # padded, as many are
        "hidden_size": HIDDEN,
        "intermediate_size": 128,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 1024,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        "tie_word_embeddings": True,
    }
    _save(directory, transformers.LlamaConfig(**settings | config), tokeniser, dtype)
    return directory


def write_tiny_gemma(directory: Path, **config: Any) -> Path:
    """Layers that attend near and far, norms that add one, and SentencePiece's pieces with bytes."""
    space = "\u2581"
    specials = ["<pad>", "<eos>", "<bos>", "<unk>"]
    pieces = [*specials, *(f"<0x{byte:02X}>" for byte in range(256)), space, "\n"]
    pieces += sorted({c for text in _TEXT for c in text if c.isalpha() and c.isascii()})
    merges = [("o", "r"), ("i", "n"), (space, "m"), (space + "m", "y"), ("or", "d"), ("e", "r")]
    pieces += ["".join(pair) for pair in merges]
    tokeniser = Tokenizer(
        models.BPE(
            vocab={piece: place for place, piece in enumerate(pieces)},
            merges=merges,
            unk_token="<unk>",
            byte_fallback=True,
            fuse_unk=True,
        )
    )
    tokeniser.add_special_tokens(specials)
    tokeniser.normalizer = normalizers.Replace(" ", space)
    tokeniser.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokeniser.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", 2)]
    )
    settings = {
        "vocab_size": len(pieces),
        "hidden_size": HIDDEN,
        "intermediate_size": 128,
        "num_hidden_layers": 7,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 32,
        "query_pre_attn_scalar": 32,
        "sliding_window": 64,
        "max_position_embeddings": 1024,
    }
    _save(directory, transformers.Gemma3TextConfig(**settings | config), tokeniser, torch.float32)
    return directory


def _save(directory: Path, config: Any, tokeniser: Tokenizer, dtype: torch.dtype) -> None:
    torch.manual_seed(3)
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("norm.weight"):
                parameter.add_(torch.randn_like(parameter) * 0.2)
            else:  # larger than the usual start, so that every layer tells
                parameter.copy_(torch.randn_like(parameter) * parameter.shape[-1] ** -0.5)
    model.to(dtype).save_pretrained(directory)
    names = {"bos_token": "<s>", "eos_token": "</s>"}
    if tokeniser.token_to_id("<bos>") is not None:
        names = {f"{name}_token": f"<{name}>" for name in ("bos", "eos", "unk", "pad")}
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokeniser, **names).save_pretrained(
        directory
    )
