"""Cart requests: the way of :mod:`app.serving.service`, with a catalog beside the message."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter

from app import metrics
from app.classification.cart_reader import CartMessage, CartReader, Catalog
from app.classification.prompt import normalise_lines
from app.domain import CartDecision, ModelRef, Timings
from app.errors import CatalogInvalid, EmptyText, NoCartModel, ShopintentError
from app.serving.cache import Key
from app.serving.live_model import LiveModel
from app.serving.service import Service
from app.serving.ticket import Outcome, Ticket

_MANY_ENTRIES = 100
"""From here on, preparing a catalog would hold up the event loop for milliseconds."""


@dataclass(frozen=True, slots=True)
class CartAnswer:
    """The answer to one cart message."""

    cart: CartDecision
    model: ModelRef
    timings: Timings


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingCart:
    """An admitted request, to be awaited or abandoned like :class:`app.serving.service.Pending`."""

    service: Service
    model: LiveModel
    ref: ModelRef
    key: Key
    known: CartDecision | None
    """From the cache."""
    ticket: Ticket | None
    """Where there is nothing in the cache."""
    started: float
    tokens: int
    """That the model has to read for it: none from the cache, and none of a catalog that it knows."""

    @property
    def done(self) -> bool:
        """Nothing has to be computed, or it is."""
        return self.ticket is None or self.ticket.future.done()

    def abandon(self) -> None:
        """Drop it if it still waits. Whoever awaits :meth:`decisions` is cancelled."""
        if self.ticket is not None:
            self.ticket.abandon()
            self.model.queue.leave(self.ticket)

    async def decisions(self) -> list[CartAnswer]:
        """The one answer. Raises what made the request fail."""
        outcome = Outcome(self.known) if self.known is not None else await self._computed()
        cart, ref = outcome.cart, self.ref
        metrics.CART_DECISIONS.labels(ref.name, ref.version, cart.outcome).inc()
        metrics.CART_CONSIDERED.labels(ref.name).observe(cart.considered)
        total = perf_counter() - self.started
        return [CartAnswer(cart, ref, Timings(outcome.queue, outcome.inference, total))]

    async def _computed(self) -> Outcome:
        assert self.ticket is not None
        try:
            outcome = (await self.ticket.future)[0]
        except BaseException:
            self.abandon()
            raise
        self.service.cache.put(self.key, outcome.cart)
        return outcome


async def admit_cart(
    service: Service,
    text: str,
    catalog: Sequence[str],
    model: str | None = None,
    deadline: float | None = None,
) -> PendingCart:
    """Take a request or refuse it at once, as :meth:`Service.admit` does.

    Raises :class:`NoCartModel` and :class:`CatalogInvalid` too.
    """
    started = perf_counter()
    service.check_open()
    _reader(service, service.registry.get(model))
    service.check_size([text])
    _check_catalog(service, catalog)
    try:
        normal = normalise_lines(text)
    except EmptyText as error:
        error.index = 0  # as of a batch of one: the answer names the field
        raise
    while True:
        live = service.registry.get(model)
        try:
            return await _take(service, live, normal, catalog, started, deadline)
        except ShopintentError:
            if live is service.registry.get(model):
                raise
            # The version was replaced between two steps of this request: ask its successor.


async def _take(
    service: Service,
    live: LiveModel,
    text: str,
    entries: Sequence[str],
    started: float,
    deadline: float | None,
) -> PendingCart:
    reader = _reader(service, live)
    if len(entries) < _MANY_ENTRIES or reader.known(entries):
        catalog = reader.catalog(entries)
    else:
        catalog = await asyncio.to_thread(reader.catalog, entries)
    key = (live.digest, f"cart\0{catalog.digest}\0{text}")
    known = service.cache.get(key)
    assert known is None or isinstance(known, CartDecision)
    ticket = None
    tokens = 0
    if known is None:
        if live.queue.full:  # the cheap refusal: before anything is tokenised
            raise live.queue.refusal()
        message = await _prepare(reader, text, catalog)
        tokens = message.size
        ticket = service.enter(live, [(0, message)], started, deadline)
    return PendingCart(
        service=service,
        model=live,
        ref=live.ref,
        key=key,
        known=known,
        ticket=ticket,
        started=started,
        tokens=tokens,
    )


async def _prepare(reader: CartReader, text: str, catalog: Catalog) -> CartMessage:
    if len(catalog.products) < _MANY_ENTRIES:
        return reader.prepare(text, catalog)
    return await asyncio.to_thread(reader.prepare, text, catalog)


def _reader(service: Service, live: LiveModel) -> CartReader:
    reader = live.loaded.classifier.cart
    if reader is not None:
        return reader
    able = [name for name, one in service.registry.models.items() if one.reads_carts]
    raise NoCartModel(
        f"the model {live.name!r} reads intents only; "
        + (f"carts are read by: {', '.join(able)}" if able else "no model served here reads carts")
    )


def _check_catalog(service: Service, catalog: Sequence[str]) -> None:
    limits = service.limits
    if len(catalog) > limits.catalog_entries:
        raise CatalogInvalid(f"at most {limits.catalog_entries} products in one catalog")
    for index, entry in enumerate(catalog):
        if len(entry) > limits.entry_chars:
            error = CatalogInvalid(
                f"catalog entry {index} is too long: at most {limits.entry_chars} characters"
            )
            error.index = index
            raise error
