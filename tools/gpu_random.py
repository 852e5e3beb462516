"""Random weights in the shape of Gemma 3, packed and in 16 bits: for time, not for answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace

import torch

from app.backends import triton_steps
from app.backends.gptq_triton import ByteLinear
from app.backends.torch_embedding import Embedding
from app.backends.torch_gemma import Gemma, Tensors

KIND = torch.bfloat16


@dataclass(frozen=True)
class Sizes:
    """Of a model."""

    layers: int = 18
    hidden: int = 640
    inner: int = 2048
    heads: int = 4
    others: int = 1
    head: int = 256
    vocabulary: int = 2000


class Random:
    """What a layer of packed weights asks of its matrix, of random numbers."""

    bias = None

    def __init__(self, rows: int, columns: int, group: int, device: torch.device) -> None:
        self.rows, self.columns, self.group_size = rows, columns, group
        self._codes = torch.randint(1, 256, (rows, columns), dtype=torch.uint8, device=device)
        spread = torch.rand(columns // group, rows, device=device) + 0.5
        self.scales = (spread * columns**-0.5 / 74).half()

    def codes(self) -> torch.Tensor:
        return self._codes


def made(
    sizes: Sizes,
    packed: Mapping[str, ByteLinear],
    plain: Mapping[str, torch.Tensor],
    device: torch.device,
) -> Gemma:
    """A decoder of random norms and embeddings, always the same, around the matrices."""
    generator = torch.Generator().manual_seed(2)
    tensors = dict(plain)

    def drawn(name: str, *shape: int, by: float = 0.3) -> None:
        tensors[name] = (torch.randn(*shape, generator=generator) * by).to(device)

    for number in range(sizes.layers):
        for norm in ("input", "post_attention", "pre_feedforward", "post_feedforward"):
            drawn(f"layers.{number}.{norm}_layernorm.weight", sizes.hidden)
        for norm in ("q", "k"):
            drawn(f"layers.{number}.self_attn.{norm}_norm.weight", sizes.head)
    drawn("norm.weight", sizes.hidden)
    drawn("table", sizes.vocabulary, sizes.hidden, by=0.04)
    table = tensors.pop("table").to(KIND)
    config = SimpleNamespace(
        hidden_size=sizes.hidden, intermediate_size=sizes.inner, num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads, num_key_value_heads=sizes.others, head_dim=sizes.head,
        query_pre_attn_scalar=sizes.head, sliding_window=512, rms_norm_eps=1e-6,
        layer_types=["sliding_attention" if n % 6 != 5 else "full_attention" for n in range(sizes.layers)],
        rope_parameters={
            "sliding_attention": {"rope_theta": 1e4}, "full_attention": {"rope_theta": 1e6},
        },
    )  # fmt: skip
    given = Tensors(tensors, "random weights")
    model = Gemma(
        config, given, packed, Embedding(table, KIND, sizes.hidden**0.5), KIND, triton_steps
    )
    given.end()
    built: Gemma = model.to(device).eval().requires_grad_(requires_grad=False)
    return built


def matrices(sizes: Sizes, group: int, device: torch.device) -> dict[str, ByteLinear]:
    """Random packed ones, by name."""
    heads = (sizes.heads + 2 * sizes.others) * sizes.head
    shapes = {
        "self_attn.qkv_proj": (heads, sizes.hidden),
        "self_attn.o_proj": (sizes.hidden, sizes.heads * sizes.head),
        "mlp.gate_up_proj": (2 * sizes.inner, sizes.hidden),
        "mlp.down_proj": (sizes.hidden, sizes.inner),
    }
    return {
        f"layers.{number}.{name}": ByteLinear(Random(*shape, group, device), None, KIND)  # type: ignore[arg-type]
        for number in range(sizes.layers)
        for name, shape in shapes.items()
    }


def unpacked(sizes: Sizes, packed: Mapping[str, ByteLinear]) -> dict[str, torch.Tensor]:
    """The same weights in 16 bits, by the names of a checkpoint."""
    heads = [count * sizes.head for count in (sizes.heads, sizes.others, sizes.others)]
    parts = {
        "qkv_proj": (("q_proj", "k_proj", "v_proj"), heads),
        "gate_up_proj": (("gate_proj", "up_proj"), [sizes.inner] * 2),
    }
    found = {}
    for whole, matrix in packed.items():
        place, _, name = whole.rpartition(".")
        names, rows = parts.get(name, ((name,), [matrix.rows]))
        for part, weight in zip(names, matrix.unpacked(KIND).split(rows), strict=True):
            found[f"{place}.{part}.weight"] = weight
    return found
