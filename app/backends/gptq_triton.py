"""Products with weights of 4 or 8 bits on a GPU, written in Triton, which comes with torch.

Few states: each block of the grid unpacks its part of the weights on the way into the product, so that a
quarter or half of the bytes is read. Many: the weights are unpacked first and multiplied by the library,
since arithmetic, not memory, is then what takes time.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F
import triton

from app.backends.gptq_checkpoint import QuantisedMatrix
from app.backends.torch_steps import Share
from app.backends.triton_products import byte_kernel, multiply_kernel, unpack_kernel
from app.backends.triton_unpacking import WIDEST, byte_unpack_kernel, unpacking, widest_step

FEW_STATES = 1 << 18
"""Up to so many numbers, of all rows, are multiplied without unpacking the weights first."""
_BYTE, _MIDDLE = 8, 128


def triton_linear(
    matrix: QuantisedMatrix, dtype: torch.dtype, device: torch.device
) -> TritonLinear:
    """The layer for a matrix. Raises ``ValueError`` for bits and groups that no kernel knows."""
    matrix, order = matrix.in_group_order()
    if matrix.bits == 2 or matrix.group_size % 32 or matrix.columns % matrix.group_size:
        raise ValueError("needs 4 or 8 bits and whole groups of a multiple of 32 columns")
    signed = matrix.bits == _BYTE and bool((matrix.zeros() == _MIDDLE).all())
    kind = ByteLinear if signed else WordLinear
    layer: TritonLinear = kind(matrix, order, dtype).to(device)
    return layer


class TritonLinear(torch.nn.Module, ABC):
    """A linear layer over packed weights (rows, columns)."""

    def __init__(
        self, matrix: QuantisedMatrix, order: torch.Tensor | None, dtype: torch.dtype
    ) -> None:
        """``order`` is that in which states have the columns of the matrix."""
        super().__init__()
        self.columns, self.rows = matrix.columns, matrix.rows
        self.group_size = matrix.group_size
        self.few_states = FEW_STATES
        self.plain: torch.Tensor | None = None
        """The same weights unpacked, while someone has them ready (:mod:`app.backends.torch_unpacking`)."""
        self.register_buffer("order", order)
        self.register_buffer("bias", None if matrix.bias is None else matrix.bias.to(dtype))

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        flat = states.reshape(-1, self.columns)
        if self.order is not None:
            flat = flat[:, self.order]
        if self._few(flat):
            product = self.multiply(flat.contiguous())
        else:
            plain = self.unpacked(flat.dtype) if self.plain is None else self.plain
            product = F.linear(flat, plain)
        if self.bias is not None:
            product = product + self.bias
        return product.view(*states.shape[:-1], self.rows)

    def _few(self, states: torch.Tensor) -> bool:
        return self.plain is None and states.numel() <= self.few_states

    @abstractmethod
    def multiply(self, flat: torch.Tensor) -> torch.Tensor:
        """States (m, columns) times the weights, which are unpacked on the way."""

    @abstractmethod
    def unpacked(self, dtype: torch.dtype) -> torch.Tensor:
        """The plain weights (rows, columns), in memory that is free again after their use."""


class WordLinear(TritonLinear):
    """Codes as they are stored, several in a word."""

    def __init__(
        self, matrix: QuantisedMatrix, order: torch.Tensor | None, dtype: torch.dtype
    ) -> None:
        super().__init__(matrix, order, dtype)
        self.bits = matrix.bits
        self.register_buffer("codes", matrix.qweight.contiguous())
        self.register_buffer("scales", matrix.scales.contiguous())
        self.register_buffer("zeros", matrix.zeros().contiguous())

    def multiply(self, flat: torch.Tensor) -> torch.Tensor:
        out = torch.empty(len(flat), self.rows, dtype=flat.dtype, device=flat.device)
        blocks = blocks_for(len(flat), self.rows)
        multiply_kernel[_grid(blocks, len(flat), self.rows)](
            flat, self.codes, self.scales, self.zeros, out, len(flat), self.rows, self.columns,
            BITS=self.bits, GROUP=self.group_size, **_constants(blocks, self.group_size),
        )  # fmt: skip
        return out

    def unpacked(self, dtype: torch.dtype) -> torch.Tensor:
        out = torch.empty(self.columns, self.rows, dtype=dtype, device=self.codes.device)
        step = min(widest_step(self.group_size), 64)
        unpack_kernel[(triton.cdiv(self.rows, 128), self.columns // step)](
            self.codes, self.scales, self.zeros, out, self.rows,
            BITS=self.bits, GROUP=self.group_size, BLOCK_N=128, BLOCK_K=step,
        )  # fmt: skip
        return out.T


class ByteLinear(TritonLinear):
    """Bytes around the middle, as GPTQ writes 8 bits by default, as signed numbers, row by row.

    The same memory as in words, nothing to unpack, and a group is scaled after its product.
    """

    def __init__(
        self, matrix: QuantisedMatrix, order: torch.Tensor | None, dtype: torch.dtype
    ) -> None:
        super().__init__(matrix, order, dtype)
        codes = (matrix.codes().to(torch.int16) - _MIDDLE).to(torch.int8)
        self.register_buffer("codes", codes.contiguous())
        self.register_buffer("scales", matrix.scales.contiguous())
        # A second time, as the codes lie: a hundredth of their memory.
        self.register_buffer("row_scales", matrix.scales.T.contiguous())

    def multiply(self, flat: torch.Tensor) -> torch.Tensor:
        return self._product(flat, self.rows, blocks_for(len(flat), self.rows))[0]

    def summands(self, states: torch.Tensor) -> torch.Tensor | None:
        """Parts (p, ..., rows) that add up to the product; None where that takes another step."""
        if not self._in_one_step(states):
            return None
        flat = states.reshape(-1, self.columns).contiguous()
        found = self._product(flat, self.rows, blocks_for(len(flat), self.rows, self.columns))
        return found.view(-1, *states.shape[:-1], self.rows)

    def gated(self, states: torch.Tensor) -> torch.Tensor | None:
        """The product's first half, by GELU, times its second; None where that takes another step."""
        if not self._in_one_step(states):
            return None
        flat, half = states.reshape(-1, self.columns).contiguous(), self.rows // 2
        found = self._product(flat, half, blocks_for(len(flat), half, gate=True))
        return found.view(*states.shape[:-1], half)

    def _in_one_step(self, states: torch.Tensor) -> bool:
        return self.order is None and self.bias is None and self._few(states)

    def _product(self, flat: torch.Tensor, width: int, blocks: Blocks) -> torch.Tensor:
        """(parts, m, width), several parts in float32; of half the matrix' rows, gated."""
        m, kind = len(flat), flat.dtype if blocks.parts == 1 else torch.float32
        out = torch.empty(blocks.parts, m, width, dtype=kind, device=flat.device)
        byte_kernel[_grid(blocks, m, width)](
            flat, self.codes, self.scales, out, m, self.rows, self.columns,
            GROUP=self.group_size, PARTS=blocks.parts, GATE=width < self.rows,
            **_constants(blocks, self.group_size),
        )  # fmt: skip
        return out

    def unpacked(self, dtype: torch.dtype) -> torch.Tensor:
        out = torch.empty(self.codes.shape, dtype=dtype, device=self.codes.device)
        self.unpack(self.codes, self.row_scales, out)
        return out

    @staticmethod
    def unpack(codes: torch.Tensor, scales: torch.Tensor, out: torch.Tensor) -> None:
        """Plain weights of codes and of their scales, each in a row: of one matrix or of several."""
        programs, given = unpacking(Share(codes, scales, out))
        byte_unpack_kernel[(programs,)](**given)


