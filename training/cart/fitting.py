"""Fitting the cart heads on frozen, served weights, with products that the weights have not seen.

What tuning leaves are heads that trust states of products known by heart. Here they learn what those
states are worth for new products, beside how far a name stands in the message (docs/decisions/0016).
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
import torch.nn.functional as F

from app.artifacts.base_package import Progress, silent
from app.classification.cart import SLOT_ACTIONS, CartHeads, WordingHeads
from app.classification.head import unit
from app.classification.wording import Floats
from app.domain import CART_OUTCOMES
from training.cart.encoding import outcome_of
from training.cart.reading import ReadRow, with_wording

_STOP = SLOT_ACTIONS.index("stop")
_IGNORED = -100
_NO_PRODUCT = -1e4


@dataclass(frozen=True, slots=True)
class FitConfig:
    """Knobs of the fit, chosen on dev."""

    learning_rate: float = 5e-4
    wording_rate: float = 3e-3
    """For the features of names, which begin at nothing."""
    weight_decay: float = 0.1
    dropout: float = 0.4
    """Of the states' dimensions."""
    epochs: int = 12
    batch_size: int = 64
    seed: int = 20
    share: float = 0.5
    """Of the way from the heads that were tuned to those that were fitted."""


class _Heads(torch.nn.Module):
    """:meth:`CartHeads.score` over batches, with parameters of the same names."""

    def __init__(self, heads: CartHeads, dropout: float) -> None:
        super().__init__()
        assert heads.wording is not None
        self.plain = torch.nn.ParameterDict(
            {
                f.name: _parameter(getattr(heads, f.name))
                for f in fields(heads)
                if f.name != "wording"
            }
        )
        self.wording = torch.nn.ParameterDict(
            {f.name: _parameter(getattr(heads.wording, f.name)) for f in fields(heads.wording)}
        )
        self._dropout = dropout

    def forward(self, batch: _Batch) -> tuple[torch.Tensor, ...]:
        """Logits of pointer (b, s, n), action (b, s, 3), digits (b, s, 3, 10), outcome (b, 4)."""
        slots = F.dropout(batch.slots, self._dropout, self.training)
        products = F.dropout(batch.products, self._dropout, self.training)
        p, w = self.plain, self.wording
        pointer = (slots @ p["query"].T) @ (products @ p["key"].T).transpose(1, 2)
        pointer = pointer / math.sqrt(len(p["query"]))
        gates = slots @ w["gate_rows"].T + w["gate_bias"]
        pointer = pointer + gates @ batch.wording.transpose(1, 2)
        best = batch.wording.topk(2, dim=1).values
        outcome = slots[:, 0] @ p["outcome_rows"].T + p["outcome_bias"]
        return (
            pointer.masked_fill(batch.missing[:, None], _NO_PRODUCT),
            slots @ p["action_rows"].T + p["action_bias"],
            (slots @ p["digit_rows"].T + p["digit_bias"]).unflatten(-1, (3, 10)),
            outcome + best.flatten(1) @ w["outcome_rows"].T,
        )

    def heads(self) -> CartHeads:
        def arrays(parameters: torch.nn.ParameterDict) -> dict[str, Floats]:
            return {name: value.detach().numpy().copy() for name, value in parameters.items()}

        return CartHeads(**arrays(self.plain), wording=WordingHeads(**arrays(self.wording)))


@dataclass(frozen=True, slots=True)
class _Batch:
    slots: torch.Tensor
    products: torch.Tensor
    wording: torch.Tensor
    missing: torch.Tensor
    """(b, n): there is no such product in this row."""


