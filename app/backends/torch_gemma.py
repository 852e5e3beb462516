"""Gemma 3's decoder in few steps: matrices that read the same states are one, what is between them another.

A small model on a GPU is bound by launching, not by computing. Architecture: the Gemma 3 report
(arXiv 2503.19786); names of tensors as ``transformers`` stores them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from types import ModuleType
from typing import Any

import torch

from app.backends import torch_steps
from app.backends.gptq_checkpoint import QuantisedMatrix
from app.backends.gptq_kernels import DenseLinear
from app.backends.torch_attention import causal
from app.backends.torch_embedding import Embedding
from app.backends.torch_steps import Share, Table
from app.backends.torch_unpacking import Shares, Unpacking
from app.errors import FileDamaged

logger = logging.getLogger(__name__)

_TOLERANCE = 0.02
_JOINED = {
    "self_attn.qkv_proj": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "mlp.gate_up_proj": ("mlp.gate_proj", "mlp.up_proj"),
}
_ALONE = ("self_attn.o_proj", "mlp.down_proj")
_NOTHING: Shares = (None,) * 4
_NORMS = (
    "input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm",
    "post_feedforward_layernorm", "self_attn.q_norm", "self_attn.k_norm",
)  # fmt: skip


def fits(config: Any) -> bool:
    """Whether a configuration asks for nothing but what is computed here."""
    scaled = any(
        (rope or {}).get("rope_type", "default") != "default"
        for rope in (getattr(config, "rope_parameters", None) or {}).values()
        if isinstance(rope, Mapping)
    )
    return (
        getattr(config, "model_type", "") == "gemma3_text"
        and config.hidden_activation == "gelu_pytorch_tanh"
        and not config.attention_bias
        and not config.attn_logit_softcapping
        and not config.use_bidirectional_attention
        and not scaled
    )


def joined(matrices: Mapping[str, QuantisedMatrix]) -> dict[str, QuantisedMatrix]:
    """Matrices that read the same states as one, where their columns are in the same order."""
    found = dict(matrices)
    layers = {name.removesuffix("." + _ALONE[0]) for name in matrices if name.endswith(_ALONE[0])}
    for layer in layers:
        for whole, parts in _JOINED.items():
            names = [f"{layer}.{part}" for part in parts]
            if not all(name in matrices for name in names):
                continue
            one = QuantisedMatrix.stacked([matrices[name] for name in names])
            if one is not None:
                for name in names:
                    del found[name]
                found[f"{layer}.{whole}"] = one
    return found


class Side(torch.nn.Module):
    """Several linear layers of the same states, their products side by side."""

    def __init__(self, parts: Iterable[torch.nn.Module]) -> None:
        super().__init__()
        self.parts = torch.nn.ModuleList(parts)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return torch.cat([part(states) for part in self.parts], dim=-1)


class Tensors:
    """Stored tensors, each taken once. Raises :class:`FileDamaged` on what is missing or unlike."""

    def __init__(self, stored: dict[str, torch.Tensor], source: str) -> None:
        self._stored = stored
        self._source = source

    def look(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        """The tensor, to be taken by someone else."""
        found = self._stored.get(name)
        if found is None or tuple(found.shape) != shape:
            given = "nothing" if found is None else tuple(found.shape)
            raise FileDamaged(f"{self._source}: {name} is {given}, the model needs {shape}")
        return found

    def take(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        found = self.look(name, shape)
        del self._stored[name]
        return found

    def end(self) -> None:
        """Raises when anything is left."""
        unknown = sorted(name for name in self._stored if not name.endswith(".inv_freq"))
        if unknown:
            raise FileDamaged(f"{self._source}: the model has no place for {unknown[0]}")


class Gemma(torch.nn.Module):
    """Token ids (rows, length) to states (rows, length, hidden) after the final norm."""

    def __init__(
        self,
        config: Any,
        tensors: Tensors,
        linears: Mapping[str, torch.nn.Module],
        embedding: Embedding,
        dtype: torch.dtype,
        steps: ModuleType = torch_steps,
    ) -> None:
        """``linears`` are the quantised matrices by name; all others come from ``tensors``."""
        super().__init__()
        self.embedding = embedding
        self._steps = steps
        self._epsilon = float(config.rms_norm_eps)
        self.layers = torch.nn.ModuleList(
            _Layer(config, number, tensors, linears, dtype)
            for number in range(config.num_hidden_layers)
        )
        self.register_buffer("norm", tensors.take("norm.weight", (config.hidden_size,)).float())
        matrices: Any = [layer.matrices() for layer in self.layers]
        self._unpacking = Unpacking.of(matrices, dtype)
        room = None if self._unpacking is None else self._unpacking.room
        self.register_buffer(
            "room", room, persistent=False
        )  # to be counted as memory of the weights
        self._angles = {
            kind: Angles(float(config.rope_parameters[kind]["rope_theta"]), config.head_dim)
            for kind in set(config.layer_types)
        }

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        angles = {kind: a.of(ids.shape[1], ids.device) for kind, a in self._angles.items()}
        layers: Sequence[Any] = list(self.layers)
        following = [*(layer.input_layernorm for layer in layers[1:]), self.norm]
        unpacking = self._unpacking
        if unpacking is not None and not unpacking.pays(ids.numel()):
            unpacking = None
        first = None if unpacking is None else unpacking.first
        states, ready = self._steps.begin(
            ids, self.embedding.table, layers[0].input_layernorm, self._epsilon, first
        )
        walked: Iterable[tuple[Any, Shares]] = ((layer, _NOTHING) for layer in layers)
        if unpacking is not None:
            walked = unpacking.walk(layers)
        for (layer, shares), before in zip(walked, following, strict=True):
            states, ready = layer(
                states, ready, before, angles[layer.kind], self._steps, self._epsilon, shares
            )
        return ready


class _Layer(torch.nn.Module):
    def __init__(
        self,
        config: Any,
        number: int,
        tensors: Tensors,
        linears: Mapping[str, torch.nn.Module],
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        name = f"layers.{number}"
        self.kind: str = config.layer_types[number]
        self.heads = config.num_attention_heads, config.num_key_value_heads
        self.scaling = float(config.query_pre_attn_scalar) ** -0.5
        self.window = config.sliding_window if self.kind == "sliding_attention" else None
        hidden, inner = config.hidden_size, config.intermediate_size
        queries, others = (count * config.head_dim for count in self.heads)

        def matrix(whole: str, rows: Sequence[int], columns: int) -> torch.nn.Module:
            if f"{name}.{whole}" in linears:
                return linears[f"{name}.{whole}"]
            names = [f"{name}.{part}" for part in _JOINED.get(whole, (whole,))]
            modules = [
                linears[part]
                if part in linears
                else DenseLinear(tensors.take(f"{part}.weight", (count, columns)).to(dtype), None)
                for part, count in zip(names, rows, strict=True)
            ]
            plain = [m.weight for m in modules if isinstance(m, DenseLinear) and m.bias is None]
            if len(plain) == len(names):  # some may be on the device already: made plain at load
                return DenseLinear(torch.cat([part.to(plain[0].device) for part in plain]), None)
            return Side(modules)

        self.qkv = matrix("self_attn.qkv_proj", (queries, others, others), hidden)
        self.out = matrix("self_attn.o_proj", (hidden,), queries)
        self.gate_up = matrix("mlp.gate_up_proj", (inner, inner), hidden)
        self.down = matrix("mlp.down_proj", (hidden,), inner)
        for norm in _NORMS:
            size = config.head_dim if norm.startswith("self_attn.") else hidden
            weight = tensors.take(f"{name}.{norm}.weight", (size,)).float()
            self.register_buffer(norm.rpartition(".")[2], weight)

    def matrices(self) -> list[torch.nn.Module]:
        """In the order of their use."""
        return [self.qkv, self.out, self.gate_up, self.down]

    def forward(
        self,
        states: torch.Tensor,
        ready: torch.Tensor,
        before: torch.Tensor,
        angles: tuple[torch.Tensor, torch.Tensor],
        steps: Any,
        epsilon: float,
        shares: Shares,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """From states, and the same normed (``ready``), to those after this layer, normed by ``before``.

        ``shares`` are what the steps behind its four products unpack.
        """
        norms: Any = (self.q_norm, self.k_norm)
        query, key, value = steps.turn(
            self.qkv(ready), norms, angles, self.heads, epsilon, shares[0]
        )
        seen, _ = causal(
            self, query, key, value, None, scaling=self.scaling, sliding_window=self.window
        )
        states, ready = steps.join(
            states,
            _branch(self.out, seen.flatten(2)),
            self.post_attention_layernorm,
            self.pre_feedforward_layernorm,
            epsilon,
            shares[1],
        )
        branch = _branch(self.down, self._gated(ready, steps, shares[2]))
        joined_states: tuple[torch.Tensor, torch.Tensor] = steps.join(
            states, branch, self.post_feedforward_layernorm, before, epsilon, shares[3]
        )
        return joined_states

    def _gated(self, ready: torch.Tensor, steps: Any, share: Share | None) -> torch.Tensor:
        """Some products end with the gate themselves, with packed weights: then there is no share."""
        gated: torch.Tensor | None = None
        if hasattr(self.gate_up, "gated"):
            gated = self.gate_up.gated(ready)
        return steps.gate(self.gate_up(ready), share) if gated is None else gated


def _branch(linear: Any, states: torch.Tensor) -> torch.Tensor:
    """The product, or parts of it, which the step that follows adds up."""
    parts: torch.Tensor | None = linear.summands(states) if hasattr(linear, "summands") else None
    if parts is None:
        parts = linear(states)
    return parts


class Angles:
    """Cosines and sines of places (length, size / 2).

    Tables are made by powers of two and never let go: a recorded graph reads them where they were.
    """

    def __init__(self, base: float, size: int) -> None:
        self._rates = base ** (-torch.arange(0, size, 2, dtype=torch.float32) / size)
        self._kept: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def of(self, length: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        enough = 1 << (length - 1).bit_length()
        if enough not in self._kept:
            turns = torch.arange(enough, dtype=torch.float32)[:, None] * self._rates
            self._kept[enough] = turns.cos().to(device), turns.sin().to(device)
        cosine, sine = self._kept[enough]
        return cosine[:length], sine[:length]


def choose_steps(device: torch.device, dtype: torch.dtype) -> ModuleType:
    """Triton's on a GPU where they load and compute what plain torch does, else plain torch's."""
    if device.type != "cuda":
        return torch_steps
    try:
        from app.backends import triton_steps

        prove_steps(triton_steps, device, dtype)
    except Exception as error:  # noqa: BLE001 - whatever a compiler says, there is another way
        logger.info("steps between the matrices are not joined by Triton: %s", error)
        return torch_steps
    return triton_steps


@torch.no_grad()
def prove_steps(steps: ModuleType, device: torch.device, dtype: torch.dtype) -> None:
    """Every step against plain torch's on random states. Raises ``ValueError`` when they disagree."""
    generator = torch.Generator().manual_seed(1)

    def drawn(*shape: int, kind: torch.dtype = dtype) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(device, kind)

    wide, heads = drawn(3, 5, 96), (4, 1)
    weights = [drawn(96, kind=torch.float32) for _ in range(2)]
    norms = drawn(32, kind=torch.float32), drawn(32, kind=torch.float32)
    angles = Angles(1e4, 32).of(5, device)
    ids = torch.randint(0, 7, (3, 5), generator=generator).to(device)
    rows = torch.randint(-127, 128, (7, 96), dtype=torch.int8, generator=generator).to(device)
    tables = (
        Table(drawn(7, 96), None, 9.5, dtype),
        Table(rows, drawn(7, 3, kind=torch.float16), 9.5, dtype),
    )
    calls: dict[str, tuple[Any, ...]] = {
        "begin": (ids, tables[0], weights[0], 1e-6),
        "begin of codes": (ids, tables[1], weights[0], 1e-6),
        "join": (wide, drawn(2, 3, 5, 96), *weights, 1e-6),
        "turn": (drawn(3, 5, 192), norms, angles, heads, 1e-6),
        "gate": (wide,),
    }
    codes = torch.randint(-128, 128, (9600,), dtype=torch.int8, generator=generator).to(device)
    scales = drawn(300, kind=torch.float16)
    for name, given in calls.items():
        for beside in (False, True):
            shares = [Share(codes, scales, drawn(len(codes))) if beside else None for _ in range(2)]
            pairs = zip(
                *map(partial(_made, name, given), (steps, torch_steps), shares), strict=True
            )
            for ours, expected in pairs:
                off = float((ours.float() - expected.float()).norm() / expected.float().norm())
                if ours.shape != expected.shape or not off <= _TOLERANCE:
                    raise ValueError(f"the step {name} is wrong by {off:.1%}")


def _made(
    name: str, given: tuple[Any, ...], steps: ModuleType, share: Share | None
) -> tuple[torch.Tensor, ...]:
    """All that a step makes, the plain weights of its share too."""
    found = getattr(steps, name.partition(" ")[0])(*given, share)
    several: tuple[torch.Tensor, ...] = found if isinstance(found, tuple) else (found,)
    return several if share is None else (*several, share.plain)