@dataclass(frozen=True, slots=True)
class Blocks:
    """What one program computes, (m, n) numbers, with how many warps and loads ahead; ``parts`` programs
    share the columns of the same numbers.
    """

    m: int
    n: int
    warps: int = 4
    stages: int = 3
    parts: int = 1


_FEWEST, _FEW = 48, 96
_LONG, _PARTS = 1024, 4
_LARGEST_FIRST = (
    Blocks(128, 64), Blocks(64, 64), Blocks(64, 32), Blocks(32, 32), Blocks(32, 16),
)  # fmt: skip
_LEAST_PROGRAMS = 80
"""Fewer leave too much of a GPU without work."""


def blocks_for(m: int, n: int, columns: int = 0, *, gate: bool = False) -> Blocks:
    """Blocks of a product of (m, n) numbers; ``columns`` is given where it may come in parts.

    Up to 96 states as an H200 was fastest with in whole passes of Gemma 3 270M, each product's blocks
    tried in turn; above, the largest that there are enough of.
    """
    parts = _PARTS if columns >= _LONG and columns % (_PARTS * WIDEST) == 0 else 1
    if m <= _FEWEST:
        return Blocks(16, 32, parts=parts)
    if m <= _FEW:
        return Blocks(64, 32) if gate else Blocks(32, 32, parts=parts)
    for blocks in _LARGEST_FIRST:
        if (
            blocks.m < 2 * m
            and triton.cdiv(m, blocks.m) * triton.cdiv(n, blocks.n) >= _LEAST_PROGRAMS
        ):
            return blocks
    return _LARGEST_FIRST[-1]


def _grid(blocks: Blocks, m: int, n: int) -> tuple[int, int, int]:
    return triton.cdiv(n, blocks.n), triton.cdiv(m, blocks.m), blocks.parts


def _constants(blocks: Blocks, group_size: int) -> dict[str, int]:
    return {
        "BLOCK_M": blocks.m,
        "BLOCK_N": blocks.n,
        "BLOCK_K": widest_step(group_size),
        "num_warps": blocks.warps,
        "num_stages": blocks.stages,
    }
