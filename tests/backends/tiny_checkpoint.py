"""Small random models as directories that ``transformers`` loads, tokeniser included."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

AUTO_GPTQ = Path(__file__).with_name("auto_gptq")
"""A random Llama of one layer, quantised and saved by auto-gptq 0.7.1 itself (``desc_act``, its default).

``expected.json`` has the last hidden states that its own reader computed of two texts, in float32.
"""


def write_tiny_gemma(directory: Path) -> Path:
    """A random Gemma 3 of three layers and no tokeniser, with a window of 8 tokens, two heads to a key."""
    import torch
    from transformers import Gemma3TextConfig, Gemma3TextModel

    torch.manual_seed(2)
    model = Gemma3TextModel(
        Gemma3TextConfig(
            vocab_size=300,
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=16,
            sliding_window=8,
            layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        )
    )
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.data.normal_(std=0.3)
    model.save_pretrained(directory)
    return directory


def write_tiny_llama(directory: Path, *, layers: int = 2, seed: int = 3) -> Path:
    """A random Llama with the byte tokeniser of :data:`AUTO_GPTQ`."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    model: Any = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=259,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=512,
            bos_token_id=1,
            eos_token_id=2,
        )
    )
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.mul_(5)  # so small a spread as usual would leave texts all alike
    model.save_pretrained(directory)
    for path in AUTO_GPTQ.glob("*token*"):
        shutil.copyfile(path, directory / path.name)
    return directory
