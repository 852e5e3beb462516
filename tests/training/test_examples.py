from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from app.domain import OUT_OF_SCOPE
from training.duplicates import join_families, near_pairs
from training.examples import (
    LANGUAGES,
    LATE,
    SEEDS,
    STRANGERS,
    WILD,
    Example,
    distinct,
    labels_of,
    negative,
    read_labelled,
    read_late,
    read_rows,
    read_seeds,
    read_taxonomy,
    split_of,
    take_split,
)
from training.leaks import LISTED


@pytest.fixture(scope="module")
def seeds() -> list[Example]:
    return read_seeds()


def write(path: Path, *rows: dict[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def test_seeds_are_read_from_their_places(tmp_path: Path):
    """Folder gives the language, file name the intent and the kind of negative."""
    write(tmp_path / "hr" / "invoice.jsonl", {"text": "trebam  R1 račun", "slots": {"code": "R1"}})
    write(tmp_path / "en" / "out_of_scope.near.jsonl", {"text": "are you hiring"})
    near, invoice = read_seeds(tmp_path)
    assert (near.intent, near.origin, near.language) == (OUT_OF_SCOPE, "seed-near", "en")
    assert invoice.text == "trebam R1 račun"
    assert (invoice.intent, invoice.origin, invoice.language) == ("invoice", "seed", "hr")
    assert invoice.slots == {"code": "R1"}


def test_slots_that_normalising_has_broken_are_left_out(tmp_path: Path):
    """A slot is a substring of the text as the model sees it, or it is none."""
    write(
        tmp_path / "en" / "gift.jsonl", {"text": "a  b", "slots": {"product": "a  b", "code": "b"}}
    )
    (seed,) = read_seeds(tmp_path)
    assert seed.slots == {"code": "b"}


def test_a_text_counts_once_and_never_under_two_intents():
    """Repetitions go, the first stays; contradictions go whole."""
    rows = [
        Example("Hello", "small_talk"),
        Example("hello", "small_talk"),
        Example("refund", "refund_status"),
        Example("Refund", "refund_policy"),
    ]
    assert distinct(rows) == rows[:1]


def test_a_family_stays_on_one_side():
    """Whatever comes from one seed shares its split, and the splits are about 80/10/10."""
    assert split_of(Example("a", "x", family="f")) == split_of(Example("b", "y", family="f"))
    counts = Counter(split_of(Example(str(i), "x", family=f"f{i}")) for i in range(2000))
    assert 1500 < counts["train"] < 1700
    assert 150 < counts["dev"] < 250


def test_the_split_of_the_published_model_stands():
    """These digests decide what the default model was fitted on: moving them needs a new training."""
    families = ("seed:6", "seed:7", "seed:12", "seed:16")
    splits = [split_of(Example("", "x", family=family)) for family in families]
    assert splits == ["train", "test", "dev", "dev"]


def test_splits_part_everything(seeds: list[Example]):
    """Train, dev and test hold each seed exactly once."""
    parts = [take_split(seeds, split) for split in ("train", "dev", "test")]
    assert sum(map(len, parts)) == len(seeds)
    families = [{seed.family for seed in part} for part in parts]
    assert not families[0] & families[1]
    assert not families[0] & families[2]
    assert not families[1] & families[2]


def test_labels_end_with_out_of_scope():
    """The last column is the negative one, whether it occurs or not."""
    assert labels_of([Example("", "b"), Example("", "a")]) == ("a", "b", OUT_OF_SCOPE)
    assert labels_of([negative(Example("", "b"))]) == (OUT_OF_SCOPE,)


def test_every_row_of_the_data_is_sound():
    """Seed files hold non-empty texts whose slots are substrings, under intents of the taxonomy."""
    intents = {intent.name for intent in read_taxonomy()} | {OUT_OF_SCOPE}
    for path in SEEDS.glob("*/*.jsonl"):
        assert path.parent.name in LANGUAGES
        assert path.name.split(".")[0] in intents
        for row in read_rows(path):
            assert row["text"].strip()
            assert row.keys() <= {"text", "slots", "kind"}, path
            for value in row.get("slots", {}).values():
                assert value in row["text"], (path, row)


def test_every_intent_has_enough_seeds(seeds: list[Example]):
    """At least 60 in English and 30 in Croatian and Spanish, and 600 negatives."""
    counts = Counter((seed.language, seed.intent) for seed in seeds)
    for intent in read_taxonomy():
        assert counts["en", intent.name] >= 60, intent.name
        assert counts["hr", intent.name] >= 30, intent.name
        assert counts["es", intent.name] >= 30, intent.name
    assert sum(counts[language, OUT_OF_SCOPE] for language in LANGUAGES) >= 600


def test_the_wild_set_is_sealed(seeds: list[Example]):
    """None of its messages is a seed, and its labels are those of the taxonomy."""
    wild = read_labelled(WILD, "wild")
    assert len(wild) >= 300
    assert {e.intent for e in wild} <= {i.name for i in read_taxonomy()} | {OUT_OF_SCOPE}
    assert not {e.text.casefold() for e in wild} & {e.text.casefold() for e in seeds}


def test_the_taxonomy_tells_neighbours_apart():
    """Each intent says what it is not, in names that exist."""
    taxonomy = read_taxonomy()
    names = {intent.name for intent in taxonomy}
    for intent in taxonomy:
        assert intent.definition
        if intent.name != "complaint":  # anything concrete wins over it
            named = {word.strip(".,;") for word in intent.not_this.split()}
            assert named & names - {intent.name}, intent.name


def test_late_messages_are_for_training_only():
    """Known intents, no text twice, and none near what is measured: no split keeps them apart."""
    late = read_late()
    assert {e.intent for e in late} <= {i.name for i in read_taxonomy()} | {OUT_OF_SCOPE}
    assert {e.language for e in late} <= set(LANGUAGES)
    assert len(late) == sum(len(read_rows(path)) for path in LATE.glob("*.jsonl"))
    seeds = join_families(read_seeds())
    measured = [
        *take_split(seeds, "dev"),
        *take_split(seeds, "test"),
        *read_labelled(WILD, "wild"),
        *read_labelled(STRANGERS, "strangers"),
    ]
    assert not near_pairs(late, measured, LISTED)
