"""Learning the cart heads on the weights that read intents: an objective beside theirs.

Most rows are read as in serving, at the products' ends and at the slots. The others end in the JSON
answer of arXiv 2510.21970, so that the baseline of that paper can be measured on the same weights.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from app.classification.cart import SLOT_ACTIONS, CartHeads
from app.domain import CART_OUTCOMES

_STOP = SLOT_ACTIONS.index("stop")
_IGNORED = -100
POINTER = 256
"""Dimensions in which slots and products meet."""


@dataclass(frozen=True, slots=True)
class EncodedCart:
    """One row as tokens, and where what is to be learned.

    ``products`` are the positions at which products are read, ``slots`` those of the slots.
    ``actions`` are (action, product, quantity) in order; ``candidates`` the products to ask back with.
    ``answer`` is the position of the first token of a JSON answer, -1 where slots are read instead.
    """

    tokens: tuple[int, ...]
    products: tuple[int, ...]
    slots: tuple[int, ...]
    outcome: int
    actions: tuple[tuple[int, int, int], ...]
    candidates: tuple[int, ...] = ()
    answer: int = -1


def outcome_of(row: Mapping[str, Any]) -> str:
    """What the row's message means for the cart, as :data:`app.domain.CART_OUTCOMES` has it."""
    if row["actions"]:
        return "actions"
    return {"absent": "not_in_catalog", "ambiguous": "ambiguous"}.get(row["kind"], "no_action")


def json_answer(row: Mapping[str, Any]) -> str:
    """The paper's answer: one object; a message that changes no cart gets the action ``none``."""
    if not row["actions"]:
        return '{"action": "none"}'
    return json.dumps(row["actions"][0], ensure_ascii=False)


class CartEncoder:
    """Rows to tokens. ``tokenise`` gives the ids of a text alone; pieces are never tokenised together."""

    def __init__(
        self,
        tokenise: Callable[[str], Sequence[int]],
        beginning: Sequence[int],
        end: int,
        slots: Sequence[str] = ("1", "2", "3", "4", "5", "6"),
    ) -> None:
        self._tokenise = tokenise
        self._end = end
        self._catalog = (*beginning, *tokenise("Catalog:\n"))
        self._line = tuple(tokenise("\n"))
        self._message = tuple(tokenise("Message: "))
        self._slots = tuple(tokenise(slot)[0] for slot in slots)

    def encode(self, row: Mapping[str, Any], *, as_json: bool = False) -> EncodedCart:
        tokens = [*self._catalog]
        products: list[int] = []
        for product in row["catalog"]:
            tokens += [*self._tokenise(product), *self._line]
            products.append(len(tokens) - 1)
        tokens += [*self._message, *self._tokenise(row["text"]), *self._line]
        start = len(tokens)
        tokens += [*self._tokenise(json_answer(row)), self._end] if as_json else self._slots
        place = {product: i for i, product in reversed(list(enumerate(row["catalog"])))}
        return EncodedCart(
            tokens=tuple(tokens),
            products=tuple(products),
            slots=() if as_json else tuple(range(start, len(tokens))),
            outcome=CART_OUTCOMES.index(outcome_of(row)),
            actions=tuple(
                (SLOT_ACTIONS.index(a["action"]), place[a["product"]], a["quantity"])
                for a in row["actions"]
            ),
            candidates=tuple(place[c] for c in row.get("candidates") or ()),
            answer=start if as_json else -1,
        )


