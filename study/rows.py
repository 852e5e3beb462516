"""The messages and cart rows that every configuration answers: held out, drawn by seed, kept as JSON."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from app.artifacts.manifest import write_atomically
from study.plan import NOISE_LEVELS, Sizes
from training.cart.drawing import Kind
from training.cart.generation import generate_kind
from training.examples import LANGUAGES, Example, take_split
from training.noise import noisy

SEED = 20251024
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Rows:
    """Where the rows of one study lie, by name."""

    directory: Path

    def path(self, name: str) -> Path:
        return self.directory / f"{name}.json"

    def read(self, name: str) -> list[Row]:
        content: list[Row] = json.loads(self.path(name).read_bytes())
        return content

    def write(self, name: str, rows: Sequence[Row]) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        text = json.dumps(list(rows), ensure_ascii=False, indent=0)
        write_atomically(self.path(name), text.encode() + b"\n")


def write_rows(directory: Path, sizes: Sizes) -> Rows:
    """Draw all rows; the same for the same sizes and data."""
    from training.storefront import own_messages, training_seeds  # brings torch

    rows = Rows(directory)
    test = [_message(e) for e in take_split(own_messages(), "test")]
    train = [_message(e) for e in training_seeds()]
    rows.write("messages", spread(test, sizes.messages))
    rows.write("noisy", noisy_messages(spread(test, sizes.noisy)))
    rows.write("train", spread(train, sizes.depth_rows))
    rows.write("carts", cart_rows(max(sizes.carts, sizes.carts_headline)))
    return rows


def _message(example: Example) -> Row:
    return {"text": example.text, "intent": example.intent, "language": example.language}


def spread(rows: Sequence[Row], count: int) -> list[Row]:
    """So many of the rows, every intent and language by its share, in a random order."""
    rng = random.Random(SEED)
    mixed = rng.sample(list(rows), len(rows))
    ordered = sorted(mixed, key=lambda row: (row["intent"], row["language"]))
    count = min(count, len(ordered))
    chosen = [ordered[i * len(ordered) // count] for i in range(count)]
    rng.shuffle(chosen)
    return chosen


def noisy_messages(rows: Sequence[Row]) -> list[Row]:
    """Each message at each level of noise, the levels one after another."""
    noised = []
    for level in NOISE_LEVELS:
        rng = random.Random(f"{SEED}:{level}")
        for row in rows:
            text = row["text"]
            for _ in range(level):
                text = noisy(text, row["language"], rng)
            noised.append({**row, "text": text, "level": level})
    return noised


def cart_rows(count: int) -> list[Row]:
    """Rows of the paper's task on products never trained on: one action, or (each fifth) none.

    Any first part of them has the languages and kinds in nearly the same shares.
    """
    from training.cart.encoding import json_answer

    rng = random.Random(SEED)
    rows = []
    for number in range(count):
        kind: Kind = "single"
        if number % 5 == 4:
            kind = "absent" if number % 10 == 4 else "no_action"
        made = asdict(generate_kind(kind, LANGUAGES[number % len(LANGUAGES)], "test", rng))
        rows.append(
            {
                **{name: made[name] for name in ("text", "catalog", "language", "kind")},
                "expected": json.loads(json_answer(made)),
            }
        )
    return rows
