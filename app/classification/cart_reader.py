"""Text and catalog -> backend -> cart decision. One for each live model that has cart heads.

Catalog entries are data: each becomes one line of plain tokens, whatever it says.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from threading import Lock

from app.backends.base import (
    MAX_PROMPT_TOKENS,
    Backend,
    MarkedTokens,
    TokenIds,
    keep_ends,
)
from app.classification.cart import CartModel
from app.classification.numbers import numbers_in
from app.classification.prompt import CartPrompt, normalise
from app.classification.shortlist import ShortlistIndex
from app.classification.wording import Floats, wording
from app.domain import CartDecision
from app.errors import CatalogInvalid, EmptyText, ManifestInvalid

MAX_PRODUCTS = 64
"""Products that the model reads at once; it was trained on up to 60."""
MAX_ENTRY_TOKENS = 96
"""Of a longer catalog entry the middle is left out."""
_REMEMBERED_PRODUCTS = 20_000
"""In all prepared catalogs together: some 30 MB."""


class Catalog:
    """A shop's products, prepared for one model. Thread-safe: what it computes late is computed alike.

    Entries that are the same line to the model are one product, spelt as the first of them.
    """

    def __init__(self, entries: Sequence[str]) -> None:
        """Raises :class:`CatalogInvalid`, with the place of an entry that says nothing."""
        if not entries:
            raise CatalogInvalid("the catalog is empty: send at least one product")
        lines: dict[str, str] = {}
        for index, entry in enumerate(entries):
            try:
                lines.setdefault(normalise(entry), entry)
            except EmptyText:
                error = CatalogInvalid(f"catalog entry {index} is empty: leave it out")
                error.index = index
                raise error from None
        self.lines = tuple(lines)
        self.products = tuple(lines.values())
        parts = (f"{len(product)}:{product}" for product in self.products)
        self.digest = hashlib.sha256("".join(parts).encode(errors="surrogatepass")).hexdigest()
        """Of the entries as they were given."""
        self.tokens: list[TokenIds | None] = [None] * len(lines)
        self.whole: MarkedTokens | None = None
        """The prefix of all products, once it has proved to fit."""

    @cached_property
    def index(self) -> ShortlistIndex:
        return ShortlistIndex(self.lines)


@dataclass(frozen=True, slots=True)
class CartMessage:
    """A message ready for the model, behind the products of the catalog that it may mean."""

    products: tuple[str, ...]
    prefix: MarkedTokens
    message: MarkedTokens
    size: int
    """Tokens that it will likely cost: those of the prefix only when that is not known yet."""
    told: Mapping[int, int] = field(default_factory=dict)
    """Numbers in the message, and how often it tells each."""
    wording: Floats | None = field(default=None, compare=False)
    """Features (products, f) of :mod:`app.classification.wording`, where the heads ask for them."""


class CartReader:
    """Decides on carts. ``catalog`` and ``prepare`` are thread-safe; ``decide`` is the owner thread's."""

    def __init__(self, backend: Backend, model: CartModel) -> None:
        """Raises :class:`ManifestInvalid` when the prompt does not fit the backend."""
        self.backend = backend
        self.model = model
        self._prompt = CartPrompt(model.spec.prompt, backend.tokenise)
        self._room = backend.info.max_prefix_tokens - self._prompt.around_catalog
        around = self._prompt.behind_message
        if self._prompt.product_tokens([0]) > self._room or around > MAX_PROMPT_TOKENS:
            raise ManifestInvalid("the cart prompt leaves no room for products and message")
        self._catalogs: OrderedDict[tuple[str, ...], Catalog] = OrderedDict()
        self._lock = Lock()
        self._recent: OrderedDict[MarkedTokens, None] = OrderedDict()

    def known(self, entries: Sequence[str]) -> bool:
        """Whether :meth:`catalog` costs nothing for these entries."""
        return tuple(entries) in self._catalogs

    def catalog(self, entries: Sequence[str]) -> Catalog:
        """The prepared catalog, remembered for the next message. Raises :class:`CatalogInvalid`."""
        key = tuple(entries)
        with self._lock:
            found = self._catalogs.get(key)
            if found is not None:
                self._catalogs.move_to_end(key)
                return found
        made = Catalog(key)
        with self._lock:
            self._catalogs[key] = made
            total = sum(map(len, self._catalogs))
            while total > _REMEMBERED_PRODUCTS and len(self._catalogs) > 1:
                oldest, _ = self._catalogs.popitem(last=False)
                total -= len(oldest)
        return made

    def prepare(self, text: str, catalog: Catalog) -> CartMessage:
        """Choose the products that fit, and tokenise; ``text`` is normalised."""
        chosen = self._choose(text, catalog)
        if len(chosen) == len(catalog.products):
            if catalog.whole is None:
                catalog.whole = self._prefix(catalog, chosen)
            prefix, products, index = catalog.whole, catalog.products, catalog.index
        else:
            prefix = self._prefix(catalog, chosen)
            products = tuple(catalog.products[i] for i in chosen)
            # Of the chosen alone, as in training: beside thousands of lines other words are rare.
            index = ShortlistIndex([catalog.lines[i] for i in chosen])
        named = None if self.model.heads.wording is None else wording(index, text)
        message = self._prompt.message(self.backend.tokenise(text))
        new = 0 if prefix in self._recent else len(prefix.tokens)
        size = new + len(message.tokens)
        return CartMessage(products, prefix, message, size, numbers_in(text), named)

    def _choose(self, text: str, catalog: Catalog) -> Sequence[int]:
        """Places of the products to be read, in the catalog's order."""
        everything = range(len(catalog.products))
        if catalog.whole is not None:
            return everything
        few = len(catalog.products) <= MAX_PRODUCTS
        if few and sum(self._cost(catalog, i) for i in everything) <= self._room:
            return everything
        chosen: list[int] = []
        room = self._room
        for place in catalog.index.ranking(text):
            cost = self._cost(catalog, int(place))
            if cost <= room:
                chosen.append(int(place))
                room -= cost
            if len(chosen) == MAX_PRODUCTS:
                break
        return sorted(chosen)

    def _cost(self, catalog: Catalog, place: int) -> int:
        return self._prompt.product_tokens(self._tokens(catalog, place))

    def _tokens(self, catalog: Catalog, place: int) -> TokenIds:
        tokens = catalog.tokens[place]
        if tokens is None:
            longest = min(MAX_ENTRY_TOKENS, self._room - self._prompt.product_tokens([]))
            whole = list(self.backend.tokenise(catalog.lines[place]))
            tokens = catalog.tokens[place] = keep_ends(whole, longest)
        return tokens

    def _prefix(self, catalog: Catalog, chosen: Sequence[int]) -> MarkedTokens:
        return self._prompt.catalog([self._tokens(catalog, place) for place in chosen])

    def decide(self, message: CartMessage) -> CartDecision:
        """The decision; all its products are entries of the catalog, spelt as given."""
        model = self.model
        products, slots = self.backend.embed_after(
            message.prefix,
            message.message,
            lambda first: model.heads.says_all(first, message.wording),
        )
        self._remember(message.prefix)
        return model.heads.decide(
            slots, products, message.products, model.calibration, message.wording, message.told
        )

    def _remember(self, prefix: MarkedTokens) -> None:
        """The last one is held by the backend in any case; of those before it as many as it keeps."""
        self._recent[prefix] = None
        self._recent.move_to_end(prefix)
        tokens = sum(len(recent.tokens) for recent in self._recent)
        while len(self._recent) > 1 and tokens > self.backend.info.kept_prefix_tokens:
            oldest, _ = self._recent.popitem(last=False)
            tokens -= len(oldest.tokens)
