"""Files of messages, read part by part."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from app.bulk.source import Columns, InputUnusable, Source, open_source

KEEP = Columns(keep=("id",))


def texts(source: Source, part_rows: int) -> list[str | None]:
    count = -(-source.rows // part_rows)
    return [text for number in range(count) for text in source.part(number).texts]


@pytest.mark.parametrize("part_rows", [1, 2, 3, 5, 100])
@pytest.mark.parametrize("last", ["\n", ""])
def test_lines_come_in_order(tmp_path: Path, part_rows: int, last: str) -> None:
    """However they are cut into parts, with or without empty lines and a last newline."""
    path = tmp_path / "in.jsonl"
    said = [f"čekam paket {n}" for n in range(5)]
    path.write_text("\n\n".join(json.dumps({"text": text}) for text in said) + last)
    source = open_source(path, Columns(), part_rows)
    assert source.rows == 5
    assert texts(source, part_rows) == said


@pytest.mark.parametrize(
    "line",
    [
        *("not json", "[]", "5", "{}", '{"text": 5}', '{"text": null}'),
        *("[" * 100_000, '{"text": ' + "[" * 100_000),
    ],
    ids=lambda line: line[:20],
)
def test_line_without_text_is_a_row_without_text(tmp_path: Path, line: str) -> None:
    """One bad line in a million stops nothing, and shifts no other."""
    path = tmp_path / "in.jsonl"
    path.write_text(f'{{"text": "a"}}\n{line}\n{{"text": "b"}}\n')
    assert texts(open_source(path, Columns(), 10), 10) == ["a", None, "b"]


def test_bytes_that_are_not_utf8_are_a_row_without_text(tmp_path: Path) -> None:
    """A file in another encoding does not stop the job."""
    path = tmp_path / "in.jsonl"
    path.write_bytes(b'{"text": "a"}\n{"text": "\xe8ekam"}\n')
    assert texts(open_source(path, Columns(), 10), 10) == ["a", None]


def test_kept_fields_of_lines_are_strings(tmp_path: Path) -> None:
    """A field may have another type on each line: what is no string is kept as JSON."""
    path = tmp_path / "in.jsonl"
    path.write_text('{"text": "a", "id": 7}\n{"text": "a", "id": "x"}\n{"text": "a"}\n')
    kept = open_source(path, KEEP, 10).part(0).kept
    assert kept.to_pydict() == {"row": [0, 1, 2], "id": ["7", "x", None]}


def test_half_a_character_is_kept_as_a_replaced_one(tmp_path: Path) -> None:
    """A message that was cut inside an emoji, or inside a field that is kept as JSON; whole ones stay."""
    path = tmp_path / "in.jsonl"
    path.write_text(
        '{"text": "love it \\ud83d", "id": "love it \\ud83d"}\n'
        '{"text": "b", "id": ["\\ude00", "\\ud83d\\ude00"]}\n'
    )
    part = open_source(path, KEEP, 10).part(0)
    assert part.kept["id"].to_pylist() == ["love it \ufffd", '["\ufffd", "😀"]']
    assert part.texts[1] == "b"


@pytest.mark.parametrize("part_rows", [1, 3, 4, 7, 100])
@pytest.mark.parametrize("group", [1, 4, 10])
@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), "dictionary"])
def test_parquet_parts_cross_row_groups(
    tmp_path: Path, part_rows: int, group: int, kind: object
) -> None:
    """Rows stay in order and beside their kept columns, whatever the file's layout and text type."""
    path = tmp_path / "in.parquet"
    column = pa.array([f"m {n}" for n in range(10)])
    column = column.dictionary_encode() if kind == "dictionary" else column.cast(kind)
    pq.write_table(pa.table({"id": range(10), "text": column}), path, row_group_size=group)
    source = open_source(path, KEEP, part_rows)
    count = -(-10 // part_rows)
    assert texts(source, part_rows) == [f"m {n}" for n in range(10)]
    kept = pa.concat_tables([source.part(n).kept for n in range(count)])
    assert kept.to_pydict() == {"row": list(range(10)), "id": list(range(10))}
    assert kept.schema.field("id").type == pa.int64()


def test_parquet_null_is_a_row_without_text(tmp_path: Path) -> None:
    """A message that is not there is none."""
    path = tmp_path / "in.parquet"
    pq.write_table(pa.table({"text": ["a", None]}), path)
    assert texts(open_source(path, Columns(), 10), 10) == ["a", None]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), "dictionary"])
def test_parquet_text_that_is_no_utf8_is_a_row_without_text(tmp_path: Path, kind: object) -> None:
    """Some writers do not look; the rows beside it have their texts."""
    path = tmp_path / "in.parquet"
    large = kind == pa.large_string()
    raw = pa.array([b"a", b"caf\xe9", None], pa.large_binary() if large else pa.binary())
    column = raw.view(pa.large_string() if large else pa.string())
    column = column.dictionary_encode() if kind == "dictionary" else column
    pq.write_table(pa.table({"text": column}), path)
    assert texts(open_source(path, Columns(), 10), 10) == ["a", None, None]


@pytest.mark.parametrize(
    ("table", "columns"),
    [({"body": ["a"]}, Columns()), ({"text": [5]}, Columns()), ({"text": ["a"]}, KEEP)],
)
def test_unfit_parquet_is_refused(
    tmp_path: Path, table: dict[str, list[object]], columns: Columns
) -> None:
    """A column that is not there, or holds no text, is named before any work is done."""
    path = tmp_path / "in.parquet"
    pq.write_table(pa.table(table), path)
    with pytest.raises(InputUnusable):
        open_source(path, columns, 10)


@pytest.mark.parametrize("name", ["in.jsonl", "in.parquet"])
def test_missing_file_is_refused(tmp_path: Path, name: str) -> None:
    """With a sentence, not a traceback."""
    with pytest.raises(InputUnusable):
        open_source(tmp_path / name, Columns(), 10)


def test_parquet_in_name_only_is_refused(tmp_path: Path) -> None:
    """The same."""
    path = tmp_path / "in.parquet"
    path.write_text('{"text": "a"}\n')
    with pytest.raises(InputUnusable):
        open_source(path, Columns(), 10)
