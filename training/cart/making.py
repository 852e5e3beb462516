"""The cart part of an artifact, made on the weights that it will be served with."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from app.artifacts.base_package import Progress, silent
from app.artifacts.manifest import CartGolden, CartGoldenAction, CartSpec, write_atomically
from app.backends.base import Backend
from app.classification.cart import CartHeads, CartModel
from app.classification.cart_reader import CartReader
from app.classification.prompt import normalise_lines
from training.cart.generation import generate_together
from training.cart.measuring import CartMeasure, calibrate_carts, measure_carts
from training.cart.products import Split
from training.cart.reading import ReadRow, read_carts
from training.cart.validation import check_row
from training.cart.written import (
    UNREAD_CARTS,
    WILD_CARTS,
    calibration_carts,
    measured_carts,
)
from training.examples import LANGUAGES

REPORT = "carts.json"
TOGETHER = 4
"""Messages about one catalog: it is most of what a row costs, and is computed once."""


@dataclass(frozen=True, slots=True)
class CartSizes:
    """Rows over the three languages."""

    dev: int = 900
    test: int = 3000
    """Of all kinds, a thousand a language."""


@dataclass(frozen=True, slots=True)
class MadeCart:
    """The model, and what it was measured to be.

    On ``dev`` and ``written``, which calibrate it, on ``unread``, by which mixtures of runs may be chosen,
    and on ``test`` and ``wild``.
    """

    model: CartModel
    measures: dict[str, CartMeasure]


def make_cart(
    backend: Backend,
    heads: CartHeads,
    goldens: Sequence[tuple[str, tuple[str, ...]]],
    seed: int,
    sizes: CartSizes | None = None,
    progress: Progress = silent,
) -> MadeCart:
    """Calibrate heads on catalogs that are new to the weights, and measure them.

    They are calibrated on as many generated rows as there are written ones. ``goldens`` are messages
    with catalogs, whose answers every load must give again.
    """
    sizes = sizes or CartSizes()

    def read(name: str, rows: Sequence[Mapping[str, Any]]) -> list[ReadRow]:
        return read_carts(backend, heads, rows, progress, f"carts: {name}")

    dev = read("dev", draw_rows("dev", sizes.dev, seed))
    written = read("written", calibration_carts())
    generated = random.Random(seed).sample(dev, min(len(dev), len(written)))
    calibration = calibrate_carts(heads, [*generated, *written])
    found = {
        "dev": dev,
        "written": written,
        "test": read("test", draw_rows("test", sizes.test, seed)),
        "wild": read("wild", measured_carts(WILD_CARTS)),
        "unread": read("unread", measured_carts(UNREAD_CARTS)),
    }
    measures = {name: measure_carts(heads, rows, calibration) for name, rows in found.items()}
    model = CartModel(CartSpec(), heads, calibration)
    spec = CartSpec(golden=tuple(answer_goldens(CartReader(backend, model), goldens)))
    return MadeCart(CartModel(spec, heads, calibration), measures)


def draw_rows(split: Split, count: int, seed: int) -> list[dict[str, Any]]:
    """Checked rows, as many in each language, several about each catalog."""
    rows: list[dict[str, Any]] = []
    each = -(-count // len(LANGUAGES))
    for language in LANGUAGES:
        rng = random.Random(f"{seed}:{split}:{language}:together")
        rows += _take(_sound(language, split, rng), each)
    return rows


def _sound(language: str, split: Split, rng: random.Random) -> Iterator[dict[str, Any]]:
    while True:
        for row in generate_together(language, split, rng, TOGETHER):
            written = asdict(row)
            if not check_row(written, split):
                yield written


def _take(rows: Iterator[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    return [next(rows) for _ in range(count)]


def answer_goldens(
    reader: CartReader, goldens: Sequence[tuple[str, tuple[str, ...]]]
) -> Iterator[CartGolden]:
    for text, catalog in goldens:
        decision = reader.decide(reader.prepare(normalise_lines(text), reader.catalog(catalog)))
        yield CartGolden(
            text=text,
            catalog=catalog,
            outcome=decision.outcome,  # type: ignore[arg-type]
            actions=tuple(
                CartGoldenAction(action=a.action, product=a.product, quantity=a.quantity)  # type: ignore[arg-type]
                for a in decision.actions
            ),
        )


def write_cart_report(directory: Path, made: MadeCart) -> tuple[str, ...]:
    """Exact decisions by kind and language, with 95% Wilson intervals, beside the artifact."""
    content = {
        split: {
            "ece": round(measure.ece, 4),
            "exact": {
                key: {name: round(value, 4) for name, value in asdict(found).items()}
                for key, found in measure.exact.items()
            },
        }
        for split, measure in made.measures.items()
    }
    write_atomically(directory / REPORT, json.dumps(content, indent=1).encode() + b"\n")
    return (REPORT,)
