"""Weights of 8 bits made plain in Triton: a launch of its own, or beside another step in the same launch.

Triton's compiler takes every annotation of a kernel for a constant: only ``tl.constexpr`` may stand there.
"""
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-calls=False
# ruff: noqa: ANN001, ANN201, ANN202

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from app.backends.torch_steps import Share

WIDEST = 128
AT_ONCE = 16 * WIDEST
"""Numbers that one program unpacks: an H200 was fastest so."""


@triton.jit
def _unpack(
    program,
    codes,
    scales,
    plain,
    pieces,
    GROUP: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
):
    piece = program * BLOCK + tl.arange(0, BLOCK)
    place = piece[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :]
    inside = piece < pieces
    weights = tl.load(codes + place, mask=inside[:, None], other=0).to(tl.float32)
    scale = tl.load(scales + piece * WIDTH // GROUP, mask=inside, other=0.0).to(tl.float32)
    weights *= scale[:, None]
    tl.store(plain + place, weights.to(plain.dtype.element_ty), mask=inside[:, None])


@triton.jit
def byte_unpack_kernel(
    codes,
    scales,
    plain,
    pieces,
    GROUP: tl.constexpr,
    WIDTH: tl.constexpr,
    PIECES: tl.constexpr,
) -> None:
    """``plain`` weights of signed ``codes``, GROUP of them in a row to a scale.

    They are taken in ``pieces`` of WIDTH, PIECES at a time. GROUP % WIDTH == 0
    """
    _unpack(tl.program_id(0), codes, scales, plain, pieces, GROUP, WIDTH, PIECES)


@triton.jit
def beside(
    codes, scales, plain, pieces, GROUP: tl.constexpr, WIDTH: tl.constexpr, PIECES: tl.constexpr
):
    """The first programs of a step's launch unpack, where there is a GROUP, as :func:`byte_unpack_kernel`.

    Returns the program's number among the others: it is below 0 in one that has unpacked.
    """
    program = tl.program_id(0)
    if GROUP > 0:
        unpacking = tl.cdiv(pieces, PIECES)
        if program < unpacking:
            _unpack(program, codes, scales, plain, pieces, GROUP, WIDTH, PIECES)
        program -= unpacking
    return program


def widest_step(group: int) -> int:
    """Numbers at a time: the largest power of two that divides the group, up to 128."""
    return min(group & -group, WIDEST)


def unpacking(share: Share | None) -> tuple[int, dict[str, Any]]:
    """Programs that a share needs, and what a kernel is to be told of it."""
    if share is None:
        nothing = dict.fromkeys(("codes", "scales", "plain"))
        return 0, {**nothing, "pieces": 0, "GROUP": 0, "WIDTH": 1, "PIECES": 1}
    width = widest_step(share.group)
    pieces, at_once = share.codes.numel() // width, AT_ONCE // width
    return triton.cdiv(pieces, at_once), {
        "codes": share.codes, "scales": share.scales, "plain": share.plain, "pieces": pieces,
        "GROUP": share.group, "WIDTH": width, "PIECES": at_once,
    }  # fmt: skip
