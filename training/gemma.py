"""Gemma 3 in plain torch, for training in little time: LoRA is folded into the weights once a step.

The layers are those of ``transformers``' ``Gemma3TextModel`` (Gemma Team 2025, arXiv 2503.19786), written
without its general machinery, so that a step launches a third of the kernels. Weights come by their
names in a GGUF file, where norms already have their one added. Nothing is served from here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file

from app.errors import FileDamaged

MATRICES = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
"""Of a layer, in the order in which they are used; LoRA changes all of them."""
NORMS = (
    "attn_norm",
    "attn_q_norm",
    "attn_k_norm",
    "post_attention_norm",
    "ffn_norm",
    "post_ffw_norm",
)
_GLOBAL_EVERY = 6
_NAMES = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
"""Of ``transformers``, by those of a GGUF file."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What the tensors alone do not tell. ``bidirectional``: as EmbeddingGemma attends."""

    head_dim: int = 256
    eps: float = 1e-6
    window: int = 512
    """Tokens that near attention sees: the last ones, or half as many to each side."""
    local_theta: float = 1e4
    global_theta: float = 1e6
    bidirectional: bool = False


class Gemma(torch.nn.Module):
    """Token ids to states. ``layers`` picks some of the layers, by their numbers in the file.

    ``table`` (vocabulary, hidden) is the embedding. Frozen weights stay in float32, the work is done in
    bfloat16. ``compiled``: a layer is two compiled functions and its attention, for which the first steps
    take a minute longer; on a GPU the rest then takes half the time, for norms, rotations and gates are
    computed without a way to memory and back for each. ``rounded`` takes the name and the values of a
    matrix and answers what they will be where they are served: training sees that, and what it learns
    goes to the values as they are.
    """

    def __init__(
        self,
        tensors: Mapping[str, torch.Tensor],
        table: torch.Tensor,
        *,
        layers: Sequence[int] | None = None,
        shape: Shape | None = None,
        rank: int = 0,
        alpha: float = 2.0,
        seed: int = 0,
        compiled: bool = False,
        rounded: Callable[[str, torch.Tensor], torch.Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.shape = shape or Shape()
        self.hidden = table.shape[1]
        count = 1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("blk."))
        self.layers = tuple(range(count) if layers is None else layers)
        self.names = [f"blk.{i}.{kind}.weight" for i in self.layers for kind in MATRICES]
        """Of the matrices that are tuned, in the order of :attr:`factors`."""
        self.table = table
        self._frozen = {name: tensors[name] for name in self.names}
        self._norms = {n: t for n, t in tensors.items() if n.endswith("norm.weight")}
        self.scale = alpha
        self.factors = torch.nn.ParameterList()
        generator = torch.Generator().manual_seed(seed)
        for name in self.names if rank else ():
            out, width = tensors[name].shape
            a = torch.randn(rank, width, generator=generator) / math.sqrt(width)
            self.factors.append(torch.nn.Parameter(a.to(table.device)))
            self.factors.append(torch.nn.Parameter(torch.zeros(out, rank, device=table.device)))
        self.merged: dict[str, torch.Tensor] = {}
        self._rounded = rounded
        self._compiled = compiled
        self._before = torch.compile(_before) if compiled else _before
        self._after = torch.compile(_after) if compiled else _after

    def merge(self, trainable: bool = False) -> None:
        """Fold the factors into bfloat16 weights, ``trainable`` ones for :meth:`collect`."""
        for number, name in enumerate(self.names):
            weight = self._frozen[name]
            if len(self.factors):
                a, b = self.factors[2 * number].data, self.factors[2 * number + 1].data
                weight = torch.addmm(weight, b, a, alpha=self.scale)
            if trainable and self._rounded is not None:
                weight = self._rounded(name, weight)
            self.merged[name] = weight.bfloat16().requires_grad_(trainable)

    def collect(self) -> list[torch.Tensor]:
        """Gradients of the factors from those of the merged weights, which are forgotten."""
        found = []
        for number, name in enumerate(self.names):
            grad = self.merged[name].grad
            a, b = self.factors[2 * number].data, self.factors[2 * number + 1].data
            grad = torch.zeros_like(self._frozen[name]) if grad is None else grad.float()
            found += [self.scale * (b.T @ grad), self.scale * (grad @ a.T)]
            self.merged[name].grad = None
        return found

    def forward(self, ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """States (n, t, hidden), float32, of right-padded ``ids`` (n, t) with ``lengths`` (n,)."""
        x = self._embed(ids)
        turns = {theta: self._turns(theta, ids.shape[1]) for theta in self._thetas}
        self._any_shape(x, turns)
        masks = self._masks(ids.shape[1], lengths)
        for place in range(len(self.layers)):
            matrices, norms, theta, mask = self._layer(place, masks)
            q, k, v = self._before(x, matrices[:3], norms[:3], turns[theta], self.shape)
            x = self._after(x, self._attend(q, k, v, mask), matrices[3:], norms[3:], self.shape)
        return _norm(x, self._norms["output_norm.weight"], self.shape.eps)

    def continued(
        self, ids: torch.Tensor, lengths: torch.Tensor, texts: torch.Tensor, behind: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """States of beginnings, as of :meth:`forward`, and of ``texts`` (m, s) that go on from them.

        Text ``i`` stands ``behind[i]``, a row of ``ids``, and sees nothing else: many texts a beginning
        are read for the price of one. Causal models only.
        """
        x, y = self._embed(ids), self._embed(texts)
        longest, size = ids.shape[1], texts.shape[1]
        turns, later = {}, {}
        places = lengths[behind, None] + torch.arange(size, device=texts.device)
        for theta in self._thetas:
            cosine, sine = self._turns(theta, longest + size)
            turns[theta] = cosine[:longest], sine[:longest]
            later[theta] = cosine[places][:, None], sine[places][:, None]
        self._any_shape(x, turns)
        self._any_shape(y, later)
        masks = self._masks(longest, lengths)
        later_masks = self._later_masks(longest, lengths[behind], places)
        for place in range(len(self.layers)):
            matrices, norms, theta, mask = self._layer(place, masks)
            q, k, v = self._before(x, matrices[:3], norms[:3], turns[theta], self.shape)
            x = self._after(x, self._attend(q, k, v, mask), matrices[3:], norms[3:], self.shape)
            mask = self._layer(place, later_masks)[-1]
            q, *own = self._before(y, matrices[:3], norms[:3], later[theta], self.shape)
            k, v = (torch.cat([old[behind], new], 2) for old, new in zip((k, v), own, strict=True))
            y = self._after(y, self._attend(q, k, v, mask), matrices[3:], norms[3:], self.shape)
        last = self._norms["output_norm.weight"]
        return _norm(x, last, self.shape.eps), _norm(y, last, self.shape.eps)

    @property
    def _thetas(self) -> tuple[float, float]:
        return self.shape.local_theta, self.shape.global_theta

    def _embed(self, ids: torch.Tensor) -> torch.Tensor:
        return F.embedding(ids, self.table).float() * math.sqrt(self.hidden)

    def _turns(self, theta: float, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        return _rotation(length, self.shape.head_dim, theta, self.table.device)

    def _any_shape(
        self, x: torch.Tensor, turns: Mapping[float, tuple[torch.Tensor, torch.Tensor]]
    ) -> None:
        """Rows and lengths are what the first batch is not to be compiled for alone."""
        if not self._compiled:
            return
        from torch._dynamo import maybe_mark_dynamic  # takes seconds to import

        maybe_mark_dynamic(x, (0, 1))
        for tables in turns.values():
            for table in tables:
                maybe_mark_dynamic(table, (0, 2) if table.dim() > 2 else 0)

    def _layer(
        self, place: int, masks: tuple[torch.Tensor | None, ...]
    ) -> tuple[list[torch.Tensor], list[torch.Tensor], float, torch.Tensor | None]:
        """Matrices, norms, how far places turn apart, and which of the masks (near, far) it takes."""
        name = f"blk.{self.layers[place]}"
        everywhere = place % _GLOBAL_EVERY == _GLOBAL_EVERY - 1
        return (
            [self.merged[f"{name}.{kind}.weight"] for kind in MATRICES],
            [self._norms[f"{name}.{kind}.weight"] for kind in NORMS],
            self._thetas[everywhere],
            masks[everywhere],
        )

    def _attend(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None
    ) -> torch.Tensor:
        k, v = (heads.expand(-1, q.shape[1], -1, -1) for heads in (k, v))
        causal = mask is None and not self.shape.bidirectional
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)

    def _masks(self, length: int, lengths: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """For near and for far attention; None is plainly causal, which never looks at padding."""
        places = torch.arange(length, device=lengths.device)
        distance = places[:, None] - places
        if self.shape.bidirectional:
            far = (places < lengths[:, None])[:, None, None, :]
            if length <= self.shape.window // 2 + 1:
                return far, far
            # A token always sees itself: what padding says is never read, but it must be a number.
            return far & (distance.abs() <= self.shape.window // 2) | (distance == 0), far
        if length <= self.shape.window:
            return None, None
        return (distance >= 0) & (distance < self.shape.window), None

    def _later_masks(
        self, longest: int, begun: torch.Tensor, places: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Near and far (m, 1, s, longest + s): texts at ``places`` (m, s) behind ``begun`` (m,) tokens."""
        before = torch.arange(longest, device=places.device).expand(len(places), -1)
        seen = torch.cat([before, places], 1)
        real = torch.cat([before < begun[:, None], torch.ones_like(places, dtype=torch.bool)], 1)
        distance = places[:, :, None] - seen[:, None]
        far = (real[:, None] & (distance >= 0))[:, None]
        return far & (distance < self.shape.window)[:, None], far


def read_checkpoint(
    path: Path, device: torch.device | str
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """``transformers``' safetensors in float32, by the names of a GGUF file; and the embedding.

    Raises :class:`FileDamaged` for what is no checkpoint of a Gemma 3.
    """
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise FileDamaged(f"{path.name} is unreadable: {error}") from error
    table = None
    found = {}
    for stored_name, stored in tensors.items():
        name, tensor = stored_name.removeprefix("model."), stored.float().to(device)
        if name == "embed_tokens.weight":
            table = tensor
        elif name == "norm.weight":
            found["output_norm.weight"] = tensor + 1
        else:
            _, layer, rest = [*name.split(".", 2), "", ""][:3]
            kind = _NAMES.get(rest.removesuffix(".weight"))
            if kind is None:
                raise FileDamaged(f"{path.name}: {stored_name} is no tensor of a Gemma 3")
            found[f"blk.{layer}.{kind}.weight"] = tensor + 1 if kind.endswith("norm") else tensor
    if table is None:
        raise FileDamaged(f"{path.name} has no embedding")
    return found, table


def last_states(states: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Of each row's last token (n, hidden), at length sqrt(hidden)."""
    rows = torch.arange(len(states), device=states.device)
    return unit_states(states[rows, lengths - 1])


def unit_states(states: torch.Tensor) -> torch.Tensor:
    """States at length sqrt(hidden), as heads read them."""
    return F.normalize(states.float(), dim=-1) * math.sqrt(states.shape[-1])


def padded(
    rows: Sequence[Sequence[int]], device: torch.device | str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids (n, longest), padded on the right with zeros, and lengths (n,)."""
    lengths = [len(row) for row in rows]
    ids = np.zeros((len(rows), max(lengths)), np.int64)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
    return torch.from_numpy(ids).to(device), torch.tensor(lengths).to(device)


def _before(
    x: torch.Tensor,
    matrices: Sequence[torch.Tensor],
    norms: Sequence[torch.Tensor],
    turn: tuple[torch.Tensor, torch.Tensor],
    shape: Shape,
) -> tuple[torch.Tensor, ...]:
    """Queries, keys and values (n, heads, t, size) of states (n, t, hidden): a layer up to its attention.

    Matrices and norms come in the order of :data:`MATRICES` and :data:`NORMS`.
    """
    attn_norm, q_norm, k_norm = norms
    n, t, _ = x.shape
    h = _norm(x, attn_norm, shape.eps).bfloat16()
    q, k, v = (
        F.linear(h, weight).view(n, t, -1, shape.head_dim).transpose(1, 2) for weight in matrices
    )
    q = _turn(_norm(q, q_norm, shape.eps), turn).bfloat16()
    k = _turn(_norm(k, k_norm, shape.eps), turn).bfloat16()
    return q, k, v


def _after(
    x: torch.Tensor,
    h: torch.Tensor,
    matrices: Sequence[torch.Tensor],
    norms: Sequence[torch.Tensor],
    shape: Shape,
) -> torch.Tensor:
    """The rest of the layer, from what its attention has seen, ``h`` (n, heads, t, size)."""
    attn_output, ffn_gate, ffn_up, ffn_down = matrices
    post_attention_norm, ffn_norm, post_ffw_norm = norms
    h = F.linear(h.transpose(1, 2).flatten(2), attn_output)
    x = x + _norm(h, post_attention_norm, shape.eps)
    h = _norm(x, ffn_norm, shape.eps).bfloat16()
    h = F.gelu(F.linear(h, ffn_gate), approximate="tanh") * F.linear(h, ffn_up)
    return x + _norm(F.linear(h, ffn_down), post_ffw_norm, shape.eps)


def _norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    return F.rms_norm(x.float(), (len(weight),), weight, eps)


def _rotation(
    length: int, width: int, theta: float, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    rates = theta ** (-torch.arange(0, width, 2, device=device, dtype=torch.float32) / width)
    angles = torch.arange(length, device=device, dtype=torch.float32)[:, None] * rates
    angles = torch.cat([angles, angles], dim=1)
    return angles.cos(), angles.sin()


def _turn(x: torch.Tensor, turn: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Rotary positions (Su et al. 2021), halves of a head turned against each other."""
    half = x.shape[-1] // 2
    turned = torch.cat([-x[..., half:], x[..., :half]], dim=-1)
    return x * turn[0] + turned * turn[1]
