"""A shop's own CSV: read, checked and explained before any long work begins."""

from __future__ import annotations

import csv
import io
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from app.classification.prompt import normalise
from app.domain import OUT_OF_SCOPE
from app.errors import EmptyText, InputError
from training.examples import Example

MAX_ROWS = 100_000
MAX_CHARACTERS = 2_000
_FEW = 5
_TOO_MANY = "\n"
"""Where the reader puts the fields of a row that the header does not name. No column is called so."""


class BadTrainingFile(InputError):
    """The file cannot be trained on; the message says which row and what to do."""


@dataclass(frozen=True, slots=True)
class ShopRows:
    """Usable rows, and what a person should know about the rest."""

    examples: tuple[Example, ...]
    warnings: tuple[str, ...]


def read_shop_csv(
    path: Path, known_intents: frozenset[str] | None = None, *, repeated_count: bool = False
) -> ShopRows:
    """Rows of the columns ``text`` and ``intent``; UTF-8, with or without a byte-order mark.

    ``known_intents`` (for a dev file) must hold every intent that occurs. Exact repetitions are
    dropped, unless ``repeated_count`` says that they are part of what is measured; empty texts are
    skipped. One text under two intents is an error, as only its author can tell
    which is right. Raises :class:`BadTrainingFile`.
    """
    examples: list[Example] = []
    seen: dict[str, tuple[str, int]] = {}
    empty = repeated = cut = 0
    for number, raw, intent in _rows(path):
        try:
            text = normalise(raw)
        except EmptyText:
            empty += 1
            continue
        cut += len(text) > MAX_CHARACTERS
        text = text[:MAX_CHARACTERS]
        key = text.casefold()
        if key in seen and not repeated_count:
            other, first = seen[key]
            if other != intent:
                raise BadTrainingFile(
                    f"{path.name}: lines {first} and {number} hold the same text under {other!r} and "
                    f"{intent!r}: keep one of them"
                )
            repeated += 1
            continue
        seen[key] = (intent, number)
        if known_intents is not None and intent not in known_intents and intent != OUT_OF_SCOPE:
            raise BadTrainingFile(
                f"{path.name}: line {number}: intent {intent!r} does not occur in the training file"
            )
        examples.append(Example(text, intent, origin="shop"))
        if len(examples) > MAX_ROWS:
            raise BadTrainingFile(f"{path.name}: more than {MAX_ROWS:,} rows: train on a sample")
    if not examples:
        # A test file without a message could only be told of after all the work.
        raise BadTrainingFile(f"{path.name}: none of its {empty} rows holds a text")
    return ShopRows(tuple(examples), _warnings(path, examples, empty, repeated, cut))


def require_trainable(rows: ShopRows, path: Path) -> None:
    """At least two intents, and more than one example of some. Raises :class:`BadTrainingFile`."""
    counts = Counter(e.intent for e in rows.examples if e.intent != OUT_OF_SCOPE)
    if len(counts) < 2:
        raise BadTrainingFile(
            f"{path.name}: {len(counts)} intent besides {OUT_OF_SCOPE!r}: "
            "a classifier needs at least two, with a few examples each"
        )
    if len(rows.examples) < 10 or max(counts.values()) < 2:
        raise BadTrainingFile(
            f"{path.name}: {len(rows.examples)} usable rows are too few: "
            "give at least ten, and more than one example an intent (20 each work well)"
        )


def _rows(path: Path) -> list[tuple[int, str, str]]:
    try:
        content = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise BadTrainingFile(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise BadTrainingFile(
            f"{path.name}: line {line} is not UTF-8: save the file as 'CSV UTF-8' and try again"
        ) from error
    csv.field_size_limit(1 << 20)
    # Not `splitlines`, which ends a line at U+2028 and the like too, within a text.
    reader = csv.DictReader(io.StringIO(content, newline=""), strict=True)
    try:
        return _checked_rows(path, reader)
    except csv.Error as error:
        # The row that cannot be read begins after the last one that could.
        raise BadTrainingFile(f"{path.name}: line {reader.line_num + 1}: {error}") from error


def _checked_rows(path: Path, reader: csv.DictReader[str]) -> list[tuple[int, str, str]]:
    columns = [column.strip().lower() for column in reader.fieldnames or []]
    missing = [column for column in ("text", "intent") if column not in columns]
    if missing:
        raise BadTrainingFile(
            f"{path.name}: no column {' and '.join(map(repr, missing))}; the first line must name the "
            f"columns text,intent (found: {', '.join(columns)[:120] or 'nothing'})"
        )
    reader.fieldnames = columns
    reader.restkey = _TOO_MANY
    rows = []
    for row in reader:
        if _TOO_MANY in row:
            raise BadTrainingFile(
                f"{path.name}: line {reader.line_num} has {len(columns) + len(row[_TOO_MANY])} fields, "
                f"the header has {len(columns)}: put the text in quotes"
            )
        intent = (row["intent"] or "").strip()
        if not intent and (row["text"] or "").strip():
            raise BadTrainingFile(f"{path.name}: line {reader.line_num} has no intent")
        rows.append((reader.line_num, row["text"] or "", intent))
    if not rows:
        raise BadTrainingFile(f"{path.name} has a header but no rows")
    return rows


def _warnings(
    path: Path, examples: list[Example], empty: int, repeated: int, cut: int
) -> tuple[str, ...]:
    few = [
        intent
        for intent, count in Counter(e.intent for e in examples).items()
        if count < _FEW and intent != OUT_OF_SCOPE
    ]
    said = []
    if empty:
        said.append(f"{path.name}: {empty} rows without text were skipped")
    if repeated:
        said.append(f"{path.name}: {repeated} repeated rows were dropped")
    if cut:
        said.append(f"{path.name}: {cut} texts were cut to {MAX_CHARACTERS:,} characters")
    if few:
        names = ", ".join(sorted(few)[:8])
        said.append(f"{len(few)} intents have fewer than {_FEW} examples: {names}")
    return tuple(said)
