"""A decoder without its output layer, put together from a checkpoint: quantised, or not for comparison."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from transformers import AutoConfig, AutoModel

from app.backends import torch_attention, torch_gemma
from app.backends.gptq_checkpoint import Checkpoint
from app.backends.gptq_kernels import choose_kernel
from app.backends.torch_gemma import Tensors

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
        states: torch.Tensor = self.module(ids)
        return states

    @property
    def weight_bytes(self) -> int:
        tensors = [*self.module.parameters(), *self.module.buffers()]
        return sum(tensor.nbytes for tensor in tensors)


def load_decoder(
    directory: Path,
    device: torch.device,
    dtype: torch.dtype,
    kernel: str | None = None,
    *,
    joined: bool = True,
) -> Decoder:
    """A decoder on ``device``. ``kernel`` is chosen by what loads unless it is named.

    ``joined`` computes models of Gemma's kind in few steps (:mod:`app.backends.torch_gemma`). Of any other
    model, and without it, ``transformers`` computes all but the products. Raises
    :class:`app.errors.ArtifactError` on a checkpoint that is not whole and
    :class:`app.errors.BackendUnavailable` when no kernel loads.
    """
    checkpoint = Checkpoint(directory)
    config = AutoConfig.from_pretrained(directory, local_files_only=True)
    if hasattr(config, "quantization_config"):
        del config.quantization_config  # else transformers would set about it in its own way
    stored, matrices = checkpoint.read()
    tensors = Tensors(stored, directory.name)
    joined = joined and torch_gemma.fits(config)
    if joined:
        matrices = torch_gemma.joined(matrices)
    chosen, linears = UNQUANTISED, dict[str, torch.nn.Module]()
    if matrices:
        chosen, build = choose_kernel(list(matrices.values()), dtype, device, kernel)
        linears = {name: build(matrix, dtype, device) for name, matrix in matrices.items()}
    module: torch.nn.Module
    if joined:
        embedding = _gemma_embedding(config, tensors, dtype, in_bytes=bool(matrices))
        steps = torch_gemma.choose_steps(device, dtype)
        module = torch_gemma.Gemma(config, tensors, linears, embedding, dtype, steps)
    else:
        module = _Transformers(config, tensors, linears, dtype)
    tensors.end()
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


class _Transformers(torch.nn.Module):
    """A model as ``transformers`` computes it, with ``linears`` in the places of their matrices."""

    def __init__(
        self,
        config: Any,
        tensors: Tensors,
        linears: Mapping[str, torch.nn.Module],
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        with init_empty_weights(include_buffers=False):
            self.inner: Any = AutoModel.from_config(
                config, dtype=dtype, attn_implementation=torch_attention.register()
            )
        for name, linear in linears.items():
            self.inner.set_submodule(name, linear, strict=True)
        if linears:
            self._keep_bytes(tensors, dtype)
        for name, empty in list(self.inner.named_parameters()):
            if not empty.is_meta:
                continue
            owner, _, attribute = name.rpartition(".")
            value = tensors.take(name, tuple(empty.shape)).to(dtype)
            parameter = torch.nn.Parameter(value, requires_grad=False)
            setattr(self.inner.get_submodule(owner), attribute, parameter)

    def _keep_bytes(self, tensors: Tensors, dtype: torch.dtype) -> None:
        """The embedding table in 8 bits, if it was made of them."""
        table: Any = self.inner.get_input_embeddings()
        name = next(name for name, part in self.inner.named_modules() if part is table)
        stored = tensors.look(f"{name}.weight", tuple(table.weight.shape))
        # Gemma multiplies what it looks up; others do not.
        factor = float(getattr(table, "scalar_embed_scale", 1.0))
        with suppress(ValueError):
            self.inner.set_input_embeddings(ByteEmbedding(stored, dtype, factor))
            tensors.take(f"{name}.weight", tuple(table.weight.shape))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        states: torch.Tensor = self.inner(input_ids=ids, use_cache=False).last_hidden_state
        return states


def _gemma_embedding(
    config: Any, tensors: Tensors, dtype: torch.dtype, *, in_bytes: bool
) -> torch.nn.Module:
    """What Gemma looks up is multiplied by the root of its width."""
    table = tensors.take("embed_tokens.weight", (config.vocab_size, config.hidden_size))
    factor = float(config.hidden_size) ** 0.5
    if in_bytes:
        with suppress(ValueError):
            return ByteEmbedding(table, dtype, factor)
    return ScaledEmbedding(table.to(dtype), factor)


class ScaledEmbedding(torch.nn.Module):
    """An embedding table (vocabulary, hidden); what is looked up is times ``factor``."""

    def __init__(self, table: torch.Tensor, factor: float) -> None:
        super().__init__()
        self.register_buffer("table", table)
        self.factor = factor

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.table[ids]
        return found * self.factor


class ByteEmbedding(torch.nn.Module):
    """An embedding table of 8-bit codes with one scale for 32 of them, as GGUF's Q8_0.

    A table of many languages is larger than all 4-bit matrices together, and packaged bases come with
    such codes. Raises ``ValueError`` where the table was not made of any: then they would lose something.
    That shows in the stored numbers only: bfloat16 rounds them further than half a step.
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
