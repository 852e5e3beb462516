"""How llama.cpp and ``transformers`` lay out the same matrix.

Both turn pairs of numbers of each head by an angle (rotary position embedding). For the Llama family
``transformers`` pairs a number with the one half a head further on, llama.cpp with its neighbour, so the
rows of the query and key matrices change places. Gemma and most others keep their order.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from training.adapter_files import Adapter

Rows = npt.NDArray[Any]

NEIGHBOURS = frozenset({"llama", "mistral", "mixtral"})
"""Kinds of model (``model_type``) whose GGUF files pair neighbours."""


def turned_heads(config: Mapping[str, Any]) -> dict[str, int]:
    """Number of heads in each matrix whose rows change places, by kind; empty where none do."""
    if config.get("model_type") not in NEIGHBOURS:
        return {}
    heads = int(config["num_attention_heads"])
    return {"attn_q": heads, "attn_k": int(config.get("num_key_value_heads") or heads)}


def to_neighbours(rows: Rows, heads: int) -> Rows:
    """Rows as ``transformers`` orders them (first halves, then second halves) to llama.cpp's order."""
    return rows.reshape(heads, 2, -1, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def to_halves(rows: Rows, heads: int) -> Rows:
    """The way back."""
    return rows.reshape(heads, -1, 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def adapter_to_gguf(adapter: Adapter, config: Mapping[str, Any]) -> Adapter:
    """Factors as tuned, for adding to the tensors of a GGUF file."""
    return _moved(adapter, turned_heads(config), to_neighbours)


def adapter_from_gguf(adapter: Adapter, config: Mapping[str, Any]) -> Adapter:
    """Factors of an artifact, for adding to the weights of a ``transformers`` model."""
    return _moved(adapter, turned_heads(config), to_halves)


def _moved(adapter: Adapter, heads: Mapping[str, int], move: Any) -> Adapter:
    moved: Adapter = {}
    for name, (a, b) in adapter.items():
        count = heads.get(name.split(".")[2])
        moved[name] = (a, np.ascontiguousarray(move(b, count)) if count else b)
    return moved
