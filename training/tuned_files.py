"""What tuning leaves behind: adapter and heads, written whole or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file, save_file

from app.classification.cart import CartHeads
from app.classification.model_files import cart_heads, cart_tensors
from training.adapter_files import ADAPTER, read_adapter, write_adapter
from training.tuning import Tuned

HEADS = "heads.safetensors"
CART = "cart.safetensors"


def write_tuned(directory: Path, tuned: Tuned) -> None:
    """The heads are written last: with them the result is complete."""
    directory.mkdir(parents=True, exist_ok=True)
    write_adapter(directory / ADAPTER, tuned.adapter)
    tensors: dict[str, npt.NDArray[np.float32]] = {}
    for number, (rows, bias) in enumerate(tuned.heads):
        tensors[f"{number}.rows"], tensors[f"{number}.bias"] = rows, bias
    partial = directory / f"{HEADS}.partial"
    save_file(tensors, partial)
    partial.replace(directory / HEADS)


def read_tuned(directory: Path) -> Tuned | None:
    """The result of an earlier run, or None where there is none."""
    if not (directory / HEADS).is_file():
        return None
    tensors = load_file(directory / HEADS)
    heads = [
        (tensors[f"{number}.rows"], tensors[f"{number}.bias"])
        for number in range(len(tensors) // 2)
    ]
    return Tuned(read_adapter(directory / ADAPTER), heads)


def write_cart_heads(directory: Path, heads: CartHeads) -> None:
    """To be called before :func:`write_tuned`, which completes the result."""
    directory.mkdir(parents=True, exist_ok=True)
    save_file(cart_tensors(heads), directory / CART)


def read_cart_heads(directory: Path) -> CartHeads | None:
    """None where the run learned no carts."""
    if not (directory / CART).is_file():
        return None
    return cart_heads(load_file(directory / CART))
