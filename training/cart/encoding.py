"""Cart rows as tokens, laid out as in serving."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.classification.cart import SLOT_ACTIONS
from app.classification.shortlist import ShortlistIndex
from app.classification.wording import Floats, wording
from app.domain import CART_OUTCOMES


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
    wording: Floats | None = None
    """Features of the products' names (n, f), see :mod:`app.classification.wording`."""

    @property
    def beginning(self) -> int:
        """Tokens of the catalog, and what stands before it."""
        return self.products[-1] + 1


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


@dataclass(frozen=True, slots=True)
class _Beginning:
    """A catalog as tokens, and where its products are read."""

    catalog: tuple[str, ...]
    tokens: tuple[int, ...]
    products: tuple[int, ...]
    index: ShortlistIndex


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
        self._last: _Beginning | None = None

    def encode(self, row: Mapping[str, Any], *, as_json: bool = False) -> EncodedCart:
        begun = self._begun(tuple(row["catalog"]))
        tokens = [*begun.tokens, *self._message, *self._tokenise(row["text"]), *self._line]
        start = len(tokens)
        tokens += [*self._tokenise(json_answer(row)), self._end] if as_json else self._slots
        place = {product: i for i, product in reversed(list(enumerate(row["catalog"])))}
        return EncodedCart(
            tokens=tuple(tokens),
            products=begun.products,
            slots=() if as_json else tuple(range(start, len(tokens))),
            outcome=CART_OUTCOMES.index(outcome_of(row)),
            actions=tuple(
                (SLOT_ACTIONS.index(a["action"]), place[a["product"]], a["quantity"])
                for a in row["actions"]
            ),
            candidates=tuple(place[c] for c in row.get("candidates") or ()),
            answer=start if as_json else -1,
            wording=None if as_json else wording(begun.index, row["text"]),
        )

    def _begun(self, catalog: tuple[str, ...]) -> _Beginning:
        """Kept for the next row, which may be about the same catalog."""
        if self._last is None or self._last.catalog != catalog:
            tokens = [*self._catalog]
            products: list[int] = []
            for product in catalog:
                tokens += [*self._tokenise(product), *self._line]
                products.append(len(tokens) - 1)
            index = ShortlistIndex(catalog)
            self._last = _Beginning(catalog, tuple(tokens), tuple(products), index)
        return self._last
