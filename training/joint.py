"""Stage one: intents of many shops, a sentence encoder's embeddings and carts, learned by one adapter.

Each step takes a batch of messages and one of carts. Their gradients are cut to unit length apart, so
that neither task drowns the other (docs/decisions/0014 tells what happened when they were cut as one).
A moving average of the weights is what is kept.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from training.gemma import Gemma, last_states
from training.padding import padded
from training.tuning import Adapter, Progress, Tuned

KEPT_EVERY = 200
"""Steps after which a run hands out what it has learned so far."""
_TOLD_EVERY = 50
_AT_ONCE = 4
"""Batches that are drawn together and cut by length, for less padding."""


class Objective(Protocol):
    """Something that the weights learn, one batch of its own a step."""

    def parameters(self) -> Sequence[torch.nn.Parameter]:
        """What it trains beside the adapter; kept as an average too, and read there at the end."""
        ...

    def loss(self, model: Gemma) -> torch.Tensor:
        """Of the next batch."""
        ...


@dataclass(frozen=True, slots=True)
class JointConfig:
    """Knobs of a run. Rates are peaks of a cosine schedule with linear warm-up."""

    learning_rate: float = 5e-4
    head_learning_rate: float = 3e-3
    steps: int = 6000
    batch_size: int = 512
    warmup: float = 0.04
    weight_decay: float = 0.01
    label_smoothing: float = 0.05
    ema: float = 0.998
    teacher_weight: float = 3.0
    """Of ``1 - cosine`` between mapped state and embedding."""
    relation_weight: float = 0.5
    """Of the divergence between who is near to whom for the teacher and for the student."""
    relation_temperature: float = 0.07
    seed: int = 20


@dataclass(frozen=True, slots=True)
class Message:
    """A message in several spellings (token ids of the whole prompt), its label and the teacher's row."""

    spellings: tuple[tuple[int, ...], ...]
    label: int = -1
    """Row among all label sets' rows, -1 for none."""
    target: int = -1
    """Row of the teacher's embeddings, -1 for none."""


@dataclass(frozen=True, slots=True)
class Pool:
    """Messages that are drawn together, ``share`` of each batch."""

    share: float
    messages: Sequence[Message]


