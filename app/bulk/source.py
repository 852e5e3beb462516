"""Stored messages, in parts of so many rows that any process can read by number."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from app.artifacts.manifest import sha256_of
from app.errors import ShopintentError

ROW = "row"
"""The column that says which row of the input it was, counted from 0."""
_HALF = re.compile("[\ud800-\udfff]")
"""Of a character beyond U+FFFF, as JSON escapes it: of use only beside the other half."""


class InputUnusable(ShopintentError):
    """The file of messages cannot be read, or has not the columns that were asked for."""


@dataclass(frozen=True, slots=True)
class Columns:
    """``text`` is classified; ``keep`` goes into the output as it is."""

    text: str = "text"
    keep: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Part:
    """Some rows in order. A text is None where the row has none, is no JSON or no UTF-8.

    ``kept`` has the row numbers, then the columns to keep.
    """

    texts: Sequence[str | None]
    kept: pa.Table


class Source(Protocol):
    """A file that is read part by part; ``sha256`` is the whole file's."""

    rows: int
    sha256: str

    def part(self, number: int) -> Part: ...


def open_source(path: Path, columns: Columns, part_rows: int) -> Source:
    """The messages in ``path``: Parquet by its ending, else one JSON object a line.

    Raises :class:`InputUnusable`.
    """
    try:
        if path.suffix in {".parquet", ".pq"}:
            return ParquetSource(path, columns, part_rows)
        return JsonLinesSource(path, columns, part_rows)
    except (OSError, pa.ArrowException) as error:
        raise InputUnusable(f"{path} cannot be read: {error}") from error


class JsonLinesSource:
    """One JSON object a line; empty lines do not count. Kept fields become strings.

    A field that is no string is kept as its JSON text: its type may differ from line to line. Halves of
    characters, which JSON can write and no column hold, become U+FFFD.
    """

    def __init__(self, path: Path, columns: Columns, part_rows: int) -> None:
        self._path = path
        self._columns = columns
        self._part_rows = part_rows
        self.rows = 0
        self._offsets: list[int] = []
        """Where each part begins, in bytes."""
        digest = hashlib.sha256()
        position = 0
        with path.open("rb") as stream:
            for line in stream:
                digest.update(line)
                if line.strip():
                    if self.rows % part_rows == 0:
                        self._offsets.append(position)
                    self.rows += 1
                position += len(line)
        self.sha256 = digest.hexdigest()

    def part(self, number: int) -> Part:
        objects = [_object(line) for line in self._lines(number)]
        first = number * self._part_rows
        kept = {
            name: pa.array([_as_string(one.get(name)) for one in objects], pa.string())
            for name in self._columns.keep
        }
        texts = [one.get(self._columns.text) for one in objects]
        return Part(
            [text if isinstance(text, str) else None for text in texts],
            pa.table({ROW: pa.array(range(first, first + len(objects)), pa.int64()), **kept}),
        )

    def _lines(self, number: int) -> list[bytes]:
        lines: list[bytes] = []
        with self._path.open("rb") as stream:
            stream.seek(self._offsets[number])
            for line in stream:
                if line.strip():
                    lines.append(line)
                if len(lines) == self._part_rows:
                    break
        return lines


class ParquetSource:
    """Kept columns have their own types."""

    def __init__(self, path: Path, columns: Columns, part_rows: int) -> None:
        self._path = path
        self._columns = columns
        self._part_rows = part_rows
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            groups = [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)]
        missing = {columns.text, *columns.keep} - set(schema.names)
        if missing:
            raise InputUnusable(f"{path} has no column {min(missing)!r}: {', '.join(schema.names)}")
        text = schema.field(columns.text).type
        plain = text.value_type if pa.types.is_dictionary(text) else text
        if not (pa.types.is_string(plain) or pa.types.is_large_string(plain)):
            raise InputUnusable(f"the column {columns.text!r} of {path} holds {text}, not text")
        self._groups = groups
        self.rows = sum(groups)
        self.sha256 = sha256_of(path)

    def part(self, number: int) -> Part:
        first = number * self._part_rows
        count = min(self._part_rows, self.rows - first)
        groups, before = self._covering(first, first + count)
        wanted = list(dict.fromkeys((self._columns.text, *self._columns.keep)))
        with pq.ParquetFile(self._path) as file:
            table = file.read_row_groups(groups, columns=wanted).slice(first - before, count)
        kept = {name: table.column(name) for name in self._columns.keep}
        texts = pc.cast(table.column(self._columns.text), pa.string())
        return Part(
            # Not all that writes Parquet looks whether a text is UTF-8.
            [_decoded(text) for text in pc.cast(texts, pa.binary()).to_pylist()],
            pa.table({ROW: pa.array(range(first, first + count), pa.int64()), **kept}),
        )

    def _covering(self, first: int, end: int) -> tuple[list[int], int]:
        """The row groups that hold these rows, and how many rows come before them."""
        covering: list[int] = []
        before = start = 0
        for number, rows in enumerate(self._groups):
            if start < end and start + rows > first:
                if not covering:
                    before = start
                covering.append(number)
            start += rows
        return covering, before


def _object(line: bytes) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):  # no JSON, or nested too deeply
        return {}
    return found if isinstance(found, dict) else {}


def _decoded(text: bytes | None) -> str | None:
    try:
        return None if text is None else text.decode()
    except UnicodeDecodeError:
        return None


def _as_string(value: object) -> str | None:
    if value is None:
        return None
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return _HALF.sub("\ufffd", text)
