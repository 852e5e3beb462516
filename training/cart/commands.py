"""The commands about cart data: `cart-data` and `cart-stats`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from training.terminal import ProgressLine

_screen = Console(stderr=True)


def cart_data(
    out: Annotated[Path, typer.Option(help="Folder to write train, dev and test JSONL into.")],
    seed: Annotated[int, typer.Option(help="Same seed, same rows.")] = 20,
    train: Annotated[int, typer.Option(help="Rows over the three languages.")] = 12000,
    dev: Annotated[int, typer.Option(help="Rows over the three languages.")] = 1500,
    test: Annotated[int, typer.Option(help="Rows a language.")] = 1000,
) -> None:
    """Write cart messages with their catalogs and actions, checked row by row."""
    from training.cart.dataset import write_dataset

    with ProgressLine(_screen) as progress:
        counts = write_dataset(out, seed, train, dev, test, progress)
    for split, count in counts.items():
        _screen.print(f"{split}: {count} rows in {out / f'{split}.jsonl'}", highlight=False)


def cart_stats(
    data: Annotated[Path | None, typer.Option(help="Folder that cart-data wrote.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on standard output.")] = False,
) -> None:
    """Count the hand-written products and phrasings, and written rows with --data."""
    from training.cart.dataset import dataset_counts, source_counts

    counts: dict[str, Any] = {"sources": source_counts()}
    if data:
        counts["rows"] = dataset_counts(data)
    if as_json:
        typer.echo(json.dumps(counts, indent=1, ensure_ascii=False))
        return
    for title, group in counts.items():
        table = Table("", "count", title=title)
        for name, entry in group.items():
            for key, value in entry.items():
                told = (
                    ", ".join(f"{k} {v}" for k, v in value.items())
                    if isinstance(value, dict)
                    else value
                )
                table.add_row(f"{name} {key}", str(told))
        _screen.print(table)