class CartObjective:
    """The cart's share of every training step: ``batch_size`` rows of like length."""

    def __init__(
        self,
        rows: Sequence[EncodedCart],
        hidden: int,
        batch_size: int,
        device: str,
        seed: int,
        weight: float = 1.0,
    ) -> None:
        self._rows = rows
        self._device = device
        self._weight = weight
        self._batches = _batches(rows, batch_size, seed)
        generator = torch.Generator().manual_seed(seed)

        def rows_of(count: int) -> torch.nn.Parameter:
            start = torch.randn(count, hidden, generator=generator) * (0.3 / math.sqrt(hidden))
            return torch.nn.Parameter(start.to(device))

        def bias_of(count: int) -> torch.nn.Parameter:
            return torch.nn.Parameter(torch.zeros(count, device=device))

        spread = POINTER**0.25 / math.sqrt(hidden)  # pointer logits begin at about unit size
        self._query = torch.nn.Parameter(
            (torch.randn(POINTER, hidden, generator=generator) * spread / 4).to(device)
        )
        self._key = torch.nn.Parameter(
            (torch.randn(POINTER, hidden, generator=generator) * spread / 4).to(device)
        )
        self._action = rows_of(len(SLOT_ACTIONS)), bias_of(len(SLOT_ACTIONS))
        self._digit = rows_of(30), bias_of(30)
        self._outcome = rows_of(len(CART_OUTCOMES)), bias_of(len(CART_OUTCOMES))
        self.history: list[float] = []

    def parameters(self) -> list[torch.nn.Parameter]:
        return [self._query, self._key, *self._action, *self._digit, *self._outcome]

    def heads(self) -> CartHeads:
        arrays = [p.detach().float().cpu().numpy() for p in self.parameters()]
        return CartHeads(*arrays)

    def loss(self, model: Any) -> torch.Tensor:
        batch = [self._rows[i] for i in next(self._batches)]
        states = _states(model, batch, self._device)
        read = [i for i, row in enumerate(batch) if row.answer < 0]
        told = [i for i, row in enumerate(batch) if row.answer >= 0]
        loss = self._slots_loss(states, batch, read) * len(read) / len(batch)
        if told:
            loss = loss + _answer_loss(model, states, batch, told) * len(told) / len(batch)
        if len(self.history) % 50 == 0:
            self.history.append(float(loss.detach()))
        else:
            self.history.append(math.nan)
        return self._weight * loss

    def _slots_loss(
        self, states: torch.Tensor, batch: Sequence[EncodedCart], read: Sequence[int]
    ) -> torch.Tensor:
        device = self._device
        longest = max(len(batch[i].products) for i in read)
        place = torch.tensor(
            [[*batch[i].products, *[0] * (longest - len(batch[i].products))] for i in read],
            device=device,
        )
        missing = torch.tensor(
            [[j >= len(batch[i].products) for j in range(longest)] for i in read], device=device
        )
        slot_place = torch.tensor([batch[i].slots for i in read], device=device)
        rows = torch.tensor(read, device=device)[:, None]
        products, slots = _unit(states[rows, place]), _unit(states[rows, slot_place])
        pointer = (slots @ self._query.T) @ (products @ self._key.T).transpose(1, 2)
        pointer = (pointer / math.sqrt(POINTER)).masked_fill(missing[:, None], -1e4)
        action = slots @ self._action[0].T + self._action[1]
        digits = (slots @ self._digit[0].T + self._digit[1]).unflatten(-1, (3, 10))
        outcome = slots[:, 0] @ self._outcome[0].T + self._outcome[1]
        wanted = _targets([batch[i] for i in read], slot_place.shape[1], longest, device)
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
    model: Any, states: torch.Tensor, batch: Sequence[EncodedCart], told: Sequence[int]
) -> torch.Tensor:
    """Cross-entropy of the JSON answer's tokens through the tied output layer."""
    at = [(i, p) for i in told for p in range(batch[i].answer, len(batch[i].tokens))]
    rows, places = zip(*((i, p - 1) for i, p in at), strict=True)
    embedding = model.get_input_embeddings().weight
    logits = states[list(rows), list(places)].to(embedding.dtype) @ embedding.T
    wanted = torch.tensor([batch[i].tokens[p] for i, p in at], device=logits.device)
    return F.cross_entropy(logits.float(), wanted)


def _unit(states: torch.Tensor) -> torch.Tensor:
    states = states.float()
    return F.normalize(states, dim=-1) * math.sqrt(states.shape[-1])


def _states(model: Any, rows: Sequence[EncodedCart], device: str) -> torch.Tensor:
    """States of every place (n, longest, hidden), bf16 autocast; padded on the right, unmasked."""
    longest = max(len(row.tokens) for row in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : len(row.tokens)] = torch.tensor(row.tokens)
    with torch.autocast(device.partition(":")[0], dtype=torch.bfloat16):
        result: torch.Tensor = model(input_ids=ids.to(device), use_cache=False).last_hidden_state
    return result


def _batches(rows: Sequence[EncodedCart], size: int, seed: int) -> Iterator[list[int]]:
    """Endless batches of row numbers; neighbours have like lengths, for less padding."""
    rng = random.Random(seed)
    while True:
        order = list(range(len(rows)))
        rng.shuffle(order)
        window = size * 32
        batches = []
        for start in range(0, len(order) - size + 1, window):
            pool = sorted(order[start : start + window], key=lambda i: len(rows[i].tokens))
            batches += [pool[i : i + size] for i in range(0, len(pool) - size + 1, size)]
        rng.shuffle(batches)
        yield from batches


@torch.no_grad()
def read_states(
    model: Any, rows: Sequence[EncodedCart], device: str, batch_size: int = 64
) -> Iterator[tuple[int, np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
    """For each row, in no order: its number, slot states (s, hidden), product states (n, hidden)."""
    model.eval()
    order = sorted(range(len(rows)), key=lambda i: len(rows[i].tokens))
    for start in range(0, len(order), batch_size):
        places = order[start : start + batch_size]
        states = _states(model, [rows[i] for i in places], device).float()
        for state, i in zip(states, places, strict=True):
            yield (
                i,
                state[list(rows[i].slots)].cpu().numpy(),
                state[list(rows[i].products)].cpu().numpy(),
            )
