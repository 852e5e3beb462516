"""Causal attention that needs no mask: for rows that are padded on the right.

``transformers`` builds a mask for its own attentions and looks into the positions for it, which makes
the GPU wait for the CPU and cannot be recorded. For an attention that it does not know it builds none.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from transformers import AttentionInterface

from app.errors import BackendUnavailable

NAME = "shopintent_causal"


def causal(
    _module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    _mask: torch.Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **_unused: Any,
) -> tuple[torch.Tensor, None]:
    """Attention over queries (n, heads, length, size); returns (n, length, heads, size).

    Keys and values may have fewer heads, each shared by as many queries.
    """
    if softcap is not None:
        raise BackendUnavailable("attention with a soft cap is not supported: serve GGUF weights")
    length = query.shape[2]
    inside = sliding_window is None or length <= sliding_window
    states = F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=None if inside else _window(length, int(sliding_window or 0), query.device),
        is_causal=inside,
        scale=scaling,
        enable_gqa=key.shape[1] != query.shape[1],
    )
    return states.transpose(1, 2).contiguous(), None


def _window(length: int, width: int, device: torch.device) -> torch.Tensor:
    """True where a token sees: itself and the ``width - 1`` tokens before it."""
    places = torch.arange(length, device=device)
    back = places[:, None] - places[None, :]
    return (back >= 0) & (back < width)


def register() -> str:
    """Make it known to ``transformers``; returns its name. Harmless when repeated."""
    AttentionInterface.register(NAME, causal)
    return NAME
