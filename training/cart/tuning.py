"""Learning the cart heads on the weights that read intents: an objective beside theirs.

Most rows are read as in serving, at the products' ends and at the slots. The others end in the JSON
answer of arXiv 2510.21970, so that the baseline of that paper can be measured on the same weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from app.classification.cart import SLOT_ACTIONS, CartHeads, WordingHeads
from app.classification.wording import FEATURES, Floats
from app.domain import CART_OUTCOMES
from training.cart.encoding import EncodedCart
from training.cart.packing import CartGroup, Laid, batches, lay
from training.gemma import Gemma, unit_states
from training.padding import padded

_STOP = SLOT_ACTIONS.index("stop")
_IGNORED = -100
_MOST_TOKENS = 60_000
"""Of a batch, padding included: one of long catalogs has fewer of them."""
POINTER = 256
"""Dimensions in which slots and products meet."""


class CartObjective:
    """The cart's share of every training step: ``batch_size`` catalogs with their rows.

    Its heads look at the names of the products from the start, as those that are served do. They begin
    anew, or at ``start``.
    """

    def __init__(
        self,
        groups: Sequence[CartGroup],
        hidden: int,
        batch_size: int,
        device: str,
        seed: int,
        weight: float = 1.0,
        start: CartHeads | None = None,
    ) -> None:
        if len(groups) < batch_size:
            raise ValueError(f"{len(groups)} catalogs do not make a batch of {batch_size}")
        self._device = device
        self._weight = weight
        self._batches = batches(groups, batch_size, seed)
        generator = torch.Generator().manual_seed(seed)

        def drawn(count: int, spread: float) -> torch.nn.Parameter:
            start = torch.randn(count, hidden, generator=generator) * spread
            return torch.nn.Parameter(start.to(device))

        def nothing(*shape: int) -> torch.nn.Parameter:
            return torch.nn.Parameter(torch.zeros(*shape, device=device))

        slight = 0.3 / math.sqrt(hidden)
        pointed = POINTER**0.25 / math.sqrt(hidden) / 4  # pointer logits begin at about unit size
        outcomes = len(CART_OUTCOMES)
        self._parameters = {
            "query": drawn(POINTER, pointed),
            "key": drawn(POINTER, pointed),
            "action_rows": drawn(len(SLOT_ACTIONS), slight),
            "action_bias": nothing(len(SLOT_ACTIONS)),
            "digit_rows": drawn(30, slight),
            "digit_bias": nothing(30),
            "outcome_rows": drawn(outcomes, slight),
            "outcome_bias": nothing(outcomes),
        }
        self._names = {
            "gate_rows": nothing(len(FEATURES), hidden),
            "gate_bias": nothing(len(FEATURES)),
            "outcome_rows": nothing(outcomes, 2 * len(FEATURES)),
        }
        if start is not None:
            _take_over(self._parameters, start)
            if start.wording is not None:
                _take_over(self._names, start.wording)

    def parameters(self) -> list[torch.nn.Parameter]:
        return [*self._parameters.values(), *self._names.values()]

    def heads(self) -> CartHeads:
        def arrays(given: Mapping[str, torch.nn.Parameter]) -> dict[str, Floats]:
            return {name: p.detach().float().cpu().numpy().copy() for name, p in given.items()}

        return CartHeads(**arrays(self._parameters), wording=WordingHeads(**arrays(self._names)))

    def loss(self, model: Gemma) -> torch.Tensor:
        drawn = next(self._batches)
        drawn = drawn[: max(1, _MOST_TOKENS // max(group.length for group in drawn))]
        laid = lay(drawn, self._device)
        states = model.continued(laid.catalogs, laid.behind)
        read = [i for i, row in enumerate(laid.rows) if row.answer < 0]
        told = [i for i, row in enumerate(laid.rows) if row.answer >= 0]
        loss = torch.zeros((), device=self._device)
        if read:
            loss = loss + self._slots_loss(states, laid, read) * len(read) / len(laid.rows)
        if told:
            loss = loss + _answer_loss(model, states[1], laid, told) * len(told) / len(laid.rows)
        return self._weight * loss

    def _slots_loss(
        self, states: tuple[torch.Tensor, torch.Tensor], laid: Laid, read: Sequence[int]
    ) -> torch.Tensor:
        device = self._device
        batch = [laid.rows[i] for i in read]
        given = _Read(batch)
        rows = torch.tensor(read, device=device)
        groups, starts = laid.groups[rows][:, None], laid.starts[rows][:, None]
        products = unit_states(states[0][groups, given.products.to(device)])
        slots = unit_states(states[1][groups, starts + given.slots.to(device)])
        names = given.wording.to(device)
        p, n = self._parameters, self._names
        pointer = (slots @ p["query"].T) @ (products @ p["key"].T).transpose(1, 2)
        gates = slots @ n["gate_rows"].T + n["gate_bias"]
        pointer = pointer / math.sqrt(POINTER) + gates @ names.transpose(1, 2)
        pointer = pointer.masked_fill(given.missing.to(device)[:, None], -1e4)
        action = slots @ p["action_rows"].T + p["action_bias"]
        digits = (slots @ p["digit_rows"].T + p["digit_bias"]).unflatten(-1, (3, 10))
        best = names.topk(2, dim=1).values.flatten(1)
        outcome = slots[:, 0] @ p["outcome_rows"].T + p["outcome_bias"] + best @ n["outcome_rows"].T
        wanted = _targets(batch, given.slots.shape[1], given.products.shape[1], device)
        loss = F.cross_entropy(outcome, wanted.outcome) + F.cross_entropy(
            action.flatten(0, 1), wanted.action_told.flatten(), ignore_index=_IGNORED
        )
        acting = wanted.action != _STOP
        if acting.any():  # the mean of nothing is not a number
            loss = loss + F.cross_entropy(
                digits[acting].flatten(0, 1), wanted.digits[acting].flatten()
            )
        if (wanted.pointer > 0).any():
            loss = loss + _soft(pointer.flatten(0, 1), wanted.pointer.flatten(0, 1))
        return loss


@torch.no_grad()
def _take_over(
    parameters: Mapping[str, torch.nn.Parameter], start: CartHeads | WordingHeads
) -> None:
    for name, parameter in parameters.items():
        parameter.copy_(torch.from_numpy(np.asarray(getattr(start, name), np.float32)))


class _Read:
    """Where products (n, most) stand in catalogs, slots (n, s) in texts; names' features (n, most, f)."""

    def __init__(self, rows: Sequence[EncodedCart]) -> None:
        most = max(2, *(len(row.products) for row in rows))
        products = np.zeros((len(rows), most), np.int64)
        missing = np.ones((len(rows), most), bool)
        names = np.zeros((len(rows), most, len(FEATURES)), np.float32)
        for i, row in enumerate(rows):
            count = len(row.products)
            products[i, :count] = row.products
            missing[i, :count] = False
            assert row.wording is not None
            names[i, :count] = row.wording
        self.products = torch.from_numpy(products)
        self.missing = torch.from_numpy(missing)
        self.wording = torch.from_numpy(names)
        self.slots = torch.tensor([[s - row.beginning for s in row.slots] for row in rows])