def fit_cart_heads(
    start: CartHeads,
    rows: Sequence[ReadRow],
    config: FitConfig | None = None,
    progress: Progress = silent,
) -> CartHeads:
    """Heads for the states of ``rows``, from ``start`` on, and halfway back to it.

    What was learned on few products and what was learned on many make different mistakes; heads
    between the two make fewer (Wortsman et al. 2022, arXiv 2109.01903).
    """
    config = config or FitConfig()
    torch.manual_seed(config.seed)
    model = _Heads(with_wording(start), config.dropout)
    optimiser = torch.optim.AdamW(
        [
            {"params": model.plain.parameters(), "lr": config.learning_rate},
            {"params": model.wording.parameters(), "lr": config.wording_rate},
        ],
        weight_decay=config.weight_decay,
        betas=(0.9, 0.98),
    )
    batches = len(rows) // config.batch_size
    total = config.epochs * batches
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser,
        lambda step: min(1, (step + 1) / 20) * 0.5 * (1 + math.cos(math.pi * step / total)),
    )
    rng = random.Random(config.seed)
    order = list(range(len(rows)))
    for epoch in range(config.epochs):
        rng.shuffle(order)
        for number in range(batches):
            places = order[number * config.batch_size : (number + 1) * config.batch_size]
            loss = _loss(model, [rows[i] for i in places])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            progress(
                f"fit cart heads (loss {loss.item():.2f})", epoch * batches + number + 1, total
            )
    return between(with_wording(start), model.heads(), config.share)


def between(start: CartHeads, end: CartHeads, share: float) -> CartHeads:
    """Heads a ``share`` of the way from the first to the second; both look at names."""
    assert start.wording is not None
    assert end.wording is not None

    def on_the_way(
        one: CartHeads | WordingHeads, other: CartHeads | WordingHeads
    ) -> dict[str, Floats]:
        return {
            f.name: (1 - share) * getattr(one, f.name) + share * getattr(other, f.name)
            for f in fields(one)
            if f.name != "wording"
        }

    wording = WordingHeads(**on_the_way(start.wording, end.wording))
    return CartHeads(**on_the_way(start, end), wording=wording)


def _loss(model: _Heads, rows: Sequence[ReadRow]) -> torch.Tensor:
    """Of outcome, actions, digits and products: the sum of their mean cross-entropies."""
    pointer, action, digits, outcome = model(_batch(rows))
    wanted = torch.tensor([CART_OUTCOMES.index(outcome_of(read.row)) for read in rows])
    told = torch.full(action.shape[:2], _IGNORED)
    pointed = torch.zeros_like(pointer)
    acting: list[tuple[int, int]] = []
    numbers: list[tuple[int, int, int]] = []
    for i, read in enumerate(rows):
        place = {name: n for n, name in reversed(list(enumerate(read.names)))}
        actions = read.row["actions"]
        for slot, one in enumerate(actions):
            quantity = one["quantity"]
            told[i, slot] = SLOT_ACTIONS.index(one["action"])
            pointed[i, slot, place[one["product"]]] = 1.0
            acting.append((i, slot))
            numbers.append((quantity // 100, quantity // 10 % 10, quantity % 10))
        if len(actions) < told.shape[1]:
            told[i, len(actions)] = _STOP
        candidates = read.row.get("candidates") or ()
        for candidate in candidates:
            pointed[i, 0, place[candidate]] = 1.0 / len(candidates)
    loss = F.cross_entropy(outcome, wanted) + F.cross_entropy(
        action.flatten(0, 1), told.flatten(), ignore_index=_IGNORED
    )
    if acting:  # the mean of nothing is not a number
        at = tuple(torch.tensor(acting).T)
        loss = loss + F.cross_entropy(digits[at].flatten(0, 1), torch.tensor(numbers).flatten())
    asked = pointed.sum(2) > 0
    if asked.any():
        loss = loss - (pointed[asked] * F.log_softmax(pointer[asked], dim=1)).sum(1).mean()
    return loss


def _batch(rows: Sequence[ReadRow]) -> _Batch:
    """Rows of unlike catalogs, the shorter ones filled up; two places at least, for the two best."""
    most = max(2, *(len(read.products) for read in rows))
    features = rows[0].wording.shape[1]
    products = np.zeros((len(rows), most, rows[0].products.shape[1]), np.float32)
    wording = np.zeros((len(rows), most, features), np.float32)
    missing = np.ones((len(rows), most), bool)
    for i, read in enumerate(rows):
        count = len(read.products)
        products[i, :count] = unit(read.products.astype(np.float32))
        wording[i, :count] = read.wording
        missing[i, :count] = False
    slots = np.stack([unit(read.slots.astype(np.float32)) for read in rows])
    arrays = (slots, products, wording, missing)
    return _Batch(*(torch.from_numpy(array) for array in arrays))


def _parameter(array: Floats) -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.from_numpy(array.astype(np.float32).copy()))
