"""LoRA tuning of a causal language model as an intent encoder.

The model is read at the last prompt token: its final hidden state, at length sqrt(hidden), is scored
against one row a label (see :class:`app.classification.head.Head`). Several label sets may be learned
at once, each against its own rows. This is how a shop is tuned, on any base and on two cores; the
default model has a loop of its own (:mod:`training.joint`).

LoRA after Hu et al. (2021); an exponential moving average of the trained weights is what is kept.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model

Adapter: TypeAlias = dict[str, tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]]
"""GGUF tensor name -> LoRA factors ``(a, b)``, see :class:`Tuned`."""
Prompt: TypeAlias = Sequence[int] | torch.Tensor
"""Token ids of a prompt, or the states (tokens, hidden) that its lower layers made of it."""

GGUF_MODULES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
"""Linear modules of a decoder layer, and the names of their weights in a GGUF file."""

Progress = Callable[[int, int, float], None]
"""Called with steps done, steps in all, and the running loss."""


@dataclass(frozen=True, slots=True)
class TuningConfig:
    """Knobs of one run. Rates are peaks of a cosine schedule with linear warm-up."""

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.05
    learning_rate: float = 3e-4
    head_learning_rate: float = 3e-3
    epochs: float = 6.0
    batch_size: int = 16
    warmup: float = 0.06
    weight_decay: float = 0.01
    label_smoothing: float = 0.05
    ema: float = 0.99
    first_layer: int = 0
    """Layers before this one stay as they are; each message passes them only once."""
    seed: int = 20
    device: str = "cpu"

    def on(self, device: str) -> TuningConfig:
        """The same knobs on another device."""
        return replace(self, device=device)


@dataclass(frozen=True, slots=True)
class Encoded:
    """Token ids of the whole prompt, the label set it belongs to and the label's row in that set."""

    tokens: tuple[int, ...]
    label_set: int
    label: int


@dataclass(frozen=True, slots=True)
class Tuned:
    """Outcome: LoRA factors by GGUF tensor name, and a head for each label set.

    ``adapter[name]`` is ``(a, b)`` with ``a`` (rank, in) and ``b`` (out, rank), the scale folded into
    ``b``: the merged weight is ``w + b @ a``. ``heads[i]`` is ``(rows, bias)``.
    """

    adapter: Adapter
    heads: list[tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]]


def tune(
    model: torch.nn.Module,
    examples: Sequence[Encoded],
    heads: Sequence[npt.NDArray[np.float32]],
    config: TuningConfig,
    progress: Progress | None = None,
) -> Tuned:
    """Fit adapter and heads. ``heads`` hold starting rows (labels, hidden), one array a label set.

    ``model`` is a ``transformers`` decoder without output layer; it is left with the merged weights.
    """
    torch.manual_seed(config.seed)
    inputs: Sequence[Prompt] = [example.tokens for example in examples]
    if config.first_layer:
        inputs = _lower_states(model, inputs, config)
    with _upper_layers(model, config.first_layer):
        return _tune(model, inputs, examples, heads, config, progress)


