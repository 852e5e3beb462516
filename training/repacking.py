"""The matrices that CPUs serve, in AutoGPTQ's checkpoint format: the same numbers, packed for GPUs.

A GGUF block is 32 small whole numbers and a scale in 16 bits; so is a group of 32 columns in a GPTQ
checkpoint of 8 bits. Nothing is rounded again, so a GPU answers as a CPU does (docs/decisions/0033).
Blocks: https://github.com/ggml-org/llama.cpp, ``ggml-common.h``.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from gguf import GGMLQuantizationType
from safetensors.torch import load_file

from app.artifacts.four_bits import CODES
from app.artifacts.manifest import read_json
from app.backends.gguf_file import Bytes, GgufFile
from app.backends.gguf_quantise import dequantise, quantise
from app.backends.gptq_checkpoint import pack
from training.gptq import GptqConfig, write_auto_gptq
from training.layouts import to_halves, turned_heads
from training.tuning import GGUF_MODULES

BLOCK = 32
_ZERO = 128
"""The code of 0; checkpoints store it less one."""
_CODES = np.array(CODES, np.int8)

Codes = npt.NDArray[np.int8]
Scales = npt.NDArray[np.float16]


def repack(gguf: Path, merged: Path, config: GptqConfig, out: Path) -> None:
    """Write the matrices of ``gguf`` and everything else of the model directory ``merged`` to ``out``.

    Types other than Q8_0 and IQ4_NL are stored as Q8_0 first, which loses next to nothing.
    """
    weights = GgufFile(gguf)
    heads = turned_heads(read_json(merged / "config.json"))
    tensors: dict[str, torch.Tensor] = {}
    for path in sorted(merged.glob("*.safetensors")):
        tensors |= load_file(path)
    for name in [name for name in tensors if name.endswith("_proj.weight")]:
        layer, module = name.partition("layers.")[2].removesuffix(".weight").split(".", 1)
        kind = GGUF_MODULES[module]
        info = weights.tensors[f"blk.{layer}.{kind}.weight"]
        codes, scales = split_blocks(weights.rows(info.name, 0, info.rows), info.type)
        if kind in heads:
            codes, scales = (to_halves(part, heads[kind]) for part in (codes, scales))
        del tensors[name]
        tensors |= {
            f"{name.removesuffix('weight')}{part}": tensor
            for part, tensor in packed(codes, scales).items()
        }
    out.mkdir()
    write_auto_gptq(tensors, merged, out, config, BLOCK)


def split_blocks(stored: Bytes, kind: GGMLQuantizationType) -> tuple[Codes, Scales]:
    """Codes (rows, columns) and scales (rows, columns / 32) of stored rows, uint8 (rows, row bytes)."""
    if kind not in {GGMLQuantizationType.Q8_0, GGMLQuantizationType.IQ4_NL}:
        stored = quantise(dequantise(stored, kind), GGMLQuantizationType.Q8_0)
        kind = GGMLQuantizationType.Q8_0
    rows = len(stored)
    size = 2 + (BLOCK if kind == GGMLQuantizationType.Q8_0 else BLOCK // 2)
    blocks = np.ascontiguousarray(stored).reshape(rows, -1, size)
    scales = blocks[:, :, :2].copy().view(np.float16)[:, :, 0]
    numbers = blocks[:, :, 2:]
    if kind == GGMLQuantizationType.Q8_0:
        codes = numbers.view(np.int8)
    else:  # The first half of a block lies in the low four bits.
        codes = _CODES[np.concatenate([numbers & 15, numbers >> 4], axis=2)]
    return codes.reshape(rows, -1), scales


def packed(codes: Codes, scales: Scales) -> dict[str, torch.Tensor]:
    """The four tensors of a matrix, as :class:`app.backends.gptq_checkpoint.QuantisedMatrix` reads them."""
    rows, columns = codes.shape
    numbers = torch.from_numpy(codes.astype(np.int16) + _ZERO)
    zeros = torch.full((columns // BLOCK, rows), _ZERO - 1)
    return {
        "qweight": pack(numbers, 8).T.contiguous(),
        "qzeros": pack(zeros, 8),
        "scales": torch.from_numpy(scales.T.copy()),
        "g_idx": torch.arange(columns, dtype=torch.int32) // BLOCK,
    }
