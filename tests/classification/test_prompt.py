from __future__ import annotations

import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.artifacts.manifest import CartPromptSpec
from app.classification.prompt import CartPrompt, normalise
from app.errors import EmptyText, ManifestInvalid

ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=60)


def normalised(text: str) -> str | None:
    try:
        return normalise(text)
    except EmptyText:
        return None


@given(ANY_TEXT)
def test_normalising_twice_is_normalising_once(text: str):
    """Training and serving may both pass a text through."""
    once = normalised(text)
    assert once is None or normalise(once) == once


def test_printable_text_holds_nothing_to_drop():
    """What spares normalising a look at each character holds for every character there is."""
    printable = [c for c in map(chr, range(sys.maxunicode + 1)) if c.isprintable()]
    assert not any(c.isspace() and c != " " for c in printable)
    assert not {unicodedata.category(c) for c in printable} & {"Cc", "Cf", "Cs"}


@given(ANY_TEXT)
def test_what_comes_out_is_one_clean_line(text: str):
    """Composed, encodable, single spaces, no controls; or EmptyText, and nothing else."""
    clean = normalised(text)
    if clean is None:
        return
    assert clean == " ".join(clean.split())
    assert unicodedata.is_normalized("NFC", clean)
    clean.encode()
    assert not any(unicodedata.category(c) in {"Cc", "Cs"} for c in clean)


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("  where\tis\r\n my   order ", "where is my order"),
        ("cafe\u0301", "caf\u00e9"),
        ("a\x00b\u200bc\ufeff", "abc"),
        ("no\u00a0break", "no break"),
        ("👩\u200d👧 two mugs", "👩\u200d👧 two mugs"),
        ("\ud83d lone", "lone"),
        ("e\u200b\u0301", "\u00e9"),
        ("?", "?"),
        ("Ž", "Ž"),
    ],
)
def test_examples(text: str, clean: str):
    """What people paste, as the model sees it."""
    assert normalise(text) == clean


@pytest.mark.parametrize(
    "text", ["", " ", "\n\t", "\x00", "\u200b", "\u200d", " \u200d ", "\ud83d"]
)
def test_nothing_visible_is_refused(text: str):
    """A message of white space and invisible characters has no intent."""
    with pytest.raises(EmptyText):
        normalise(text)


def as_bytes(text: str) -> list[int]:
    return list(text.encode())


def test_the_cart_prompt_marks_each_product_at_its_end_and_each_slot():
    """Pieces stand as published, and states are read where training reads them."""
    prompt = CartPrompt(CartPromptSpec(), as_bytes)
    catalog = prompt.catalog([as_bytes("tea"), as_bytes("oil 1l")])
    assert bytes(catalog.tokens) == b"Catalog:\ntea\noil 1l\nMessage: "
    assert [bytes(catalog.tokens[: mark + 1]) for mark in catalog.marks] == [
        b"Catalog:\ntea\n", b"Catalog:\ntea\noil 1l\n",
    ]  # fmt: skip
    message = prompt.message(as_bytes("two teas"))
    assert bytes(message.tokens) == b"two teas\n123456"
    assert bytes(message.tokens[mark] for mark in message.marks) == b"123456"
    assert len(message.tokens) == len("two teas") + prompt.behind_message
    assert len(catalog.tokens) == prompt.around_catalog + sum(
        prompt.product_tokens(as_bytes(product)) for product in ("tea", "oil 1l")
    )


@pytest.mark.parametrize(
    "spec", [{"slots": ("1", "10")}, {"slots": ()}, {"slots": ("",)}, {"product_suffix": ""}]
)
def test_a_cart_prompt_that_leaves_nothing_to_read_is_refused(spec: dict[str, str]):
    """Found when the model is loaded, not with the first message."""
    with pytest.raises(ManifestInvalid):
        CartPrompt(CartPromptSpec(**spec), as_bytes)
