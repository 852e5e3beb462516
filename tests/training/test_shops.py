"""The shipped shops are what new shops start from: each must be a shop, and none may hold a test."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from app.classification.prompt import normalise
from training.duplicates import near_pairs
from training.examples import LANGUAGES, STRANGERS, WILD, read_labelled, read_rows
from training.leaks import ACCEPTANCE, COMMONPLACE_WORDS, LEAK
from training.shops import SHOPS, read_shops

FILES = sorted(SHOPS.glob("*/*.jsonl"))


def test_every_file_is_a_shop_of_its_own():
    """No two trades share a name, across languages too: the later one would replace the earlier."""
    assert len(read_shops()) == len(FILES) > 60
    assert {path.parent.name for path in FILES} == set(LANGUAGES)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_shop_is_sound(path: Path):
    """At least 20 intents of at least 5 messages, and no text twice, under two intents least of all."""
    rows = read_rows(path)
    assert all(row.keys() == {"text", "intent"} for row in rows)
    counts = Counter(row["intent"] for row in rows)
    assert len(counts) >= 20
    assert min(counts.values()) >= 5, counts.most_common()[-1]
    texts = Counter(normalise(row["text"]).casefold() for row in rows)
    assert texts.most_common(1)[0][1] == 1, texts.most_common(1)
    assert "" not in texts


@pytest.mark.parametrize("path", [WILD, STRANGERS, ACCEPTANCE], ids=lambda path: path.stem)
def test_no_shop_holds_a_test_message(path: Path):
    """Nor one in nearly the same words; what strangers type alike in three words proves nothing."""
    fitted = [example for messages in read_shops().values() for example in messages]
    pairs = [
        pair
        for pair in near_pairs(fitted, read_labelled(path, path.stem), LEAK)
        if len(pair.right.text.split()) > COMMONPLACE_WORDS
    ]
    assert not pairs, pairs[:3]


def test_a_message_under_two_intents_of_a_shop_is_left_out(tmp_path: Path):
    """The same words in two shops stay: intents mean nothing outside their shop."""
    for trade, rows in {
        "books": [("is it new", "condition"), ("Is it new", "release"), ("who wrote it", "author")],
        "cars": [("is it new", "condition")],
    }.items():
        path = tmp_path / "en" / f"{trade}.jsonl"
        path.parent.mkdir(exist_ok=True)
        lines = (json.dumps({"text": text, "intent": intent}) for text, intent in rows)
        path.write_text("\n".join(lines))
    found = read_shops(tmp_path)
    assert [e.text for e in found["books"]] == ["who wrote it"]
    (car,) = found["cars"]
    assert (car.language, car.origin) == ("en", "shop cars")
