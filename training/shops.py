"""Made-up shops of many trades, each with intents of its own: what new shops start from.

``data/shops/<language>/<trade>.jsonl`` holds one shop's messages, written for this project. Its intents are
cut as that shop's support would cut them and mean nothing elsewhere: each shop is a label set of its
own, whose head is thrown away after training.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from app.classification.prompt import normalise
from training.examples import HERE, Example, distinct, read_rows

SHOPS = HERE / "data" / "shops"


def read_shops(directory: Path = SHOPS) -> Mapping[str, list[Example]]:
    """Messages by trade. A message that stands under two intents of a shop is left out."""
    shops = {}
    for path in sorted(directory.glob("*/*.jsonl")):
        language = path.parent.name
        shops[path.stem] = distinct(
            Example(normalise(row["text"]), row["intent"], language, f"shop {path.stem}")
            for row in read_rows(path)
        )
    return shops
