"""Labelled messages: what they are, how the project's own ones are read and how they are split."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from app.classification.prompt import normalise
from app.domain import OUT_OF_SCOPE

HERE = Path(__file__).parent
SEEDS = HERE / "data" / "seeds"
LATE = HERE / "data" / "late"
"""Messages that came after the splits had been drawn: all for training, none near a measured one."""
WILD = HERE / "data" / "wild.jsonl"
STRANGERS = HERE / "data" / "strangers.jsonl"
"""Two test sets written from the taxonomy alone, by hands that saw no seed; never trained on."""
TAXONOMY = HERE / "taxonomy.toml"
LANGUAGES = ("en", "hr", "es")

Split = Literal["train", "dev", "test"]


@dataclass(frozen=True, slots=True)
class Example:
    """A message and what it means.

    ``family`` names the seed that it comes from: whatever shares a family stays on one side of every
    split. ``slots`` maps kinds ("product", "quantity" ...) to substrings that may be swapped.
    """

    text: str
    intent: str
    language: str = "en"
    origin: str = "seed"
    family: str = ""
    slots: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Intent:
    """An entry of the taxonomy. ``not_this`` names the neighbours and where the line to them runs."""

    name: str
    group: str
    definition: str
    not_this: str = ""
    examples: tuple[str, ...] = ()


def read_taxonomy(path: Path = TAXONOMY) -> tuple[Intent, ...]:
    """The in-scope intents in the order of the head's rows."""
    content: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    return tuple(
        Intent(
            name,
            entry["group"],
            entry["definition"],
            entry["not_this"],
            tuple(entry["examples"]),
        )
        for name, entry in content["intents"].items()
    )


def read_seeds(directory: Path = SEEDS) -> list[Example]:
    """The project's own utterances: ``<language>/<intent>.jsonl``, near and far negatives apart."""
    examples = []
    for path in sorted(directory.glob("*/*.jsonl")):
        language, intent = path.parent.name, path.name.split(".")[0]
        kind = path.name.split(".")[1]
        origin = "seed" if kind == "jsonl" else f"seed-{kind}"
        for row in read_rows(path):
            text = normalise(row["text"])
            family = f"{origin}:{_digest(text)}"
            slots = {
                kind: value for kind, value in row.get("slots", {}).items() if str(value) in text
            }
            examples.append(Example(text, intent, language, origin, family, slots))
    return distinct(examples)


def read_late(directory: Path = LATE) -> list[Example]:
    """The messages for training only: ``<language>.jsonl``, rows of intent and text."""
    examples = []
    for path in sorted(directory.glob("*.jsonl")):
        for row in read_rows(path):
            text = normalise(row["text"])
            family = f"late:{_digest(text)}"
            examples.append(Example(text, row["intent"], path.stem, "late", family))
    return distinct(examples)


def read_labelled(path: Path, origin: str) -> list[Example]:
    """JSONL rows of text, intent and language, such as the wild set."""
    return [
        Example(normalise(row["text"]), row["intent"], row["language"], origin)
        for row in read_rows(path)
    ]


def read_rows(path: Path) -> list[dict[str, Any]]:
    """JSON objects, one a line."""
    with path.open(encoding="utf-8") as stream:
        return [json.loads(line) for line in stream if line.strip()]


def distinct(examples: Iterable[Example]) -> list[Example]:
    """The first of each text, compared without case; a text under two intents is dropped whole."""
    first: dict[str, Example] = {}
    conflicting = set()
    for example in examples:
        key = example.text.casefold()
        if key in first and first[key].intent != example.intent:
            conflicting.add(key)
        first.setdefault(key, example)
    return [example for key, example in first.items() if key not in conflicting]


def split_of(example: Example, dev: float = 0.1, test: float = 0.1) -> Split:
    """Which side an example stands on, by the digest of its family: stable as data grows."""
    place = int(_digest(example.family or example.text), 16) / 16**12
    if place < test:
        return "test"
    return "dev" if place < test + dev else "train"


def take_split(examples: Iterable[Example], split: Split) -> list[Example]:
    return [example for example in examples if split_of(example) == split]


def negative(example: Example) -> Example:
    """The same message where none of its intents is served."""
    return replace(example, intent=OUT_OF_SCOPE)


def labels_of(examples: Sequence[Example]) -> tuple[str, ...]:
    """Sorted intents with :data:`OUT_OF_SCOPE` last, whether it occurs or not."""
    intents = sorted({example.intent for example in examples} - {OUT_OF_SCOPE})
    return (*intents, OUT_OF_SCOPE)


def _digest(text: str) -> str:
    return hashlib.sha256(text.casefold().encode()).hexdigest()[:12]
