"""What a Gemma decoder does between its matrices, in plain torch: the reference, and what runs on a CPU.

:mod:`app.backends.triton_steps` has the same functions, each as one launch on a GPU. All compute in
float32 and round once, at the end. Gemma scales by one more than the stored weight of a norm.

Most of a GPU has nothing to do in such a step, so each can unpack a :class:`Share` of weights beside it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F


@dataclass(frozen=True, slots=True)
class Share:
    """Signed ``codes``, ``scales`` each of as many of them in a row, and where the ``plain`` weights go."""

    codes: torch.Tensor
    scales: torch.Tensor
    plain: torch.Tensor

    @property
    def group(self) -> int:
        return int(self.codes.numel() // self.scales.numel())


@dataclass(frozen=True, slots=True)
class Table:
    """An embedding's ``rows`` (vocabulary, hidden), times ``factor``, given as ``dtype``.

    With ``scales`` (vocabulary, blocks) the rows are signed codes, as many to a scale.
    """

    rows: torch.Tensor
    scales: torch.Tensor | None
    factor: float
    dtype: torch.dtype


def look_up(ids: torch.Tensor, table: Table) -> torch.Tensor:
    """The rows of ``ids``: (*ids, hidden)."""
    found = table.rows[ids].float()
    if table.scales is None:
        return (found * table.factor).to(table.dtype)
    scales = table.scales[ids].float() * table.factor
    codes = found.unflatten(-1, (scales.shape[-1], -1))
    return (codes * scales.unsqueeze(-1)).flatten(-2).to(table.dtype)


def unpack(share: Share | None) -> None:
    """Write the plain weights of a share, where there is one."""
    if share is not None:
        codes = share.codes.view(-1, share.group).float()
        share.plain.copy_((codes * share.scales.float().view(-1, 1)).view_as(share.plain))


def begin(
    ids: torch.Tensor,
    table: Table,
    weight: torch.Tensor,
    epsilon: float,
    share: Share | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The embedded ``ids``, and the same after an RMS norm (Zhang & Sennrich 2019) of the last axis."""
    unpack(share)
    states = look_up(ids, table)
    return states, _norm(states.float(), weight, epsilon).to(states.dtype)


def join(
    states: torch.Tensor,
    branch: torch.Tensor,
    after: torch.Tensor,
    before: torch.Tensor,
    epsilon: float,
    share: Share | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """``states`` plus the normed ``branch``, and that sum normed for what comes next.

    ``branch`` may come as parts (p, ...) to be added up.
    """
    unpack(share)
    if branch.dim() > states.dim():
        branch = branch.float().sum(0)
    total = states.float() + _norm(branch.float(), after, epsilon)
    return total.to(states.dtype), _norm(total, before, epsilon).to(states.dtype)


def turn(
    mixed: torch.Tensor,
    norms: tuple[torch.Tensor, torch.Tensor],
    angles: tuple[torch.Tensor, torch.Tensor],
    heads: tuple[int, int],
    epsilon: float,
    share: Share | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Queries, keys and values (n, heads, length, size) of ``mixed`` (n, length, all heads * size).

    Queries and keys are normed, then turned by their places (Su et al. 2021): ``angles`` are the cosines
    and sines (length, size / 2). ``heads`` counts those of the queries, and those of keys and values.
    """
    unpack(share)
    queries, others = heads
    every = mixed.unflatten(-1, (queries + 2 * others, -1)).transpose(1, 2)
    query, key, value = every.split((queries, others, others), dim=1)
    return (
        _turned(_norm(query.float(), norms[0], epsilon), *angles).to(mixed.dtype),
        _turned(_norm(key.float(), norms[1], epsilon), *angles).to(mixed.dtype),
        value,
    )


def gate(both: torch.Tensor, share: Share | None = None) -> torch.Tensor:
    """GELU, by its tanh form, of the first half of the last dimension times the second half."""
    unpack(share)
    first, second = both.float().chunk(2, dim=-1)
    return (F.gelu(first, approximate="tanh") * second).to(both.dtype)


def _norm(states: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    scale = torch.rsqrt(states.square().mean(-1, keepdim=True) + epsilon)
    return states * scale * (1.0 + weight)


def _turned(states: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> torch.Tensor:
    low, high = states.chunk(2, dim=-1)
    return torch.cat((low * cosine - high * sine, high * cosine + low * sine), dim=-1)
