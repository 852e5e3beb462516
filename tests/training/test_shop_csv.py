from __future__ import annotations

from pathlib import Path

import pytest

from training import shop_csv
from training.shop_csv import BadTrainingFile, read_shop_csv, require_trainable


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    return tmp_path / "shop.csv"


def test_rows_are_read_as_shops_write_them(shop: Path):
    """A byte-order mark, capitals in the header, more columns, quotes and line breaks are all fine."""
    shop.write_bytes('\ufeffText, INTENT,who\n"wo ist,\n es?",status,x\n'.encode())
    (row,) = read_shop_csv(shop).examples
    assert (row.text, row.intent, row.origin) == ("wo ist, es?", "status", "shop")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no column 'text' and 'intent'"),
        (b"text,label\na,b\n", "no column 'intent'"),
        (b"text,intent\n", "no rows"),
        (b"text,intent\nhello,\n", "line 2 has no intent"),
        (b"text,intent\nhello,a\nHELLO,b\n", "lines 2 and 3 hold the same text"),
        (b"text,intent\nok,a\ncaf\xe9,b\n", "line 3 is not UTF-8"),
        (b'text,intent\nhi,a\n"open,a\nhello,b\n', "line 3: unexpected end"),
        (
            b"text,intent\nhi,a\nhello, where is it,b\n",
            "line 3 has 3 fields, the header has 2: put the text in quotes",
        ),
        (b"x" * (2 << 20) + b",intent\nhi,a\n", "line 1: field larger"),
    ],
)
def test_a_bad_file_is_told_where_it_is_bad(shop: Path, content: bytes, said: str):
    """The message names the line and what to do."""
    shop.write_bytes(content)
    with pytest.raises(BadTrainingFile, match=said):
        read_shop_csv(shop)


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\r", "\r\n"])
def test_a_text_goes_on_after_what_looks_like_a_line_break(shop: Path, mark: str):
    """Only a line's own end cuts rows, and within quotes not even that."""
    text = f'"send it{mark}back"' if "\r" in mark else f"send it{mark}back"
    shop.write_bytes(f"intent,text\nstatus,where\nreturns,{text}\n".encode())
    found = read_shop_csv(shop).examples
    assert [(row.text, row.intent) for row in found] == [
        ("where", "status"),
        ("send it back", "returns"),
    ]


def test_a_missing_file_is_an_input_error(shop: Path):
    """No traceback for a mistyped path."""
    with pytest.raises(BadTrainingFile, match="cannot be read"):
        read_shop_csv(shop)


def test_what_is_left_out_is_told(shop: Path):
    """Empty, repeated and cut rows, and intents with few examples, each in a warning."""
    shop.write_text(f"text,intent\nhi,a\nHI,a\n,a\n{'x' * 3000},b\n")
    found = read_shop_csv(shop)
    assert [len(example.text) for example in found.examples] == [2, shop_csv.MAX_CHARACTERS]
    said = "\n".join(found.warnings)
    for words in (
        "1 rows without text",
        "1 repeated",
        "1 texts were cut",
        "fewer than 5 examples: a, b",
    ):
        assert words in said


def test_a_dev_file_brings_no_new_intents(shop: Path):
    """But may always hold out-of-scope rows."""
    shop.write_text("text,intent\nhi,out_of_scope\nho,b\n")
    with pytest.raises(BadTrainingFile, match=r"line 3: intent 'b'"):
        read_shop_csv(shop, frozenset("a"))


def test_too_many_rows_are_refused(shop: Path, monkeypatch: pytest.MonkeyPatch):
    """Before they fill the memory."""
    monkeypatch.setattr(shop_csv, "MAX_ROWS", 3)
    shop.write_text("text,intent\n" + "".join(f"t{i},a\n" for i in range(4)))
    with pytest.raises(BadTrainingFile, match="more than 3 rows"):
        read_shop_csv(shop)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([("t", "a")] * 1, "1 intent besides"),
        ([(f"t{i}", "ab"[i % 2]) for i in range(4)], "too few"),
        ([(f"t{i}", f"i{i}") for i in range(20)], "too few"),
        ([(f"t{i}", "ab"[i % 2]) for i in range(12)], None),
    ],
)
def test_what_can_be_trained_on(shop: Path, rows: list[tuple[str, str]], said: str | None):
    """Two intents, ten rows, and more than one of some intent."""
    shop.write_text("text,intent\n" + "".join(f"{text},{intent}\n" for text, intent in rows))
    found = read_shop_csv(shop)
    if said is None:
        require_trainable(found, shop)
    else:
        with pytest.raises(BadTrainingFile, match=said):
            require_trainable(found, shop)


def test_a_file_without_any_text_is_refused(shop: Path):
    """Also one to report on: nothing can be measured on it."""
    shop.write_text('text,intent\n" ",refund\n"",hours\n', encoding="utf-8")
    with pytest.raises(BadTrainingFile, match="none of its 2 rows holds a text"):
        read_shop_csv(shop, frozenset({"refund", "hours"}), repeated_count=True)
