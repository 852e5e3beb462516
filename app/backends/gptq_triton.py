"""Products with weights of 4 or 8 bits on a GPU, written in Triton, which comes with torch.

Few rows: each block of the grid unpacks its part of the weights on the way into the product, so that a
quarter or half of the bytes is read. Many rows: the weights are unpacked once into a scratch matrix and
multiplied by the library, since arithmetic, not memory, is then what takes time.

Triton's compiler takes every annotation of a kernel for a constant: only ``tl.constexpr`` may stand there.
"""
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-calls=False
# ruff: noqa: ANN001, ANN202

from __future__ import annotations

import torch
import triton
import triton.language as tl

from app.backends.gptq_checkpoint import QuantisedMatrix

FEW_ROWS = 256
"""Up to so many rows are multiplied without unpacking the weights first."""


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


class TritonLinear(torch.nn.Module):
    """A linear layer over packed weights; ``few_rows`` decides between the two ways."""

    def __init__(
        self,
        matrix: QuantisedMatrix,
        dtype: torch.dtype,
        device: torch.device,
        few_rows: int = FEW_ROWS,
    ) -> None:
        super().__init__()
        matrix, order = matrix.in_group_order()
        if matrix.bits == 2 or matrix.group_size % 32 or matrix.columns % matrix.group_size:
            raise ValueError("needs 4 or 8 bits and whole groups of a multiple of 32 columns")
        self.columns, self.rows = matrix.columns, matrix.rows
        self.bits, self.group_size = matrix.bits, matrix.group_size
        self.few_rows = few_rows
        self.register_buffer("order", None if order is None else order.to(device))
        self.register_buffer("bias", None if matrix.bias is None else matrix.bias.to(device, dtype))
        self.register_buffer("codes", matrix.qweight.to(device).contiguous())
        self.register_buffer("scales", matrix.scales.to(device).contiguous())
        self.register_buffer("zeros", matrix.zeros().to(device).contiguous())

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        flat = states.reshape(-1, self.columns)
        if self.order is not None:
            flat = flat[:, self.order]
        product = (
            self.multiply(flat.contiguous())
            if len(flat) <= self.few_rows
            else flat @ self.unpacked(flat.dtype)
        )
        if self.bias is not None:
            product = product + self.bias
        return product.view(*states.shape[:-1], self.rows)

    def multiply(
        self, flat: torch.Tensor, block_n: int | None = None, warps: int = 4, stages: int = 4
    ) -> torch.Tensor:
        """States (m, columns) times the weights, which are unpacked on the way."""
        m = len(flat)
        out = torch.empty(m, self.rows, dtype=flat.dtype, device=flat.device)
        block_m = 16 if m <= 16 else 32 if m <= 32 else 64
        # Narrow blocks for few rows: otherwise most of the GPU would have nothing to do.
        block_n = block_n or (16 if m <= 32 else 32 if m <= 64 else 64)
        grid = (triton.cdiv(self.rows, block_n), triton.cdiv(m, block_m))
        multiply_kernel[grid](
            flat,
            self.codes,
            self.scales,
            self.zeros,
            out,
            m,
            self.rows,
            self.columns,
            BITS=self.bits,
            GROUP=self.group_size,
            BLOCK_M=block_m,
            BLOCK_N=block_n,
            BLOCK_K=_step(self.group_size),
            num_warps=warps,
            num_stages=stages,
        )
        return out

    def unpacked(self, dtype: torch.dtype) -> torch.Tensor:
        """The plain weights (columns, rows), in memory that is free again after their use."""
        out = torch.empty(self.columns, self.rows, dtype=dtype, device=self.codes.device)
        step = min(_step(self.group_size), 64)
        grid = (triton.cdiv(self.rows, 128), self.columns // step)
        unpack_kernel[grid](
            self.codes,
            self.scales,
            self.zeros,
            out,
            self.rows,
            BITS=self.bits,
            GROUP=self.group_size,
            BLOCK_N=128,
            BLOCK_K=step,
        )
        return out


def _step(group_size: int) -> int:
    """The largest power of two up to 128 that divides the group."""
    return min(group_size & -group_size, 128)
