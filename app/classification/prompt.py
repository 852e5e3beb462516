"""The text around a message, shared by training and serving: written once, stored in the manifest."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from app.artifacts.manifest import CartPromptSpec
from app.backends.base import MarkedTokens, TokenIds
from app.errors import EmptyText, ManifestInvalid

_KEPT_CONTROLS = {"\u200d"}  # zero-width joiner: holds compound emoji together
_DROPPED = {"Cc", "Cf", "Cs"}  # controls, invisible format characters, lone surrogates


@dataclass(frozen=True, slots=True)
class Prompt:
    """``<bos>`` + prefix + message + suffix; the hidden state is read at the suffix's last token."""

    prefix: str = ""
    suffix: str = "\n"


def normalise(text: str) -> str:
    """Message as the model sees it: NFC, no control characters, single spaces.

    Training passes every text through here too. Raises :class:`EmptyText` when nothing is left.
    """
    # Most messages hold no control and no space but the plain one; looking at each character costs.
    printable = text if text.isprintable() else _without_controls(text)
    # After the filter: an invisible character may stand between a letter and its accent.
    squeezed = " ".join(unicodedata.normalize("NFC", printable).split())
    if not squeezed.strip("\u200d "):
        raise EmptyText("text holds nothing to classify: send at least one visible character")
    return squeezed


def _without_controls(text: str) -> str:
    return "".join(
        " " if c.isspace() else c
        for c in text
        if c.isspace() or c in _KEPT_CONTROLS or unicodedata.category(c) not in _DROPPED
    )


def normalise_lines(text: str) -> str:
    """A cart message as the model sees it: :func:`normalise` line by line, for lists are written in lines.

    Raises :class:`EmptyText` when nothing is left.
    """
    lines = []
    for line in text.splitlines():
        with suppress(EmptyText):
            lines.append(normalise(line))
    return "\n".join(lines) or normalise("")


class CartPrompt:
    """The text around a catalog and a message, tokenised piece by piece, as in training.

    Catalog prefix: ``<bos>`` (the backend's) + ``catalog_prefix``, then every product + its suffix, at
    whose last token the product's state is read, then ``message_prefix``, so that it is computed with the
    catalog. Message: message + ``message_suffix`` + one token a slot, at which the slots' states are read.
    """

    def __init__(self, spec: CartPromptSpec, tokenise: Callable[[str], TokenIds]) -> None:
        """Raises :class:`ManifestInvalid` when a slot is not one token."""
        self._catalog_prefix = tuple(tokenise(spec.catalog_prefix))
        self._product_suffix = tuple(tokenise(spec.product_suffix))
        self._message_prefix = tuple(tokenise(spec.message_prefix))
        self._message_suffix = tuple(tokenise(spec.message_suffix))
        slots = [tuple(tokenise(slot)) for slot in spec.slots]
        if not slots or not self._product_suffix or any(len(slot) != 1 for slot in slots):
            raise ManifestInvalid("the cart prompt needs a product suffix and one token a slot")
        self._slots = tuple(slot[0] for slot in slots)

    @property
    def behind_message(self) -> int:
        """Tokens of the message part that are not the message's own."""
        return len(self._message_suffix) + len(self._slots)

    @property
    def around_catalog(self) -> int:
        """Tokens of the catalog prefix that are no product's."""
        return len(self._catalog_prefix) + len(self._message_prefix)

    def product_tokens(self, product: TokenIds) -> int:
        """What a product takes of the catalog prefix."""
        return len(product) + len(self._product_suffix)

    def catalog(self, products: Sequence[TokenIds]) -> MarkedTokens:
        """The catalog prefix of tokenised products, each marked at its end."""
        tokens = [*self._catalog_prefix]
        marks: list[int] = []
        for product in products:
            tokens += product
            tokens += self._product_suffix
            marks.append(len(tokens) - 1)
        return MarkedTokens((*tokens, *self._message_prefix), tuple(marks))

    def message(self, message: TokenIds) -> MarkedTokens:
        """The message part of a tokenised message, marked at the slots."""
        start = (*message, *self._message_suffix)
        end = len(start) + len(self._slots)
        return MarkedTokens((*start, *self._slots), tuple(range(len(start), end)))
