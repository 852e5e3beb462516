"""Embedding tables: as they were stored, or in the 8-bit codes that they were made of."""

from __future__ import annotations

from contextlib import suppress

import torch

from app.backends.torch_steps import Table, look_up

BLOCK = 32
"""Codes to a scale, as in GGUF's Q8_0."""
_OFF_GRID = 0.3
"""Steps that 16 bits may have rounded a code away from its place."""


class Embedding(torch.nn.Module):
    """Token ids to rows of a :class:`Table`."""

    rows: torch.Tensor
    scales: torch.Tensor | None

    def __init__(
        self,
        rows: torch.Tensor,
        dtype: torch.dtype,
        factor: float = 1.0,
        scales: torch.Tensor | None = None,
    ) -> None:
        """``rows`` (vocabulary, hidden); with ``scales`` (vocabulary, hidden / 32) they are codes, int8."""
        super().__init__()
        self.register_buffer("rows", rows.to(dtype) if scales is None else rows)
        self.register_buffer("scales", scales)
        self._factor, self._dtype = factor, dtype

    @classmethod
    def stored(cls, table: torch.Tensor, dtype: torch.dtype, factor: float = 1.0) -> Embedding:
        """As codes where the ``table`` was made of them, else as ``dtype``."""
        with suppress(ValueError):
            return cls.in_bytes(table, dtype, factor)
        return cls(table, dtype, factor)

    @classmethod
    def in_bytes(cls, table: torch.Tensor, dtype: torch.dtype, factor: float = 1.0) -> Embedding:
        """``table`` (vocabulary, hidden), as it was stored, in the codes that it was made of.

        A table of many languages is larger than all 4-bit matrices together, and packaged bases come with
        such codes. Raises ``ValueError`` where the table was not made of any: then they would lose
        something. That shows in the stored numbers only: bfloat16 rounds them further than half a step.
        """
        weight = table.float()
        if weight.shape[1] % BLOCK:
            raise ValueError(f"rows of {weight.shape[1]} are not whole blocks")
        blocks = weight.view(len(weight), -1, BLOCK)
        scales = (blocks.abs().amax(dim=2) / 127).to(torch.float16)
        least = torch.finfo(torch.float16).smallest_normal
        places = blocks / scales.float().clamp(min=least).unsqueeze(2)
        codes = places.round().clamp(-127, 127)
        if float((places - codes).abs().max()) > _OFF_GRID:
            raise ValueError("the table was not made of 8-bit codes")
        return cls(codes.to(torch.int8).flatten(1), dtype, factor, scales)

    @property
    def table(self) -> Table:
        """Where its rows are now."""
        return Table(self.rows, self.scales, self._factor, self._dtype)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return look_up(ids, self.table)