@dataclass(frozen=True, slots=True)
class _Targets:
    outcome: torch.Tensor
    action: torch.Tensor
    action_told: torch.Tensor
    pointer: torch.Tensor
    digits: torch.Tensor


def _targets(rows: Sequence[EncodedCart], slots: int, products: int, device: str) -> _Targets:
    action = np.full((len(rows), slots), _STOP)
    told = np.full((len(rows), slots), _IGNORED)
    pointer = np.zeros((len(rows), slots, products), np.float32)
    digits = np.zeros((len(rows), slots, 3), np.int64)
    for i, row in enumerate(rows):
        for slot, (kind, product, quantity) in enumerate(row.actions):
            action[i, slot] = kind
            pointer[i, slot, product] = 1.0
            digits[i, slot] = quantity // 100, quantity // 10 % 10, quantity % 10
        # The slot after the last action says stop; what comes behind is never read.
        told[i, : len(row.actions) + 1] = action[i, : len(row.actions) + 1]
        if row.candidates:
            pointer[i, 0, list(row.candidates)] = 1.0 / len(row.candidates)
    return _Targets(
        torch.tensor([row.outcome for row in rows], device=device),
        torch.from_numpy(action).to(device),
        torch.from_numpy(told).to(device),
        torch.from_numpy(pointer).to(device),
        torch.from_numpy(digits).to(device),
    )


def _soft(logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Cross-entropy against distributions; rows of zeros ask for nothing."""
    asked = wanted.sum(1) > 0
    return -(wanted[asked] * F.log_softmax(logits[asked], dim=1)).sum(1).mean()


def _answer_loss(
    model: Gemma, states: torch.Tensor, laid: Laid, told: Sequence[int]
) -> torch.Tensor:
    """Cross-entropy of the JSON answer's tokens through the tied output layer; ``states`` of texts."""
    rows, places, wanted = [], [], []
    for i in told:
        row = laid.rows[i]
        for place in range(row.answer, len(row.tokens)):
            rows.append(i)
            places.append(place - 1 - row.beginning)
            wanted.append(row.tokens[place])
    asked = torch.tensor(rows, device=states.device)
    behind = laid.starts[asked] + torch.tensor(places, device=states.device)
    logits = states[laid.groups[asked], behind].bfloat16() @ model.table.bfloat16().T
    return F.cross_entropy(logits.float(), torch.tensor(wanted, device=logits.device))


@torch.no_grad()
def read_states(
    model: Gemma, rows: Sequence[EncodedCart], device: str, batch_size: int = 64
) -> Iterator[tuple[int, Floats, Floats]]:
    """For each row, in no order: its number, slot states (s, hidden), product states (n, hidden)."""
    order = sorted(range(len(rows)), key=lambda i: len(rows[i].tokens))
    for start in range(0, len(order), batch_size):
        places = order[start : start + batch_size]
        states = model(*padded([rows[i].tokens for i in places], device)).cpu()
        for state, i in zip(states, places, strict=True):
            yield i, state[list(rows[i].slots)].numpy(), state[list(rows[i].products)].numpy()
