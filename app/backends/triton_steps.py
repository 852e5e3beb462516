"""The functions of :mod:`app.backends.torch_steps` in Triton, one launch each.

With few messages a GPU waits for launches, not for arithmetic: what plain torch does between two matrices
are twenty of them. Some programs of each launch unpack what later products need, where that is asked.

Triton's compiler takes every annotation of a kernel for a constant: only ``tl.constexpr`` may stand there.
"""
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-calls=False
# ruff: noqa: ANN001, ANN201, ANN202

from __future__ import annotations

import torch
import triton
import triton.language as tl

from app.backends.torch_steps import Share, Table
from app.backends.triton_unpacking import beside, unpacking

_WIDE = 1024
"""Numbers of a row that one program of :func:`gate` takes."""


@triton.jit
def _normed(states, weight, size, epsilon):
    scale = tl.rsqrt(tl.sum(states * states, axis=0) / size + epsilon)
    return states * scale * (1.0 + weight)


@triton.jit
def begin_kernel(
    ids,
    rows,
    row_scales,
    weight,
    states,
    normed_out,
    size,
    factor,
    epsilon,
    codes,
    scales,
    plain,
    pieces,
    GROUP: tl.constexpr,
    WIDTH: tl.constexpr,
    PIECES: tl.constexpr,
    SCALED: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """A program for each id. With SCALED, rows are codes, SCALED of them to a scale."""
    program = beside(codes, scales, plain, pieces, GROUP, WIDTH, PIECES)
    if program >= 0:
        row = tl.load(ids + program)
        place = tl.arange(0, BLOCK)
        inside = place < size
        given = tl.load(rows + row * size + place, mask=inside, other=0).to(tl.float32)
        if SCALED > 0:
            block = row * (size // SCALED) + place // SCALED
            given *= tl.load(row_scales + block, mask=inside, other=0.0).to(tl.float32) * factor
        else:
            given *= factor
        found = given.to(states.dtype.element_ty)
        tl.store(states + program * size + place, found, mask=inside)
        scale = tl.load(weight + place, mask=inside, other=0.0)
        normed = _normed(found.to(tl.float32), scale, size, epsilon)
        tl.store(
            normed_out + program * size + place,
            normed.to(normed_out.dtype.element_ty),
            mask=inside,
        )


@triton.jit
def join_kernel(
    states,
    branch,
    after,
    before,
    total_out,
    normed_out,
    count,
    size,
    epsilon,
    codes,
    scales,
    plain,
    pieces,
    GROUP: tl.constexpr,
    WIDTH: tl.constexpr,
    PIECES: tl.constexpr,
    PARTS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """A program for each row. ``branch`` comes in parts of ``count`` numbers, to be added up."""
    program = beside(codes, scales, plain, pieces, GROUP, WIDTH, PIECES)
    if program >= 0:
        row = program * size
        place = tl.arange(0, BLOCK)
        inside = place < size
        given = tl.load(branch + row + place, mask=inside, other=0.0).to(tl.float32)
        for part in tl.static_range(1, PARTS):
            more = tl.load(branch + part * count + row + place, mask=inside, other=0.0)
            given += more.to(tl.float32)
        total = tl.load(states + row + place, mask=inside, other=0.0).to(tl.float32)
        total += _normed(given, tl.load(after + place, mask=inside, other=0.0), size, epsilon)
        tl.store(total_out + row + place, total.to(total_out.dtype.element_ty), mask=inside)
        normed = _normed(total, tl.load(before + place, mask=inside, other=0.0), size, epsilon)
        tl.store(normed_out + row + place, normed.to(normed_out.dtype.element_ty), mask=inside)


@triton.jit
def turn_kernel(
    mixed,
    query_norm,
    key_norm,
    cosine,
    sine,
    query,
    key,
    length,
    queries,
    others,
    half,
    epsilon,
    codes,
    scales,
    plain,
    pieces,
    GROUP: tl.constexpr,
    WIDTH: tl.constexpr,
    PIECES: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """A program for each token and head, of the queries first, then of the keys."""
    program = beside(codes, scales, plain, pieces, GROUP, WIDTH, PIECES)
    if program >= 0:
        token, head = program // (queries + others), program % (queries + others)
        position = token % length
        place = tl.arange(0, BLOCK)
        inside = place < half
        start = mixed + (token * (queries + 2 * others) + head) * 2 * half
        low = tl.load(start + place, mask=inside, other=0.0).to(tl.float32)
        high = tl.load(start + half + place, mask=inside, other=0.0).to(tl.float32)
        scale = tl.rsqrt(tl.sum(low * low + high * high, axis=0) / (2 * half) + epsilon)
        if head < queries:
            weight = query_norm
            out = query + (token * queries + head) * 2 * half
        else:
            weight = key_norm
            out = key + (token * others + head - queries) * 2 * half
        low *= scale * (1.0 + tl.load(weight + place, mask=inside, other=0.0))
        high *= scale * (1.0 + tl.load(weight + half + place, mask=inside, other=0.0))
        cos = tl.load(cosine + position * half + place, mask=inside, other=0.0)
        sin = tl.load(sine + position * half + place, mask=inside, other=0.0)
        kind = query.dtype.element_ty
        tl.store(out + place, (low * cos - high * sin).to(kind), mask=inside)
        tl.store(out + half + place, (high * cos + low * sin).to(kind), mask=inside)


@triton.jit
def gated(first, second):
    """GELU, by its tanh form, of ``first`` times ``second``."""
    # (1 + tanh u) / 2 is the sigmoid of 2 u.
    twice = 1.5957691216057308 * (first + 0.044715 * first * first * first)
    return first * tl.sigmoid(twice) * second


@triton.jit
def gate_kernel(
    both,
    out,
    size,
    codes,
    scales,
    plain,
    pieces,
    GROUP: tl.constexpr,
    WIDTH: tl.constexpr,
    PIECES: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """A program for each row and part of it."""
    program = beside(codes, scales, plain, pieces, GROUP, WIDTH, PIECES)
    if program >= 0:
        parts = tl.cdiv(size, BLOCK)
        row = program // parts
        place = program % parts * BLOCK + tl.arange(0, BLOCK)
        inside = place < size
        first = tl.load(both + row * 2 * size + place, mask=inside, other=0.0).to(tl.float32)
        second = tl.load(both + (row * 2 + 1) * size + place, mask=inside, other=0.0).to(tl.float32)
        tl.store(
            out + row * size + place, gated(first, second).to(out.dtype.element_ty), mask=inside
        )


def begin(
    ids: torch.Tensor,
    table: Table,
    weight: torch.Tensor,
    epsilon: float,
    share: Share | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """As :func:`app.backends.torch_steps.begin`."""
    ids, size = ids.contiguous(), table.rows.shape[-1]
    states = weight.new_empty(*ids.shape, size, dtype=table.dtype)
    normed = torch.empty_like(states)
    scaled = 0 if table.scales is None else size // table.scales.shape[-1]
    more, given = unpacking(share)
    begin_kernel[(more + ids.numel(),)](
        ids, table.rows, table.scales, weight, states, normed, size, table.factor, epsilon, **given,
        SCALED=scaled, BLOCK=triton.next_power_of_2(size),
    )  # fmt: skip
    return states, normed


def join(
    states: torch.Tensor,
    branch: torch.Tensor,
    after: torch.Tensor,
    before: torch.Tensor,
    epsilon: float,
    share: Share | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """As :func:`app.backends.torch_steps.join`."""
    states, branch = states.contiguous(), branch.contiguous()
    total, normed, size = torch.empty_like(states), torch.empty_like(states), states.shape[-1]
    more, given = unpacking(share)
    join_kernel[(more + states.numel() // size,)](
        states, branch, after, before, total, normed, states.numel(), size, epsilon, **given,
        PARTS=branch.numel() // states.numel(), BLOCK=triton.next_power_of_2(size),
    )  # fmt: skip
    return total, normed


def turn(
    mixed: torch.Tensor,
    norms: tuple[torch.Tensor, torch.Tensor],
    angles: tuple[torch.Tensor, torch.Tensor],
    heads: tuple[int, int],
    epsilon: float,
    share: Share | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """As :func:`app.backends.torch_steps.turn`; the values are a view of ``mixed``.

    A token's heads lie side by side, and so does what attention makes of them: the product behind it
    needs no copy.
    """
    mixed = mixed.contiguous()
    rows, length, width = mixed.shape
    queries, others = heads
    size = width // (queries + 2 * others)
    query = mixed.new_empty(rows, length, queries, size)
    key = mixed.new_empty(rows, length, others, size)
    more, given = unpacking(share)
    turn_kernel[(more + rows * length * (queries + others),)](
        mixed, *norms, *angles, query, key, length, queries, others, size // 2, epsilon, **given,
        BLOCK=triton.next_power_of_2(size // 2),
    )  # fmt: skip
    value = mixed.unflatten(-1, (queries + 2 * others, size))[:, :, queries + others :]
    return query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)


def gate(both: torch.Tensor, share: Share | None = None) -> torch.Tensor:
    """As :func:`app.backends.torch_steps.gate`."""
    both = both.contiguous()
    size = both.shape[-1] // 2
    out = both.new_empty(*both.shape[:-1], size)
    block = min(_WIDE, triton.next_power_of_2(size))
    more, given = unpacking(share)
    programs = more + out.numel() // size * triton.cdiv(size, block)
    gate_kernel[(programs,)](both, out, size, **given, BLOCK=block)
    return out
