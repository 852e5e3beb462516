"""Products with weights of 4 or 8 bits on a GPU, written in Triton, which comes with torch.

Few rows: each block of the grid unpacks its part of the weights on the way into the product, so that a
quarter or half of the bytes is read. Many rows: the weights are unpacked once into a scratch matrix and
multiplied by the library, since arithmetic, not memory, is then what takes time.

Bytes around the middle, as GPTQ writes 8 bits by default, are kept as signed numbers, a row of weights
side by side, instead of packed words: the same memory, nothing to unpack, and a group is scaled after its
product. All others stay packed.

Triton's compiler takes every annotation of a kernel for a constant: only ``tl.constexpr`` may stand there.
"""
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-calls=False
# ruff: noqa: ANN001, ANN202

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
import triton
import triton.language as tl

from app.backends.gptq_checkpoint import QuantisedMatrix
from app.backends.triton_steps import gated

FEW_STATES = 1 << 18
"""Up to so many numbers, of all rows, are multiplied without unpacking the weights first."""
_LEAST_PROGRAMS = 80
"""Fewer leave too much of a GPU without work."""
_BYTE, _MIDDLE = 8, 128
_LEAST_BLOCK = 16
"""Of columns: less is no product of matrices for the hardware."""


@triton.jit
def _weights(
    q,
    scales,
    zeros,
    at_k,
    at_n,
    group,
    n,
    inside,
    BITS: tl.constexpr,
):
    """The plain weights at rows ``at_k`` (a column of places) and columns ``at_n`` (a row)."""
    words = tl.load(q + (at_k // (32 // BITS)) * n + at_n, mask=inside, other=0)
    codes = (words >> ((at_k % (32 // BITS)) * BITS)) & ((1 << BITS) - 1)
    scale = tl.load(scales + group * n + at_n, mask=inside, other=0.0)
    zero = tl.load(zeros + group * n + at_n, mask=inside, other=0)
    return (codes - zero.to(tl.int32)).to(tl.float32) * scale.to(tl.float32)


@triton.jit
def multiply_kernel(
    x,
    q,
    scales,
    zeros,
    out,
    m,
    n,
    k,
    BITS: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
) -> None:
    """States ``x`` (m, k) times packed weights ``q`` (words, n): ``out`` (m, n). GROUP % BLOCK_K == 0."""
    rows = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    columns = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    steps = tl.arange(0, BLOCK_K)
    total = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    inside_m, inside_n = (rows < m)[:, None], (columns < n)[None, :]
    for start in range(0, k, BLOCK_K):
        states = tl.load(x + rows[:, None] * k + (start + steps)[None, :], mask=inside_m, other=0.0)
        weights = _weights(
            q,
            scales,
            zeros,
            (start + steps)[:, None],
            columns[None, :],
            start // GROUP,
            n,
            inside_n,
            BITS,
        )
        total = tl.dot(states, weights.to(states.dtype), total)
    where = out + rows[:, None] * n + columns[None, :]
    tl.store(where, total.to(out.dtype.element_ty), mask=inside_m & inside_n)


@triton.jit
def unpack_kernel(
    q,
    scales,
    zeros,
    out,
    n,
    BITS: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
) -> None:
    """Plain weights ``out`` (k, n) of packed ones ``q`` (words, n)."""
    start = tl.program_id(1) * BLOCK_K
    columns = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    steps = start + tl.arange(0, BLOCK_K)
    inside = (columns < n)[None, :]
    weights = _weights(
        q, scales, zeros, steps[:, None], columns[None, :], start // GROUP, n, inside, BITS
    )
    where = out + steps[:, None] * n + columns[None, :]
    tl.store(where, weights.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _byte_part(states, codes, scales, columns, inside, start, steps, n, k, GROUP: tl.constexpr):
    """What some columns of states add to a product with the rows ``columns`` of signed ``codes``."""
    places = columns[None, :] * k + (start + steps)[:, None]
    weights = tl.load(codes + places, mask=inside[None, :], other=0).to(states.dtype)
    scale = tl.load(scales + start // GROUP * n + columns, mask=inside, other=0.0)
    return tl.dot(states, weights) * scale.to(tl.float32)[None, :]


@triton.jit
def byte_kernel(
    x,
    codes,
    scales,
    out,
    m,
    n,
    k,
    GROUP: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
) -> None:
    """States ``x`` (m, k) times signed ``codes`` (n, k): ``out`` (m, n). GROUP % BLOCK_K == 0."""
    rows = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    columns = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    steps = tl.arange(0, BLOCK_K)
    total = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    inside_m, inside_n = (rows < m)[:, None], columns < n
    for start in range(0, k, BLOCK_K):
        states = tl.load(x + rows[:, None] * k + (start + steps)[None, :], mask=inside_m, other=0.0)
        total += _byte_part(states, codes, scales, columns, inside_n, start, steps, n, k, GROUP)
    where = out + rows[:, None] * n + columns[None, :]
    tl.store(where, total.to(out.dtype.element_ty), mask=inside_m & inside_n[None, :])


@triton.jit
def byte_gate_kernel(
    x,
    codes,
    scales,
    out,
    m,
    n,
    k,
    GROUP: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
) -> None:
    """The first half of the product of :func:`byte_kernel` gates the second: ``out`` (m, n / 2)."""
    half = n // 2
    rows = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    columns = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    steps = tl.arange(0, BLOCK_K)
    first = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    second = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    inside_m, inside_n = (rows < m)[:, None], columns < half
    for start in range(0, k, BLOCK_K):
        states = tl.load(x + rows[:, None] * k + (start + steps)[None, :], mask=inside_m, other=0.0)
        first += _byte_part(states, codes, scales, columns, inside_n, start, steps, n, k, GROUP)
        second += _byte_part(
            states, codes, scales, columns + half, inside_n, start, steps, n, k, GROUP
        )
    where = out + rows[:, None] * half + columns[None, :]
    gate = gated(first, second).to(out.dtype.element_ty)
    tl.store(where, gate, mask=inside_m & inside_n[None, :])


@triton.jit
def byte_unpack_kernel(
    codes,
    scales,
    out,
    n,
    k,
    GROUP: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
) -> None:
    """Plain weights ``out`` (n, k) of signed ``codes`` (n, k)."""
    start = tl.program_id(1) * BLOCK_K
    columns = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    places = columns[:, None] * k + (start + tl.arange(0, BLOCK_K))[None, :]
    inside = columns < n
    weights = tl.load(codes + places, mask=inside[:, None], other=0).to(tl.float32)
    scale = tl.load(scales + start // GROUP * n + columns, mask=inside, other=0.0)
    weights = weights * scale.to(tl.float32)[:, None]
    tl.store(out + places, weights.to(out.dtype.element_ty), mask=inside[:, None])


class TritonLinear(torch.nn.Module):
    """A linear layer over packed weights; ``few_states`` decides between the two ways."""

    def __init__(
        self,
        matrix: QuantisedMatrix,
        dtype: torch.dtype,
        device: torch.device,
        few_states: int = FEW_STATES,
    ) -> None:
        super().__init__()
        matrix, order = matrix.in_group_order()
        if matrix.bits == 2 or matrix.group_size % 32 or matrix.columns % matrix.group_size:
            raise ValueError("needs 4 or 8 bits and whole groups of a multiple of 32 columns")
        self.columns, self.rows = matrix.columns, matrix.rows
        self.bits, self.group_size = matrix.bits, matrix.group_size
        self.few_states = few_states
        self.plain: torch.Tensor | None = None
        """The same weights unpacked, while someone has them ready (:mod:`app.backends.torch_ahead`)."""
        self.register_buffer("order", None if order is None else order.to(device))
        self.register_buffer("bias", None if matrix.bias is None else matrix.bias.to(device, dtype))
        self.register_buffer("scales", matrix.scales.to(device).contiguous())
        zeros = matrix.zeros()
        self.in_bytes = matrix.bits == _BYTE and bool((zeros == _MIDDLE).all())
        if self.in_bytes:
            signed = (matrix.codes().to(torch.int16) - _MIDDLE).to(torch.int8)
            self.register_buffer("codes", signed.to(device).contiguous())
        else:
            self.register_buffer("codes", matrix.qweight.to(device).contiguous())
            self.register_buffer("zeros", zeros.to(device).contiguous())

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        flat = states.reshape(-1, self.columns)
        if self.order is not None:
            flat = flat[:, self.order]
        if self.plain is None and flat.numel() <= self.few_states:
            product = self.multiply(flat.contiguous())
        else:
            plain = self.plain if self.plain is not None else self.unpack_into(self._room(flat))
            product = F.linear(flat, plain)
        if self.bias is not None:
            product = product + self.bias
        return product.view(*states.shape[:-1], self.rows)

    def gated(self, states: torch.Tensor) -> torch.Tensor | None:
        """The product's first half, by GELU, times its second; None where that is no single step."""
        alone = self.in_bytes and self.order is None and self.bias is None
        if not alone or self.plain is not None or states.numel() > self.few_states:
            return None
        half, flat = self.rows // 2, states.reshape(-1, self.columns).contiguous()
        out = torch.empty(len(flat), half, dtype=flat.dtype, device=flat.device)
        blocks = blocks_for(len(flat), self.rows)
        blocks = replace(blocks, n=max(blocks.n // 2, _LEAST_BLOCK))  # of each of the halves
        grid = (triton.cdiv(half, blocks.n), triton.cdiv(len(flat), blocks.m))
        sizes = (len(flat), self.rows, self.columns)
        byte_gate_kernel[grid](
            flat, self.codes, self.scales, out, *sizes, **self._constants(blocks)
        )
        return out.view(*states.shape[:-1], half)

    def multiply(self, flat: torch.Tensor, blocks: Blocks | None = None) -> torch.Tensor:
        """States (m, columns) times the weights, which are unpacked on the way."""
        m = len(flat)
        out = torch.empty(m, self.rows, dtype=flat.dtype, device=flat.device)
        blocks = blocks or blocks_for(m, self.rows)
        grid = (triton.cdiv(self.rows, blocks.n), triton.cdiv(m, blocks.m))
        constants = self._constants(blocks)
        sizes = (m, self.rows, self.columns)
        if self.in_bytes:
            byte_kernel[grid](flat, self.codes, self.scales, out, *sizes, **constants)
        else:
            multiply_kernel[grid](
                flat, self.codes, self.scales, self.zeros, out, *sizes, BITS=self.bits, **constants
            )
        return out

    def _constants(self, blocks: Blocks) -> dict[str, int]:
        return {
            "GROUP": self.group_size,
            "BLOCK_M": blocks.m,
            "BLOCK_N": blocks.n,
            "BLOCK_K": _step(self.group_size),
            "num_warps": blocks.warps,
            "num_stages": blocks.stages,
        }

    def _room(self, like: torch.Tensor) -> torch.Tensor:
        return torch.empty(self.rows * self.columns, dtype=like.dtype, device=like.device)

    def unpack_into(self, room: torch.Tensor) -> torch.Tensor:
        """The plain weights (rows, columns), laid into ``room`` (rows * columns,)."""
        step = min(_step(self.group_size), 64)
        grid = (triton.cdiv(self.rows, 128), self.columns // step)
        constants = {"GROUP": self.group_size, "BLOCK_N": 128, "BLOCK_K": step}
        if self.in_bytes:
            sizes = (self.rows, self.columns)
            byte_unpack_kernel[grid](self.codes, self.scales, room, *sizes, **constants)
            return room.view(self.rows, self.columns)
        unpack_kernel[grid](
            self.codes, self.scales, self.zeros, room, self.rows, BITS=self.bits, **constants
        )
        return room.view(self.columns, self.rows).T


@dataclass(frozen=True, slots=True)
class Blocks:
    """What one program computes, (m, n) numbers, with how many warps and loads ahead."""

    m: int
    n: int
    warps: int = 4
    stages: int = 3


_LARGEST_FIRST = (
    Blocks(128, 64), Blocks(64, 64), Blocks(64, 32), Blocks(32, 32), Blocks(32, 16),
)  # fmt: skip
_SMALLEST = Blocks(16, 16, warps=2)


def blocks_for(m: int, n: int) -> Blocks:
    """The largest blocks that a product of (m, n) numbers has enough of.

    Measured on an H200 with every size in turn: in each of 20 cases up to 256 rows what this takes was
    the fastest, or within 4% of it.
    """
    for blocks in _LARGEST_FIRST:
        count = triton.cdiv(m, blocks.m) * triton.cdiv(n, blocks.n)
        if blocks.m < 2 * m and count >= _LEAST_PROGRAMS:
            return blocks
    return _SMALLEST


def _step(group_size: int) -> int:
    """The largest power of two up to 128 that divides the group."""
    return min(group_size & -group_size, 128)
