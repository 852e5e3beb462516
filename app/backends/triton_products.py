"""Kernels in Triton that multiply by packed weights, and that unpack those of words.

Triton's compiler takes every annotation of a kernel for a constant: only ``tl.constexpr`` may stand there.
"""
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-calls=False
# ruff: noqa: ANN001, ANN202

from __future__ import annotations

import triton
import triton.language as tl

from app.backends.triton_steps import gated


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
    PARTS: tl.constexpr,
    GATE: tl.constexpr,
) -> None:
    """States ``x`` (m, k) times signed ``codes`` (n, k): ``out`` (PARTS, m, n), whose sum is the product.

    GROUP % BLOCK_K == 0, and the columns are split evenly. With GATE the product's first half gates the
    second, ``out`` is (1, m, n / 2), and PARTS is 1.
    """
    width = n
    if GATE:
        width = n // 2
    part = k // PARTS
    begin = tl.program_id(2) * part
    rows = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    columns = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    steps = tl.arange(0, BLOCK_K)
    total = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    second = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    inside_m, inside_n = (rows < m)[:, None], columns < width
    for start in range(begin, begin + part, BLOCK_K):
        states = tl.load(x + rows[:, None] * k + (start + steps)[None, :], mask=inside_m, other=0.0)
        total += _byte_part(states, codes, scales, columns, inside_n, start, steps, n, k, GROUP)
        if GATE:
            second += _byte_part(
                states, codes, scales, columns + width, inside_n, start, steps, n, k, GROUP
            )
    if GATE:
        total = gated(total, second)
    where = out + (tl.program_id(2) * m + rows[:, None]) * width + columns[None, :]
    tl.store(where, total.to(out.dtype.element_ty), mask=inside_m & inside_n[None, :])