class Messages:
    """The intents' share of every step: labels within their sets, and the teacher's embeddings.

    ``heads`` are starting rows (labels, hidden), one array a label set; ``targets`` (m, d) embeddings of
    unit length; ``first_bias`` is the first set's where its head was learned before.
    """

    def __init__(
        self,
        pools: Sequence[Pool],
        heads: Sequence[npt.NDArray[np.float32]],
        targets: npt.NDArray[np.float32],
        config: JointConfig,
        device: str,
        first_bias: npt.NDArray[np.float32] | None = None,
    ) -> None:
        if not math.isclose(sum(pool.share for pool in pools), 1.0):
            raise ValueError("the pools' shares must add up to one")
        self._pools, self._config, self._device = pools, config, device
        self._rng = random.Random(config.seed)
        self._waiting: list[list[Message]] = []
        self._counts = [len(head) for head in heads]
        self._rows = torch.nn.Parameter(torch.from_numpy(np.concatenate(heads)).to(device))
        bias = torch.zeros(len(self._rows))
        if first_bias is not None:
            bias[: len(first_bias)] = torch.from_numpy(first_bias)
        self._bias = torch.nn.Parameter(bias.to(device))
        sets = [torch.full((count,), number) for number, count in enumerate(self._counts)]
        self._set_of = torch.cat(sets).to(device)
        self._targets = torch.from_numpy(targets).to(device)
        width, hidden = targets.shape[1], self._rows.shape[1]
        start = torch.randn(width, hidden, generator=torch.Generator().manual_seed(config.seed))
        self._map = torch.nn.Parameter((start / math.sqrt(hidden)).to(device))
        self.last: dict[str, float] = {}

    def parameters(self) -> list[torch.nn.Parameter]:
        return [self._rows, self._bias, self._map]

    def heads(self) -> list[tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]]:
        """Rows and bias of each label set."""
        rows, bias = self._rows.detach().cpu(), self._bias.detach().cpu()
        pieces = zip(rows.split(self._counts), bias.split(self._counts), strict=True)
        return [(r.numpy().copy(), b.numpy().copy()) for r, b in pieces]

    def loss(self, model: Gemma) -> torch.Tensor:
        batch = self._draw()
        prompts = [self._rng.choice(message.spellings) for message in batch]
        ids, lengths = padded(prompts, self._device)
        states = last_states(model(ids, lengths), lengths)
        labels = torch.tensor([m.label for m in batch], device=self._device)
        targets = torch.tensor([m.target for m in batch], device=self._device)
        told = self._label_loss(states[labels >= 0], labels[labels >= 0]) / len(batch)
        near, related = self._teacher_loss(states[targets >= 0], targets[targets >= 0])
        self.last = {
            "labels": told.detach(),
            "teacher": near.detach(),
            "relation": related.detach(),
        }
        config = self._config
        return told + config.teacher_weight * near + config.relation_weight * related

    def _draw(self) -> list[Message]:
        if not self._waiting:
            size = self._config.batch_size
            total = size * _AT_ONCE
            drawn: list[Message] = []
            for pool in self._pools:
                drawn += self._rng.choices(pool.messages, k=math.ceil(pool.share * total))
            del drawn[total:]  # before they are sorted: what is left over must not be the longest
            drawn.sort(key=lambda message: len(message.spellings[0]))
            self._waiting = [drawn[i : i + size] for i in range(0, total, size)]
            self._rng.shuffle(self._waiting)
        return self._waiting.pop()

    def _label_loss(self, states: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The sum of cross-entropies, each among the labels of its own set, smoothed."""
        if not len(states):
            return states.new_zeros(())
        logits = states @ self._rows.T + self._bias
        foreign = self._set_of[labels][:, None] != self._set_of
        scores = F.log_softmax(logits.masked_fill(foreign, -1e4), dim=1)
        chosen = scores.gather(1, labels[:, None])[:, 0]
        mean = scores.masked_fill(foreign, 0.0).sum(1) / (~foreign).sum(1)
        smoothing = self._config.label_smoothing
        return -((1 - smoothing) * chosen + smoothing * mean).sum()

    def _teacher_loss(
        self, states: torch.Tensor, targets: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """``1 - cosine``, and the divergence of neighbourhoods within the batch (Park et al. 2019)."""
        if len(states) < 2:
            return states.new_zeros(()), states.new_zeros(())
        said = F.normalize(states @ self._map.T, dim=1)
        wanted = self._targets[targets]
        cosine = (said * wanted).sum(1)
        heat = self._config.relation_temperature
        itself = torch.eye(len(said), device=said.device, dtype=torch.bool)
        theirs = F.log_softmax((wanted @ wanted.T / heat).masked_fill(itself, -1e4), dim=1)
        ours = F.log_softmax((said @ said.T / heat).masked_fill(itself, -1e4), dim=1)
        related = F.kl_div(ours, theirs, log_target=True, reduction="batchmean")
        return (1.0 - cosine).mean(), related


def train(
    model: Gemma,
    messages: Messages,
    others: Sequence[Objective],
    config: JointConfig,
    progress: Progress | None = None,
    pace: Callable[[int], float] | None = None,
    keep: Callable[[Tuned], None] | None = None,
) -> Tuned:
    """Fit adapter and heads; ``model`` is left with the averaged weights merged.

    ``pace`` tells which share of the run is over before a step, by default that of ``config.steps``: on
    a machine that is lent for minutes, the clock may set it. ``keep`` is given what the run has come to
    every :data:`KEPT_EVERY` steps, for such a machine may be taken away; objectives hold their averages
    meanwhile.
    """
    pace = pace or (lambda step: step / config.steps)
    objectives: list[Objective] = [messages, *others]
    readers = [p for objective in objectives for p in objective.parameters()]
    factors = list(model.factors)
    optimiser = torch.optim.AdamW(
        [
            {"params": factors, "lr": config.learning_rate, "weight_decay": config.weight_decay},
            {"params": readers, "lr": config.head_learning_rate, "weight_decay": 0.0},
        ],
        betas=(0.9, 0.98),
    )
    peaks = [group["lr"] for group in optimiser.param_groups]
    trained = [*factors, *readers]
    average = [p.detach().clone() for p in trained]
    step, lost = 0, torch.zeros(())
    while (done := pace(step)) < 1.0:
        step += 1
        for group, peak in zip(optimiser.param_groups, peaks, strict=True):
            group["lr"] = peak * rate(done, config.warmup)
        model.merge(trainable=True)
        optimiser.zero_grad(set_to_none=True)
        for objective in objectives:
            loss = objective.loss(model)
            loss.backward()
            lost = lost + loss.detach()
            for factor, grad in zip(
                factors, _cut(model.collect(), 1 / len(objectives)), strict=True
            ):
                factor.grad = grad if factor.grad is None else factor.grad + grad
            torch.nn.utils.clip_grad_norm_(objective.parameters(), 1.0)
        optimiser.step()
        decay = min(config.ema, step / (step + 9.0))
        with torch.no_grad():
            torch._foreach_lerp_(average, [p.detach() for p in trained], 1.0 - decay)
        if progress and step % _TOLD_EVERY == 0:
            progress(step, config.steps, float(lost) / _TOLD_EVERY)
            lost = torch.zeros(())
        if keep and step % KEPT_EVERY == 0:
            _swap(trained, average)
            keep(Tuned(adapter_of(model), messages.heads()))
            _swap(trained, average)
    _swap(trained, average)
    model.eval()
    model.merge()
    return Tuned(adapter_of(model), messages.heads())


@torch.no_grad()
def _swap(some: Sequence[torch.Tensor], others: Sequence[torch.Tensor]) -> None:
    """The numbers of each for those of the other."""
    for one, other in zip(some, others, strict=True):
        before = one.clone()
        one.copy_(other)
        other.copy_(before)


def adapter_of(model: Gemma) -> Adapter:
    """What was learned, as factors by tensor name."""
    return {name: change.factors() for name, change in model.changes.items()}


def _cut(gradients: list[torch.Tensor], most: float) -> list[torch.Tensor]:
    """All gradients shortened together to a norm of at most ``most``."""
    shorter = (most / (torch.nn.utils.get_total_norm(gradients) + 1e-6)).clamp(max=1.0)
    return [gradient * shorter for gradient in gradients]


def rate(done: float, warmup: float) -> float:
    """Share of the peak learning rate when a share ``done`` of the run is over."""
    if done < warmup:
        return 0.02 + 0.98 * done / warmup
    return 0.5 * (1.0 + math.cos(math.pi * (done - warmup) / (1.0 - warmup)))


def first_rows(heads: Sequence[npt.NDArray[np.float32]]) -> list[int]:
    """Where each label set begins among all sets' rows."""
    return [sum(map(len, heads[:number])) for number in range(len(heads))]
