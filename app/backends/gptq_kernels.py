"""Ways to multiply by 4-bit weights, and the choice among them.

Each kernel turns a :class:`QuantisedMatrix` into a module with the forward of a linear layer. Which of
them load depends on the device and on what is installed; one that loads is believed only after it has
computed what the plain weights compute.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch.utils.cpp_extension import CUDA_HOME

from app.backends import torch_steps
from app.backends.gptq_checkpoint import QuantisedMatrix
from app.errors import BackendUnavailable

logger = logging.getLogger(__name__)

Build = Callable[[QuantisedMatrix, torch.dtype, torch.device], torch.nn.Module]

_TOLERANCE = 0.02
"""Relative error of a kernel on random input that is taken for rounding."""
_PROVED_ON = (24, 600)
"""States: few and many may be multiplied in different ways."""


class DenseLinear(torch.nn.Module):
    """The weights made plain at load, rounded once to their type: as fast as unquantised ones."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return F.linear(states, self.weight, self.bias)


def _dense(matrix: QuantisedMatrix, dtype: torch.dtype, device: torch.device) -> torch.nn.Module:
    bias = None if matrix.bias is None else matrix.bias.to(device, dtype)
    return DenseLinear(matrix.dense().to(device, dtype), bias)


class Int4Linear(torch.nn.Module):
    """torch's own 4-bit product (``_weight_int4pack_mm``), there without any further package."""

    def __init__(self, matrix: QuantisedMatrix, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        matrix, order = matrix.in_group_order()
        if matrix.bits != 4 or matrix.group_size not in {32, 64, 128, 256}:
            raise ValueError("needs 4 bits and groups of 32, 64, 128 or 256 columns")
        if device.type == "cuda" and dtype != torch.bfloat16:
            raise ValueError("needs bfloat16 on a GPU")
        # The product takes scale * (code - 8) + offset.
        scales = matrix.scales.float()
        offsets = (8 - matrix.zeros().float()) * scales
        self.group_size = matrix.group_size
        self.rows = matrix.rows
        self.register_buffer("order", None if order is None else order.to(device))
        self.register_buffer("bias", None if matrix.bias is None else matrix.bias.to(device, dtype))
        self.register_buffer(
            "scales_and_offsets", torch.stack((scales, offsets), 2).to(device, dtype).contiguous()
        )
        self.register_buffer("codes", _pack(matrix.codes(), device))

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        flat = states.reshape(-1, states.shape[-1])
        if self.order is not None:
            flat = flat[:, self.order]
        multiply = (
            torch.ops.aten._weight_int4pack_mm  # noqa: SLF001 - torch names it so
            if flat.is_cuda
            else torch.ops.aten._weight_int4pack_mm_for_cpu  # noqa: SLF001
        )
        product = multiply(flat.contiguous(), self.codes, self.group_size, self.scales_and_offsets)
        if self.bias is not None:
            product = product + self.bias
        return product.view(*states.shape[:-1], self.rows)


def _pack(codes: torch.Tensor, device: torch.device) -> torch.Tensor:
    if device.type != "cuda":
        pack = torch.ops.aten._convert_weight_to_int4pack_for_cpu  # noqa: SLF001
        return pack(codes.int(), 1)
    tiles = next(t for t in (8, 4, 2) if codes.shape[1] % (16 * t) == 0)
    pairs = (codes[:, ::2] << 4 | codes[:, 1::2]).contiguous().to(device)
    return torch.ops.aten._convert_weight_to_int4pack(pairs, tiles)  # noqa: SLF001


def _of_gptqmodel(file: str, name: str, *, compiled: bool = True) -> Build:
    """A kernel of the package gptqmodel; ``compiled`` ones need a CUDA compiler when first used."""

    def build(matrix: QuantisedMatrix, dtype: torch.dtype, device: torch.device) -> torch.nn.Module:
        if device.type == "cuda" and compiled and CUDA_HOME is None:
            raise ValueError("it is compiled when first used, and there is no CUDA compiler")
        kind: Any = getattr(import_module(f"gptqmodel.nn_modules.qlinear.{file}"), name)
        works, why = kind.validate_once()
        if not works:
            raise ValueError(str(why))
        layer = kind(
            bits=matrix.bits,
            group_size=matrix.group_size,
            desc_act=not matrix.in_order,
            sym=bool((matrix.zeros() == 1 << matrix.bits - 1).all()),
            in_features=matrix.columns,
            out_features=matrix.rows,
            bias=matrix.bias is not None,
            pack_dtype=torch.int32,
            register_buffers=True,
            dtype=dtype,
        )
        stored = {
            "qweight": matrix.qweight,
            "qzeros": matrix.qzeros,
            "scales": matrix.scales,
            "g_idx": matrix.group_of,
            "bias": matrix.bias,
        }
        layer.load_state_dict({k: v for k, v in stored.items() if v is not None}, strict=False)
        if kind.REQUIRES_FORMAT_V2 and not matrix.plain_zeros:
            from gptqmodel.utils.model import convert_gptq_v1_to_v2_format_module

            convert_gptq_v1_to_v2_format_module(layer, matrix.bits, torch.int32)
        layer = layer.to(device).to(dtype).eval()
        layer.post_init(*_scratch(layer, device))
        return cast("torch.nn.Module", layer)

    return build


def _scratch(layer: Any, device: torch.device) -> tuple[Any, ...]:
    """What exllama v2 unpacks into when rows are many."""
    if not hasattr(layer, "scratch_space_fixed"):
        return ()
    from gptqmodel.utils.exllamav2 import ScratchSpace

    return (ScratchSpace(scratch_bytes=layer.scratch_space_fixed(), dev=device),)


class HalfLinear(torch.nn.Module):
    """A kernel that knows float16 only, in a model of another type.

    Gemma's products outgrow float16. Its states are made smaller on the way in by a power of two, which
    costs nothing, and what comes out larger again.
    """

    SMALLER = 16

    def __init__(self, inner: torch.nn.Module, bias: torch.Tensor | None) -> None:
        """``bias`` is what ``inner`` does not add."""
        super().__init__()
        self.inner = inner
        self.register_buffer("bias", bias)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        product = self.inner((states / self.SMALLER).half()).to(states.dtype) * self.SMALLER
        return product if self.bias is None else product + self.bias


def _in_half(build: Build) -> Build:
    def built(matrix: QuantisedMatrix, dtype: torch.dtype, device: torch.device) -> torch.nn.Module:
        if dtype == torch.float16:
            return build(matrix, dtype, device)
        bias = None if matrix.bias is None else matrix.bias.to(device, dtype)
        return HalfLinear(build(replace(matrix, bias=None), torch.float16, device), bias)

    return built


def _triton(matrix: QuantisedMatrix, dtype: torch.dtype, device: torch.device) -> torch.nn.Module:
    from app.backends.gptq_triton import triton_linear

    return triton_linear(matrix, dtype, device)


KERNELS: Mapping[str, Build] = {
    "marlin": _of_gptqmodel("marlin", "MarlinLinear"),
    "triton": _triton,
    "int4": Int4Linear,
    "exllama_v2": _in_half(_of_gptqmodel("exllamav2", "ExllamaV2Linear")),
    "torch": _of_gptqmodel("torch", "TorchLinear", compiled=False),
    "dense": _dense,
}
"""By name: of gptqmodel ``marlin``, ``exllama_v2`` and ``torch``; ours the rest."""

PREFERRED: Mapping[str, tuple[str, ...]] = {
    # Of weights that stay packed. Measured at 8 bits on an H200: Marlin takes 1.2 to 1.7 times as long,
    # and minutes to compile.
    "cuda": ("triton", "marlin", "int4", "dense"),
    "cpu": ("dense",),  # others save memory there, not time
}


def choose_kernel(
    matrices: Sequence[QuantisedMatrix],
    dtype: torch.dtype,
    device: torch.device,
    name: str | None = None,
    plain_bytes: int = 0,
) -> tuple[str, Build]:
    """The first kernel that loads and computes rightly, or the named one.

    Matrices that take at most ``plain_bytes`` as plain numbers are made plain before a kernel for packed
    ones is asked: on an H200 that is fastest. Raises :class:`BackendUnavailable` when there is no kernel.
    """
    plain = sum(matrix.rows * matrix.columns for matrix in matrices) * dtype.itemsize
    first = ("dense",) if plain <= plain_bytes else ()
    names = (name,) if name else tuple(dict.fromkeys((*first, *PREFERRED[device.type])))
    reasons = []
    for candidate in names:
        if candidate not in KERNELS:
            raise BackendUnavailable(f"no kernel {candidate!r}: choose of {', '.join(KERNELS)}")
        try:
            _prove(KERNELS[candidate], matrices, dtype, device)
        except Exception as error:  # noqa: BLE001 - whatever a library says, the next one is tried
            reasons.append(f"{candidate}: {error}")
            logger.info("the kernel %s is not used: %s", candidate, error)
        else:
            logger.info("the kernel %s multiplies by %d matrices", candidate, len(matrices))
            return candidate, KERNELS[candidate]
    raise BackendUnavailable(f"no kernel for these weights on {device}: {'; '.join(reasons)}")


@torch.no_grad()
def _prove(
    build: Build, matrices: Sequence[QuantisedMatrix], dtype: torch.dtype, device: torch.device
) -> None:
    """One matrix of each shape against its plain weights. Raises when they disagree."""
    shapes = {(matrix.rows, matrix.columns): matrix for matrix in matrices}
    for (rows, columns), matrix in shapes.items():
        generator, layer = torch.Generator().manual_seed(1), build(matrix, dtype, device)
        for count in _PROVED_ON:
            states = torch.randn(count, columns, generator=generator).to(dtype)
            expected = states.float() @ matrix.dense().T
            if matrix.bias is not None:
                expected = expected + matrix.bias.float()
            for given, right in _products(layer, states.to(device), expected):
                error = float((given.float().cpu() - right).norm() / right.norm().clamp(min=1e-9))
                if not error <= _TOLERANCE:
                    raise ValueError(f"wrong by {error:.1%} on a matrix of {rows} x {columns}")


def _products(
    layer: Any, states: torch.Tensor, expected: torch.Tensor
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """What the layer makes of states in each of its ways, beside what it should be."""
    yield layer(states), expected
    if hasattr(layer, "summands") and (parts := layer.summands(states)) is not None:
        yield parts.sum(0), expected
    if hasattr(layer, "gated") and (gated := layer.gated(states)) is not None:
        yield gated, torch_steps.gate(expected)
