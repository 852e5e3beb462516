"""LoRA tuning of a causal language model as an intent encoder.

The model is read at the last prompt token: its final hidden state, at length sqrt(hidden), is scored
against one row a label (see :class:`app.classification.head.Head`). Several label sets may be learned
at once, each against its own rows, so that the states come to mean intents in general.

LoRA after Hu et al. (2021); an exponential moving average of the trained weights is what is kept.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model

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
    """Layers before this one stay as they are."""
    seed: int = 20
    device: str = "cpu"


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

    adapter: dict[str, tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]]
    heads: list[tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]]


def tune(
    model: torch.nn.Module,
    examples: Sequence[Encoded],
    heads: Sequence[npt.NDArray[np.float32]],
    config: TuningConfig,
    progress: Progress | None = None,
    train_weights: bool = True,
) -> Tuned:
    """Fit adapter and heads. ``heads`` hold starting rows (labels, hidden), one array a label set.

    ``model`` is a ``transformers`` decoder without output layer; it is left with the merged weights.
    """
    torch.manual_seed(config.seed)
    layers = model.config.num_hidden_layers
    lora = LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=[name.split(".")[1] for name in GGUF_MODULES],
        layers_to_transform=list(range(config.first_layer, layers)),
        layers_pattern="layers",
    )
    tuned: Any = get_peft_model(model, lora).to(config.device)
    tuned.train()
    rows = torch.nn.ParameterList([torch.tensor(h, device=config.device) for h in heads])
    biases = torch.nn.ParameterList([torch.zeros(len(h), device=config.device) for h in heads])
    weights = [p for p in tuned.parameters() if p.requires_grad]
    groups = [
        {"params": weights, "lr": config.learning_rate, "weight_decay": config.weight_decay},
        {"params": [*rows, *biases], "lr": config.head_learning_rate, "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, betas=(0.9, 0.98))
    trained = [*weights, *rows, *biases]
    average = [p.detach().clone() for p in trained]
    total = max(1, math.ceil(config.epochs * len(examples) / config.batch_size))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, _cosine(total, config.warmup))
    starts = np.cumsum([0, *[len(h) for h in heads]])
    running = 0.0
    for step, batch in enumerate(_batches(examples, config, total), start=1):
        loss = _loss(tuned, rows, biases, batch, starts, config)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        schedule.step()
        optimiser.zero_grad(set_to_none=True)
        decay = min(config.ema, step / (step + 9.0))
        with torch.no_grad():
            torch._foreach_lerp_(average, [p.detach() for p in trained], 1.0 - decay)
        if progress and (step % 10 == 0 or step == total):
            running = loss.item()
            progress(step, total, running)
    with torch.no_grad():
        for parameter, mean in zip(trained, average, strict=True):
            parameter.copy_(mean)
    adapter = _adapter(tuned)
    tuned.merge_and_unload()
    return Tuned(
        adapter,
        [(r.detach().cpu().numpy(), b.detach().cpu().numpy()) for r, b in zip(rows, biases, strict=True)],
    )


def _cosine(total: int, warmup: float) -> Callable[[int], float]:
    ramp = max(1, int(total * warmup))

    def rate(step: int) -> float:
        if step < ramp:
            return (step + 1) / ramp
        return 0.5 * (1.0 + math.cos(math.pi * (step - ramp) / max(1, total - ramp)))

    return rate


def _batches(
    examples: Sequence[Encoded], config: TuningConfig, total: int
) -> Iterator[list[Encoded]]:
    """``total`` batches; within a shuffled epoch, neighbours have like lengths, to waste less padding."""
    rng = random.Random(config.seed)
    done = 0
    while done < total:
        order = list(range(len(examples)))
        rng.shuffle(order)
        window = config.batch_size * 16
        batches = []
        for start in range(0, len(order), window):
            pool = sorted(order[start : start + window], key=lambda i: len(examples[i].tokens))
            batches += [
                pool[i : i + config.batch_size] for i in range(0, len(pool), config.batch_size)
            ]
        rng.shuffle(batches)
        for batch in batches[: total - done]:
            yield [examples[i] for i in batch]
        done += len(batches)


def _padded(rows: Sequence[Sequence[int]], device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-padded ids (n, longest) and each row's last place (n,). Causal attention needs no mask."""
    longest = max(len(row) for row in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
    last = torch.tensor([len(row) - 1 for row in rows])
    return ids.to(device), last.to(device)


def encode_states(model: Any, rows: Sequence[Sequence[int]], device: str) -> torch.Tensor:
    """Last hidden states (n, hidden) at length sqrt(hidden), float32; bf16 autocast."""
    ids, last = _padded(rows, device)
    with torch.autocast(device.split(":")[0], dtype=torch.bfloat16):
        states = model(input_ids=ids, use_cache=False).last_hidden_state
    state = states[torch.arange(len(rows), device=device), last].float()
    return F.normalize(state, dim=1) * math.sqrt(state.shape[1])


def _loss(
    model: Any,
    rows: torch.nn.ParameterList,
    biases: torch.nn.ParameterList,
    batch: Sequence[Encoded],
    starts: npt.NDArray[np.int64],
    config: TuningConfig,
) -> torch.Tensor:
    """Cross-entropy of each example over the labels of its own set."""
    states = encode_states(model, [example.tokens for example in batch], config.device)
    loss = states.new_zeros(())
    for label_set in {example.label_set for example in batch}:
        members = [i for i, example in enumerate(batch) if example.label_set == label_set]
        logits = states[members] @ rows[label_set].T + biases[label_set]
        labels = torch.tensor([batch[i].label for i in members], device=config.device)
        loss = loss + F.cross_entropy(
            logits, labels, reduction="sum", label_smoothing=config.label_smoothing
        )
    return loss / len(batch)


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


def _adapter(model: Any) -> dict[str, tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]]:
    factors = {}
    for name, module in model.named_modules():
        if not hasattr(module, "lora_A") or "default" not in module.lora_A:
            continue
        _, _, place = name.rpartition("layers.")
        layer, _, linear = place.partition(".")
        a = module.lora_A["default"].weight.detach().float().cpu().numpy()
        b = module.lora_B["default"].weight.detach().float().cpu().numpy()
        factors[f"blk.{layer}.{GGUF_MODULES[linear]}.weight"] = (a, b * module.scaling["default"])
    return factors


def apply_adapter(
    model: torch.nn.Module,
    adapter: dict[str, tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]],
) -> None:
    """Add LoRA factors to the weights of a plain model, in place."""
    names = {gguf: hf for hf, gguf in GGUF_MODULES.items()}
    modules = dict(model.named_modules())
    with torch.no_grad():
        for tensor, (a, b) in adapter.items():
            _, layer, short, _ = tensor.split(".")
            weight = modules[f"layers.{layer}.{names[short]}"].weight
            weight += torch.from_numpy(b @ a).to(weight)


def text_rows(embedding: npt.NDArray[np.float32], names: Sequence[Sequence[int]]) -> npt.NDArray[np.float32]:
    """Starting rows (labels, hidden) from the model's own output rows of the label's name tokens."""
    centre = embedding.mean(axis=0)
    rows = np.stack([(embedding[list(tokens)] - centre).mean(axis=0) for tokens in names])
    return rows / np.linalg.norm(rows, axis=1, keepdims=True) * np.float32(0.3)


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
