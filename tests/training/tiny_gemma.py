"""A Gemma 3 with random weights, small enough to train in a moment, without a checkpoint on disk."""

from __future__ import annotations

from typing import Any

import torch

from training.changes import fresh
from training.gemma import Gemma, Shape

HIDDEN, VOCABULARY, HEAD, HEADS, INNER = 32, 128, 16, 2, 64
_SHAPES = {
    "attn_q": (HEADS * HEAD, HIDDEN),
    "attn_k": (HEAD, HIDDEN),
    "attn_v": (HEAD, HIDDEN),
    "attn_output": (HIDDEN, HEADS * HEAD),
    "ffn_gate": (INNER, HIDDEN),
    "ffn_up": (INNER, HIDDEN),
    "ffn_down": (HIDDEN, INNER),
}
_NORMS = ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm")


def tiny_gemma(
    layers: int = 2, rank: int = 4, scale: float = 2.0, seed: int = 0, **options: Any
) -> Gemma:
    """A fresh adapter's ``rank``, 0 for none; ``options`` are those of :class:`Gemma`."""
    generator = torch.Generator().manual_seed(1)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) * shape[-1] ** -0.5

    tensors = {"output_norm.weight": torch.ones(HIDDEN)}
    for layer in range(layers):
        for kind, shape in _SHAPES.items():
            tensors[f"blk.{layer}.{kind}.weight"] = drawn(*shape)
        for kind in _NORMS:
            tensors[f"blk.{layer}.{kind}.weight"] = torch.ones(HIDDEN)
        for kind in ("attn_q_norm", "attn_k_norm"):
            tensors[f"blk.{layer}.{kind}.weight"] = torch.ones(HEAD)
    settings: dict[str, Any] = {"shape": Shape(head_dim=HEAD, window=64)}
    if rank:
        settings["change"] = fresh(rank, scale, seed)
    return Gemma(tensors, drawn(VOCABULARY, HIDDEN), **settings | options)
