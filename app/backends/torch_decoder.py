"""A decoder without its output layer, put together from a checkpoint: quantised, or not for comparison."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from transformers import AutoConfig, AutoModel

from app.backends import torch_attention
from app.backends.gptq_checkpoint import Checkpoint
from app.backends.gptq_kernels import choose_kernel
from app.errors import FileDamaged

_BLOCK = 32
_OFF_GRID = 0.3
"""Steps that 16 bits may have rounded a code away from its place."""
UNQUANTISED = "unquantised"


@dataclass(frozen=True, slots=True)
class Decoder:
    """``module`` maps token ids (rows, length) to states (rows, length, hidden) after the final norm."""

    module: torch.nn.Module
    device: torch.device
    dtype: torch.dtype
    kernel: str
    """The kernel of the quantised matrices, or ``unquantised``."""
    hidden_size: int
    trained_context: int
    vocabulary: int

    def __call__(self, ids: torch.Tensor) -> torch.Tensor:
        states: torch.Tensor = self.module(input_ids=ids, use_cache=False).last_hidden_state
        return states

    @property
    def weight_bytes(self) -> int:
        tensors = [*self.module.parameters(), *self.module.buffers()]
        return sum(tensor.nbytes for tensor in tensors)


def load_decoder(
    directory: Path, device: torch.device, dtype: torch.dtype, kernel: str | None = None
) -> Decoder:
    """A decoder on ``device``. ``kernel`` is chosen by what loads unless it is named.

    Raises :class:`app.errors.ArtifactError` on a checkpoint that is not whole and
    :class:`app.errors.BackendUnavailable` when no kernel loads.
    """
    checkpoint = Checkpoint(directory)
    config = AutoConfig.from_pretrained(directory, local_files_only=True)
    if hasattr(config, "quantization_config"):
        del config.quantization_config  # else transformers would set about it in its own way
    tensors, matrices = checkpoint.read()
    with init_empty_weights(include_buffers=False):
        module: Any = AutoModel.from_config(
            config, dtype=dtype, attn_implementation=torch_attention.register()
        )
    chosen = UNQUANTISED
    if matrices:
        chosen, build = choose_kernel(list(matrices.values()), dtype, device, kernel)
        for name, matrix in matrices.items():
            module.set_submodule(name, build(matrix, dtype, device), strict=True)
        _keep_bytes(module, tensors, dtype)
    _fill(module, tensors, dtype, directory.name)
    module.to(device).eval().requires_grad_(requires_grad=False)
    return Decoder(
        module,
        device,
        dtype,
        chosen,
        hidden_size=int(config.hidden_size),
        trained_context=int(config.max_position_embeddings),
        vocabulary=int(config.vocab_size),
    )


def _keep_bytes(
    module: torch.nn.Module, tensors: dict[str, torch.Tensor], dtype: torch.dtype
) -> None:
    """The embedding table in 8 bits, if it was made of them.

    That shows in the stored numbers only: bfloat16 rounds them further than half a step.
    """
    table: Any = module.get_input_embeddings()
    name = next(name for name, part in module.named_modules() if part is table)
    stored = tensors.get(f"{name}.weight")
    if stored is None or stored.shape != table.weight.shape:
        return
    # Gemma multiplies what it looks up; others do not.
    factor = float(getattr(table, "scalar_embed_scale", 1.0))
    with suppress(ValueError):
        module.set_input_embeddings(ByteEmbedding(stored, dtype, factor))
        del tensors[f"{name}.weight"]


def _fill(
    module: torch.nn.Module, tensors: dict[str, torch.Tensor], dtype: torch.dtype, source: str
) -> None:
    """Put stored tensors in the places of the empty ones. Raises :class:`FileDamaged` unless all fit."""
    for name, empty in list(module.named_parameters()):
        stored = tensors.pop(name, None)
        if not empty.is_meta:
            continue
        if stored is None or stored.shape != empty.shape:
            found = "nothing" if stored is None else tuple(stored.shape)
            raise FileDamaged(f"{source}: {name} is {found}, the model needs {tuple(empty.shape)}")
        owner, _, attribute = name.rpartition(".")
        value = torch.nn.Parameter(stored.to(dtype), requires_grad=False)
        setattr(module.get_submodule(owner), attribute, value)
    unknown = sorted(name for name in tensors if not name.endswith("rotary_emb.inv_freq"))
    if unknown:
        raise FileDamaged(f"{source}: the model has no place for {unknown[0]}")


class ByteEmbedding(torch.nn.Module):
    """An embedding table of 8-bit codes with one scale for 32 of them, as GGUF's Q8_0.

    A table of many languages is larger than all 4-bit matrices together, and packaged bases come with
    such codes. Raises ``ValueError`` where the table was not made of any: then they would lose something.
    """

    def __init__(self, table: torch.Tensor, dtype: torch.dtype, factor: float = 1.0) -> None:
        """``table`` (vocabulary, hidden) as it was stored; what is looked up is times ``factor``."""
        super().__init__()
        weight = table.float()
        if weight.shape[1] % _BLOCK:
            raise ValueError(f"rows of {weight.shape[1]} are not whole blocks")
        blocks = weight.view(len(weight), -1, _BLOCK)
        scales = (blocks.abs().amax(dim=2) / 127).to(torch.float16)
        least = torch.finfo(torch.float16).smallest_normal
        places = blocks / scales.float().clamp(min=least).unsqueeze(2)
        codes = places.round().clamp(-127, 127)
        if float((places - codes).abs().max()) > _OFF_GRID:
            raise ValueError("the table was not made of 8-bit codes")
        self.register_buffer("codes", codes.to(torch.int8).flatten(1))
        self.register_buffer("scales", scales)
        self.factor = factor
        self.dtype = dtype

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        codes = self.codes[ids].float().unflatten(-1, (-1, _BLOCK))
        scales = self.scales[ids].float() * self.factor
        return (codes * scales.unsqueeze(-1)).flatten(-2).to(self.dtype)
