"""LoRA factors on disk: safetensors, named after the tensors they change in a GGUF file."""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file, save_file

Adapter: TypeAlias = dict[str, tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]]
"""Tensor name -> ``(a, b)``; the merged weight is ``w + b @ a``."""

ADAPTER = "adapter.safetensors"


def write_adapter(path: Path, adapter: Adapter) -> None:
    """Stored as float16: 2**-11 of relative error, far below that of 4-bit weights."""
    tensors = {}
    for name, (a, b) in adapter.items():
        tensors[f"{name}.lora_a"] = np.ascontiguousarray(a.astype(np.float16))
        tensors[f"{name}.lora_b"] = np.ascontiguousarray(b.astype(np.float16))
    save_file(tensors, path)


def read_adapter(path: Path) -> Adapter:
    tensors = load_file(path)
    names = sorted({name.rpartition(".")[0] for name in tensors})
    return {
        name: (
            tensors[f"{name}.lora_a"].astype(np.float32),
            tensors[f"{name}.lora_b"].astype(np.float32),
        )
        for name in names
    }
