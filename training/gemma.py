"""Gemma 3 in plain torch, for training in little time: changes are folded into the weights once a step.

The layers are those of ``transformers``' ``Gemma3TextModel`` (Gemma Team 2025, arXiv 2503.19786), written
without its general machinery, so that a step launches a third of the kernels. Weights come by their
names in a GGUF file, where norms already have their one added. Nothing is served from here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file

from app.errors import FileDamaged
from training.changes import Change
from training.padding import Begun, Behind, Real

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

    ``change`` answers with what may change of a matrix, from its name and its values.

    ``dropout`` is the share of what attention and the gated product add to a state that is left out, at
    random, until :meth:`eval` (Srivastava et al. 2014).
    """

    def __init__(
        self,
        tensors: Mapping[str, torch.Tensor],
        table: torch.Tensor,
        *,
        layers: Sequence[int] | None = None,
        shape: Shape | None = None,
        change: Callable[[str, torch.Tensor], Change] | None = None,
        compiled: bool = False,
        rounded: Callable[[str, torch.Tensor], torch.Tensor] | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.shape = shape or Shape()
        self._dropout = dropout
        self.hidden = table.shape[1]
        count = 1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("blk."))
        self.layers = tuple(range(count) if layers is None else layers)
        self.names = [f"blk.{i}.{kind}.weight" for i in self.layers for kind in MATRICES]
        """Of the matrices that are tuned."""
        self.table = table
        self._frozen = {name: tensors[name] for name in self.names}
        self._norms = {n: t for n, t in tensors.items() if n.endswith("norm.weight")}
        self.changes = (
            {name: change(name, self._frozen[name]) for name in self.names} if change else {}
        )
        """By :attr:`names`; none: the weights stay as they are."""
        self.factors = torch.nn.ParameterList(
            p for made in self.changes.values() for p in made.parameters
        )
        self.merged: dict[str, torch.Tensor] = {}
        self._rounded = rounded
        self._compiled = compiled
        self._before = torch.compile(_before) if compiled else _before
        self._after = torch.compile(_after) if compiled else _after

    def merge(self, trainable: bool = False) -> None:
        """Fold the changes into bfloat16 weights, ``trainable`` ones for :meth:`collect`."""
        for name in self.names:
            weight = self._frozen[name]
            if name in self.changes:
                weight = self.changes[name].to(weight)
            if trainable and self._rounded is not None:
                weight = self._rounded(name, weight)
            self.merged[name] = weight.bfloat16().requires_grad_(trainable)

    def collect(self) -> list[torch.Tensor]:
        """Gradients of what is learned from those of the merged weights, which are forgotten."""
        found = []
        for name, change in self.changes.items():
            grad = self.merged[name].grad
            grad = torch.zeros_like(self._frozen[name]) if grad is None else grad.float()
            found += change.gradients(grad)
            self.merged[name].grad = None
        return found

    def forward(self, ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """States (n, t, hidden), float32, of right-padded ``ids`` (n, t) with ``lengths`` (n,).

        Those of padding are zeros: only attention computes it.
        """
        real = Real.of(ids, lengths)
        x = self._embed(real.taken(ids))
        turns = self._turns(
            real.taken(torch.arange(ids.shape[1], device=ids.device).expand_as(ids))
        )
        self._any_size(x, turns)
        masks = self._masks(ids.shape[1], lengths)
        for place in range(len(self.layers)):
            matrices, norms, theta, mask = self._layer(place, masks)
            seen = self._before(x, matrices[:3], norms[:3], turns[theta], self.shape)
            q, k, v = map(real.spread, seen)
            h = real.taken(self._attend(q, k, v, mask))
            x = self._after(x, h, matrices[3:], norms[3:], self.shape, self._left_out)
        return real.spread(self._last_norm(x))

    def continued(self, begun: Begun, behind: Behind) -> tuple[torch.Tensor, torch.Tensor]:
        """States of beginnings, as of :meth:`forward`, and of the texts ``behind`` them.

        A text sees its beginning and itself, nothing else: many texts a beginning are read for the price
        of one. Causal models only.
        """
        real, later = Real.of(begun.ids, begun.lengths), Real.of(behind.ids, behind.sizes)
        x, y = self._embed(real.taken(begun.ids)), self._embed(later.taken(behind.ids))
        longest = begun.ids.shape[1]
        first = torch.arange(longest, device=x.device).expand_as(begun.ids)
        turns = self._turns(real.taken(first))
        later_turns = self._turns(later.taken(behind.places))
        self._any_size(x, turns)
        self._any_size(y, later_turns)
        masks = self._masks(longest, begun.lengths)
        later_masks = self._later_masks(longest, begun.lengths, behind)
        for place in range(len(self.layers)):
            matrices, norms, theta, mask = self._layer(place, masks)
            seen = self._before(x, matrices[:3], norms[:3], turns[theta], self.shape)
            q, k, v = map(real.spread, seen)
            h = real.taken(self._attend(q, k, v, mask))
            x = self._after(x, h, matrices[3:], norms[3:], self.shape, self._left_out)
            mask = self._layer(place, later_masks)[-1]
            seen = self._before(y, matrices[:3], norms[:3], later_turns[theta], self.shape)
            q, *own = map(later.spread, seen)
            k, v = (torch.cat([old, new], 1) for old, new in zip((k, v), own, strict=True))
            h = later.taken(self._attend(q, k, v, mask))
            y = self._after(y, h, matrices[3:], norms[3:], self.shape, self._left_out)
        return real.spread(self._last_norm(x)), later.spread(self._last_norm(y))

    def _last_norm(self, x: torch.Tensor) -> torch.Tensor:
        return _norm(x, self._norms["output_norm.weight"], self.shape.eps)

    @property
    def _left_out(self) -> float:
        return self._dropout if self.training else 0.0

    @property
    def _thetas(self) -> tuple[float, float]:
        return self.shape.local_theta, self.shape.global_theta

    def _embed(self, ids: torch.Tensor) -> torch.Tensor:
        return F.embedding(ids, self.table).float() * math.sqrt(self.hidden)

    def _turns(self, places: torch.Tensor) -> dict[float, tuple[torch.Tensor, torch.Tensor]]:
        """Cosines and sines (n, 1, head_dim) of tokens at ``places`` (n,), by theta."""
        size = self.shape.head_dim
        return {theta: _rotation(places, size, theta) for theta in self._thetas}

    def _any_size(
        self, x: torch.Tensor, turns: Mapping[float, tuple[torch.Tensor, torch.Tensor]]
    ) -> None:
        """The number of tokens is what the first batch is not to be compiled for alone."""
        if not self._compiled:
            return
        from torch._dynamo import maybe_mark_dynamic  # takes seconds to import

        for tensor in (x, *(table for tables in turns.values() for table in tables)):
            maybe_mark_dynamic(tensor, 0)

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
        """What queries (n, t, heads, size) see of keys and values (n, t', 1, size), like them."""
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
        k, v = (part.expand(-1, q.shape[1], -1, -1) for part in (k, v))
        causal = mask is None and not self.shape.bidirectional
        seen = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
        return seen.transpose(1, 2)

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
        self, longest: int, lengths: torch.Tensor, behind: Behind
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Near and far (n, 1, s, longest + s): what texts behind ``lengths`` (n,) tokens see."""
        before = torch.arange(longest, device=lengths.device).expand(len(lengths), -1)
        places, texts = behind.places, behind.texts
        beginning = (before < lengths[:, None])[:, None].expand(-1, places.shape[1], -1)
        itself = (texts[:, :, None] == texts[:, None]) & (places[:, :, None] >= places[:, None])
        far = torch.cat([beginning, itself], 2)
        distance = places[:, :, None] - torch.cat([before, places], 1)[:, None]
        return (far & (distance < self.shape.window))[:, None], far[:, None]


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


def _before(
    x: torch.Tensor,
    matrices: Sequence[torch.Tensor],
    norms: Sequence[torch.Tensor],
    turn: tuple[torch.Tensor, torch.Tensor],
    shape: Shape,
) -> tuple[torch.Tensor, ...]:
    """Queries, keys and values (n, heads, size) of states (n, hidden): a layer up to its attention.

    Matrices and norms come in the order of :data:`MATRICES` and :data:`NORMS`.
    """
    attn_norm, q_norm, k_norm = norms
    h = _norm(x, attn_norm, shape.eps).bfloat16()
    q, k, v = (F.linear(h, weight).view(len(x), -1, shape.head_dim) for weight in matrices)
    q = _turn(_norm(q, q_norm, shape.eps), turn).bfloat16()
    k = _turn(_norm(k, k_norm, shape.eps), turn).bfloat16()
    return q, k, v


def _after(
    x: torch.Tensor,
    h: torch.Tensor,
    matrices: Sequence[torch.Tensor],
    norms: Sequence[torch.Tensor],
    shape: Shape,
    left_out: float,
) -> torch.Tensor:
    """The rest of the layer, from what its attention has seen, ``h`` (n, heads, size)."""
    attn_output, ffn_gate, ffn_up, ffn_down = matrices
    post_attention_norm, ffn_norm, post_ffw_norm = norms
    seen = _norm(F.linear(h.flatten(1), attn_output), post_attention_norm, shape.eps)
    x = x + F.dropout(seen, left_out)
    h = _norm(x, ffn_norm, shape.eps).bfloat16()
    h = F.gelu(F.linear(h, ffn_gate), approximate="tanh") * F.linear(h, ffn_up)
    return x + F.dropout(_norm(F.linear(h, ffn_down), post_ffw_norm, shape.eps), left_out)


def _norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    return F.rms_norm(x.float(), (len(weight),), weight, eps)


def _rotation(places: torch.Tensor, width: int, theta: float) -> tuple[torch.Tensor, torch.Tensor]:
    steps = torch.arange(0, width, 2, device=places.device, dtype=torch.float32)
    angles = places[:, None].float() * theta ** (-steps / width)
    angles = torch.cat([angles, angles], dim=1)[:, None]
    return angles.cos(), angles.sin()


def _turn(x: torch.Tensor, turn: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Rotary positions (Su et al. 2021), halves of a head turned against each other."""
    half = x.shape[-1] // 2
    turned = torch.cat([-x[..., half:], x[..., :half]], dim=-1)
    return x * turn[0] + turned * turn[1]
