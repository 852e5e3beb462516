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
from app.backends.torch_embedding import Embedding
from app.backends.torch_gemma import Tensors

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
        return bytes_of(self.module)


def bytes_of(module: torch.nn.Module) -> int:
    """What its weights take, and what they are unpacked into."""
    return sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))


def load_decoder(
    directory: Path,
    device: torch.device,
    dtype: torch.dtype,
    kernel: str | None = None,
    *,
    joined: bool = True,
    plain_bytes: int = 0,
) -> Decoder:
    """A decoder on ``device``. ``kernel`` is chosen unless it is named, as :func:`choose_kernel` does.

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
        chosen, build = choose_kernel(list(matrices.values()), dtype, device, kernel, plain_bytes)
        linears = {name: build(matrix, dtype, device) for name, matrix in matrices.items()}
    module: torch.nn.Module
    if joined:
        table = tensors.take("embed_tokens.weight", (config.vocab_size, config.hidden_size))
        # Gemma multiplies what it looks up by the root of its width.
        make = Embedding.stored if matrices else Embedding
        embedding = make(table, dtype, float(config.hidden_size) ** 0.5)
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
            self.inner.set_input_embeddings(Embedding.in_bytes(stored, dtype, factor))
            tensors.take(f"{name}.weight", tuple(table.weight.shape))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        states: torch.Tensor = self.inner(input_ids=ids, use_cache=False).last_hidden_state
        return states
