"""What the serving backend reads of cart rows: the states that heads are calibrated and measured on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from app.artifacts.base_package import Progress, silent
from app.artifacts.manifest import CartSpec
from app.backends.base import Backend
from app.classification.cart import CartCalibration, CartHeads, CartModel, CartScores
from app.classification.cart_reader import CartReader
from app.classification.prompt import normalise_lines
from app.classification.wording import Floats

Halves = npt.NDArray[np.float16]


@dataclass(frozen=True, slots=True)
class ReadRow:
    """A row and its states, as they were computed: ``slots`` (s, hidden), ``products`` (n, hidden).

    Kept in half precision: thousands of rows stay in memory. ``wording`` (n, f).
    """

    row: Mapping[str, Any]
    names: tuple[str, ...]
    """Of the products that were read: all of a catalog of up to 60."""
    slots: Halves
    products: Halves
    wording: Floats
    told: Mapping[int, int]

    def scores(self, heads: CartHeads) -> CartScores:
        return heads.score(
            self.slots.astype(np.float32),
            self.products.astype(np.float32),
            self.wording,
            self.told,
        )


def read_carts(
    backend: Backend,
    heads: CartHeads,
    rows: Sequence[Mapping[str, Any]],
    progress: Progress = silent,
    task: str = "read carts",
) -> list[ReadRow]:
    """The rows' states, in order, by the code that serves; neighbours of one catalog share its cost."""
    reader = CartReader(backend, CartModel(CartSpec(), heads, CartCalibration()))
    read = []
    for number, row in enumerate(rows, start=1):
        message = reader.prepare(normalise_lines(row["text"]), reader.catalog(row["catalog"]))
        assert message.wording is not None
        products, slots = backend.embed_after(message.prefix, message.message)
        halves = slots.astype(np.float16), products.astype(np.float16)
        read.append(ReadRow(row, message.products, *halves, message.wording, message.told))
        progress(task, number, len(rows))
    return read