def _tune(
    model: torch.nn.Module,
    inputs: Sequence[Prompt],
    examples: Sequence[Encoded],
    heads: Sequence[npt.NDArray[np.float32]],
    config: TuningConfig,
    progress: Progress | None,
) -> Tuned:
    lora = LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=[name.split(".")[1] for name in GGUF_MODULES],
    )
    tuned: Any = get_peft_model(model, lora).to(config.device)
    tuned.train()
    rows = torch.nn.ParameterList([torch.tensor(h, device=config.device) for h in heads])
    biases = torch.nn.ParameterList([torch.zeros(len(h), device=config.device) for h in heads])
    weights = [p for p in tuned.parameters() if p.requires_grad]
    readers = [*rows, *biases]
    groups = [
        {"params": weights, "lr": config.learning_rate, "weight_decay": config.weight_decay},
        {"params": readers, "lr": config.head_learning_rate, "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, betas=(0.9, 0.98))
    trained = [*weights, *readers]
    average = [p.detach().clone() for p in trained]
    total = max(1, math.ceil(config.epochs * len(examples) / config.batch_size))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, _cosine(total, config.warmup))
    for step, batch in enumerate(_batches([len(row) for row in inputs], config, total), start=1):
        members = [examples[i] for i in batch]
        states = encode_states(tuned, [inputs[i] for i in batch], config.device)
        loss = _loss(states, rows, biases, members, config)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        schedule.step()
        optimiser.zero_grad(set_to_none=True)
        decay = min(config.ema, step / (step + 9.0))
        with torch.no_grad():
            torch._foreach_lerp_(average, [p.detach() for p in trained], 1.0 - decay)
        if progress and (step % 10 == 0 or step == total):
            progress(step, total, loss.item())
    with torch.no_grad():
        for parameter, mean in zip(trained, average, strict=True):
            parameter.copy_(mean)
    adapter = _adapter(tuned, config.first_layer)
    tuned.merge_and_unload()
    return Tuned(
        adapter,
        [
            (r.detach().cpu().numpy(), b.detach().cpu().numpy())
            for r, b in zip(rows, biases, strict=True)
        ],
    )


def _cosine(total: int, warmup: float) -> Callable[[int], float]:
    ramp = max(1, int(total * warmup))

    def rate(step: int) -> float:
        if step < ramp:
            return (step + 1) / ramp
        return 0.5 * (1.0 + math.cos(math.pi * (step - ramp) / max(1, total - ramp)))

    return rate


def _batches(lengths: Sequence[int], config: TuningConfig, total: int) -> Iterator[list[int]]:
    """``total`` batches of row numbers; neighbours have like lengths, for less padding."""
    rng = random.Random(config.seed)
    done = 0
    while done < total:
        order = list(range(len(lengths)))
        rng.shuffle(order)
        window = config.batch_size * 16
        batches = []
        for start in range(0, len(order), window):
            pool = sorted(order[start : start + window], key=lambda i: lengths[i])
            batches += [
                pool[i : i + config.batch_size] for i in range(0, len(pool), config.batch_size)
            ]
        rng.shuffle(batches)
        yield from batches[: total - done]
        done += len(batches)


def encode_states(model: Any, rows: Sequence[Prompt], device: str) -> torch.Tensor:
    """Last hidden states (n, hidden) at length sqrt(hidden), float32; bf16 autocast."""
    states, last = _run(model, rows, device)
    state = states[torch.arange(len(rows), device=device), last].float()
    return F.normalize(state, dim=1) * math.sqrt(state.shape[1])


def _run(model: Any, rows: Sequence[Prompt], device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """States of every place (n, longest, hidden) and each row's last place (n,).

    Rows are padded on the right, which causal attention never looks at: no mask is needed.
    """
    longest = max(len(row) for row in rows)
    last = torch.tensor([len(row) - 1 for row in rows], device=device)
    if isinstance(rows[0], torch.Tensor):
        padded = torch.stack([F.pad(row, (0, 0, 0, longest - len(row))) for row in rows])
        given = {"inputs_embeds": padded.to(device)}
    else:
        ids = torch.zeros(len(rows), longest, dtype=torch.long)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row)
        given = {"input_ids": ids.to(device)}
    with torch.autocast(device.partition(":")[0], dtype=torch.bfloat16):
        return model(**given, use_cache=False).last_hidden_state, last


@contextmanager
def _upper_layers(model: Any, first: int) -> Iterator[None]:
    """For a while, the model is only its layers from ``first`` on, and takes their inputs."""
    with _layers(model, slice(first, None)):
        yield


@torch.no_grad()
def _lower_states(
    model: Any, rows: Sequence[Prompt], config: TuningConfig, batch_size: int = 64
) -> list[torch.Tensor]:
    """What layer ``first_layer`` sees of each prompt: bf16 (tokens, hidden)."""
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    states: list[torch.Tensor] = [torch.empty(0)] * len(rows)
    norm, model.norm = model.norm, torch.nn.Identity()
    try:
        with _layers(model, slice(0, config.first_layer)):
            for start in range(0, len(order), batch_size):
                places = order[start : start + batch_size]
                batch, _ = _run(model, [rows[i] for i in places], config.device)
                for state, i in zip(batch, places, strict=True):
                    states[i] = state[: len(rows[i])].to(torch.bfloat16).clone()
    finally:
        model.norm = norm
    return states


@contextmanager
def _layers(model: Any, kept: slice) -> Iterator[None]:
    """For a while, the model has only some of its layers. The pattern of layer types must allow it."""
    layers, config = model.layers, model.config
    types = getattr(config, "layer_types", None)
    if types and list(types[kept]) != list(types[: len(types[kept])]):
        raise ValueError(f"layers {kept} would change places in the model's pattern of layer types")
    model.layers = layers[kept]
    config.num_hidden_layers = len(model.layers)
    if types:
        config.layer_types = list(types[kept])
    try:
        yield
    finally:
        model.layers = layers
        config.num_hidden_layers = len(layers)
        if types:
            config.layer_types = types


def _loss(
    states: torch.Tensor,
    rows: torch.nn.ParameterList,
    biases: torch.nn.ParameterList,
    examples: Sequence[Encoded],
    config: TuningConfig,
) -> torch.Tensor:
    """Cross-entropy of each example over the labels of its own set."""
    loss = states.new_zeros(())
    for label_set in {example.label_set for example in examples}:
        members = [i for i, example in enumerate(examples) if example.label_set == label_set]
        logits = states[members] @ rows[label_set].T + biases[label_set]
        labels = torch.tensor([examples[i].label for i in members], device=config.device)
        loss = loss + F.cross_entropy(
            logits, labels, reduction="sum", label_smoothing=config.label_smoothing
        )
    return loss / len(examples)


@torch.no_grad()
def hidden_states(
    model: torch.nn.Module, rows: Sequence[Sequence[int]], device: str, batch_size: int = 64
) -> npt.NDArray[np.float32]:
    """Last hidden states (n, hidden) of prompts, in order."""
    model.eval()
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    states = np.zeros((len(rows), model.config.hidden_size), np.float32)
    for start in range(0, len(order), batch_size):
        places = order[start : start + batch_size]
        states[places] = encode_states(model, [rows[i] for i in places], device).cpu().numpy()
    return states


def _adapter(model: Any, first_layer: int) -> Adapter:
    factors: Adapter = {}
    for name, module in model.named_modules():
        if not hasattr(module, "lora_A") or "default" not in module.lora_A:
            continue
        _, _, place = name.rpartition("layers.")
        layer, _, linear = place.partition(".")
        a = module.lora_A["default"].weight.detach().float().cpu().numpy()
        b = module.lora_B["default"].weight.detach().float().cpu().numpy()
        tensor = f"blk.{int(layer) + first_layer}.{GGUF_MODULES[linear]}.weight"
        factors[tensor] = (a, b * module.scaling["default"])
    return factors


def apply_adapter(
    model: torch.nn.Module,
    adapter: Adapter,
) -> None:
    """Add LoRA factors to the weights of a plain model, in place."""
    names = {gguf: hf for hf, gguf in GGUF_MODULES.items()}
    modules = dict(model.named_modules())
    with torch.no_grad():
        for tensor, (a, b) in adapter.items():
            _, layer, short, _ = tensor.split(".")
            weight = modules[f"layers.{layer}.{names[short]}"].weight
            weight += torch.from_numpy(b @ a).to(weight)


def text_rows(
    embedding: npt.NDArray[np.float32], names: Sequence[Sequence[int]]
) -> npt.NDArray[np.float32]:
    """Starting rows (labels, hidden) from the model's own output rows of the label's name tokens."""
    centre = embedding.mean(axis=0)
    rows = np.stack([(embedding[list(tokens)] - centre).mean(axis=0) for tokens in names])
    rows *= np.float32(0.3) / np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


def mean_rows(
    states: npt.NDArray[np.float32], labels: Sequence[int], count: int
) -> npt.NDArray[np.float32]:
    """Starting rows (count, hidden) from class means of hidden states; absent labels get zeros."""
    centre = states.mean(axis=0)
    rows = np.zeros((count, states.shape[1]), np.float32)
    for label in range(count):
        members = states[np.asarray(labels) == label]
        if len(members):
            row = members.mean(axis=0) - centre
            rows[label] = row / max(float(np.linalg.norm(row)), 1e-6) * 0.3
    return rows
