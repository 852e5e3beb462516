"""Entities by rule: what is found, that offsets tell the truth, and that no text takes long."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.classification.entities import PRIVATE, find_entities, mask

FOUND = {
    "where is my order 4711?": [("order_number", "4711")],
    "order no. AB-1234 please": [("order_number", "AB-1234")],
    "order number is 77x": [("order_number", "77x")],
    "#88213 again": [("order_number", "88213")],
    "it says ORD-2024-0017": [("order_number", "ORD-2024-0017")],
    "tracking number: RR123456789HR": [("order_number", "RR123456789HR")],
    "moja narudžba broj 12345 kasni": [("order_number", "12345")],
    "gdje je narudzba br. 998-22": [("order_number", "998-22")],
    "¿dónde está mi pedido nº 4711?": [("order_number", "4711")],
    "mail me at Ana.Horvat+x@mail.example.hr.": [("email", "Ana.Horvat+x@mail.example.hr")],
    "josé@correo.example": [("email", "josé@correo.example")],
    "call me on +385 91 234 5678": [("phone", "+385 91 234 5678")],
    "mob 091/234-5678": [("phone", "091/234-5678")],
    "mi teléfono es 612 345 678": [("phone", "612 345 678")],
    "(555) 123-4567": [("phone", "(555) 123-4567")],
    "paid 49,90 € and $1,299.00": [("amount", "49,90 €"), ("amount", "$1,299.00")],
    "ispod 50 eura": [("amount", "50 eura")],
    "menos de 30 euros": [("amount", "30 euros")],
    "500 kn": [("amount", "500 kn")],
    "size 10.5 or M": [("size", "10.5")],
    "talla 42 o XL": [("size", "42"), ("size", "XL")],
    "veličina M, broj 43": [("size", "M"), ("size", "43")],
    "US 9 please": [("size", "9")],
    "order #4711 to me@shop.example, 5 €": [
        ("order_number", "4711"), ("email", "me@shop.example"), ("amount", "5 €"),
    ],
}  # fmt: skip
NOT_FOUND = [
    "order 100 mugs", "give us 2 mugs", "my order is 2 days late", "the order of 1200 pieces",
    "a 2 l bottle", "it's on 01.05.2024", "i'm 25", "see you at 10:30", "@shop", "me@shop",
    "3 for 2", "s m l", "what's new", "order", "narudžba", "&#1234;", "version 1.2.3",
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), FOUND.items())
def test_rules_find_what_they_promise(text: str, expected: list[tuple[str, str]]) -> None:
    """In three languages, with the value as the customer wrote it."""
    assert [(entity.kind, entity.value) for entity in find_entities(text)] == expected


@pytest.mark.parametrize("text", NOT_FOUND)
def test_rules_leave_other_numbers_alone(text: str) -> None:
    """Counts, dates, times and plain words are no entities."""
    assert find_entities(text) == ()


PIECES = st.sampled_from([
    "order", " ", "no", "#", "4711", "AB-12", "@", ".", "mail", "example", "+", "385", "(", ")", "-", "/",
    "€", "kn", "size", "XL", "talla", "42", "½", "š", "👟", "\u200d", "\n", "tel", "broj", "pedido", "0",
    "٣", "İ", "ſ", "K",
])  # fmt: skip


@given(st.one_of(st.text(), st.lists(PIECES, max_size=30).map("".join)))
def test_offsets_always_cut_out_the_value(text: str) -> None:
    """Whatever the text, values are slices of it, in order, and share nothing."""
    end = 0
    for entity in find_entities(text):
        assert end <= entity.start < entity.end <= len(text)
        assert text[entity.start : entity.end] == entity.value
        end = entity.end


@given(st.lists(PIECES, max_size=30).map("".join))
def test_masking_leaves_nothing_private(text: str) -> None:
    """No private value stands where it stood, and no long number besides an amount's is left."""
    entities = find_entities(text)
    rest = mask(text)
    for entity in entities:
        if entity.kind in PRIVATE:
            assert f"<{entity.kind}>" in rest
            rest = rest.split(f"<{entity.kind}>", 1)[1]
    kept = "".join(e.value for e in entities if e.kind not in PRIVATE)
    for number in re.findall(r"\d{5,}", mask(text)):
        assert number in kept


def test_masking_reads_well() -> None:
    """Placeholders say what stood there; amounts and sizes stay."""
    text = "order 4711, ana@mail.example, +385 91 234 5678, card 4111 1111 1111 1111, 20 €, size 42"
    assert mask(text) == "order <order_number>, <email>, <phone>, card <number>, 20 €, size 42"


EVIL = [
    "a@", "a.", "1 ", "+1", "order ", "order no ", "€", "1.", "#", "#123 ", "a@a.", "-", "size ", "(",
    "x", "AB-", "0", "tel a", "tel ", "no:", ": ", "1-1", "1,1", "a@b.cc ", "5 € ", "size m ",
]  # fmt: skip


@pytest.mark.parametrize("piece", EVIL)
def test_time_grows_with_the_length_only(piece: str) -> None:
    """Eight times the text takes nowhere near 64 times the time."""

    def seconds(length: int) -> float:
        text = (piece * length)[:length]
        best = 1e9
        for _ in range(3):
            started = time.process_time()
            mask(text)
            best = min(best, time.process_time() - started)
        return best

    assert seconds(24_000) < 24 * max(seconds(3_000), 0.002)
