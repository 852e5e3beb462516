"""The text around a message, shared by training and serving: written once, stored in the manifest."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

from app.errors import EmptyText

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
    printable = "".join(
        " " if c.isspace() else c
        for c in text
        if c.isspace() or c in _KEPT_CONTROLS or unicodedata.category(c) not in _DROPPED
    )
    # After the filter: an invisible character may stand between a letter and its accent.
    squeezed = " ".join(unicodedata.normalize("NFC", printable).split())
    if not squeezed.strip("\u200d "):
        raise EmptyText("text holds nothing to classify: send at least one visible character")
    return squeezed
