from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from app.artifacts.manifest import sha256_of
from app.domain import OUT_OF_SCOPE
from app.errors import FileDamaged
from training import opensets
from training.examples import read_taxonomy

Put = Callable[[str, str], None]


@pytest.fixture
def put(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Put:
    """Writes a tiny stand-in for a public file and makes its digest the expected one."""

    def write(relative: str, content: str) -> None:
        path = tmp_path / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
        monkeypatch.setitem(opensets.SHA256, relative, sha256_of(path))

    return write


def test_a_missing_file_is_named(tmp_path: Path):
    """The error says which file is not there."""
    with pytest.raises(FileDamaged, match=r"bitext/test.csv is not in"):
        opensets.bitext(tmp_path, "test")


def test_another_file_is_refused(tmp_path: Path, put: Put):
    """A recipe runs on the files that it was written for, or not at all."""
    put("bitext/test.csv", "utterance,intent\nhi,complaint\n")
    (tmp_path / "bitext/test.csv").write_text("utterance,intent\nho,complaint\n")
    with pytest.raises(FileDamaged, match="sha256"):
        opensets.bitext(tmp_path, "test")


def test_csv_rows_without_text_are_skipped(tmp_path: Path, put: Put):
    """Texts are normalised; those with nothing in them go."""
    put("banking77/test.csv", 'text,category\n"my  card\n is gone",lost\n" ",lost\n')
    (row,) = opensets.banking77(tmp_path, "test")
    assert (row.text, row.intent, row.origin) == ("my card is gone", "lost", "banking77")


def test_no_nodes_is_out_of_scope(tmp_path: Path, put: Put):
    """HINT3's own word for negatives becomes ours."""
    put("powerplay11/v1/test.csv", "sentence,label\nhm,NO_NODES_DETECTED\nhi,GREETINGS\n")
    assert [row.intent for row in opensets.powerplay11(tmp_path, "test")] == [
        OUT_OF_SCOPE,
        "GREETINGS",
    ]


def test_clinc_brings_its_own_negatives(tmp_path: Path, put: Put):
    """The oos rows of the same split are added as out of scope."""
    content = {"val": [["set an alarm", "alarm"]], "oos_val": [["who won", "oos"]]}
    put("clinc150/data_full.json", json.dumps(content))
    rows = opensets.clinc150(tmp_path, "val")
    assert [(row.text, row.intent) for row in rows] == [
        ("set an alarm", "alarm"),
        ("who won", OUT_OF_SCOPE),
    ]


def test_hwu_pairs_lines(tmp_path: Path, put: Put):
    """Texts and labels stand in two files, line by line."""
    put("hwu64/test/seq.in", "wake me\nplay jazz\n")
    put("hwu64/test/label", "alarm_set\nplay_music\n")
    assert [row.intent for row in opensets.hwu64(tmp_path, "test")] == ["alarm_set", "play_music"]
    put("hwu64/test/label", "alarm_set\n")
    with pytest.raises(ValueError, match="shorter"):
        opensets.hwu64(tmp_path, "test")


def test_multidogo_rows_without_intent_are_skipped(tmp_path: Path, put: Put):
    """Its file has malformed rows; quotes in it are letters."""
    put("multidogo-fastfood/dev.tsv", 'utterance\tintent\n"2 burgers\torder\nhello\t\n')
    (row,) = opensets.multidogo(tmp_path, "dev")
    assert (row.text, row.intent) == ('"2 burgers', "order")


def test_positives_are_dosed_and_mapped(tmp_path: Path, put: Put):
    """No more of an intent than asked for, in the storefront's words."""
    rows = "".join(f"track it {i},track_order\n" for i in range(9))
    put("bitext/train.csv", f"utterance,intent\n{rows}")
    content = {
        "train": [["hello", "greeting"], ["set an alarm", "alarm"]],
        "oos_train": [["who won", "oos"]],
    }
    put("clinc150/data_full.json", json.dumps(content))
    put("webshop-goals/goals.txt", "a red dress\n\na green dress\n")
    found = opensets.storefront_positives(tmp_path, per_intent=3, seed=1)
    intents = [row.intent for row in found]
    assert intents.count("order_status") == 3
    assert intents.count("small_talk") == 1
    assert intents.count("product_search") == 2
    assert len(found) == 6


def test_negatives_leave_out_what_a_shop_could_mean(tmp_path: Path, put: Put):
    """Another assistant's "where is my order" is neither a positive nor a negative."""
    content = {
        "train": [
            ["where is my order", "order_status"],
            ["hello", "greeting"],
            ["wake me", "alarm"],
        ],
        "oos_train": [["who won", "oos"]],
    }
    put("clinc150/data_full.json", json.dumps(content))
    put("hwu64/train/seq.in", "a pizza please\nplay jazz\n")
    put("hwu64/train/label", "takeaway_order\nplay_music\n")
    found = opensets.storefront_negatives(tmp_path)
    assert [row.text for row in found] == ["wake me", "who won", "play jazz"]
    assert {row.intent for row in found} == {OUT_OF_SCOPE}


def test_bitext_is_mapped_to_intents_that_exist():
    """Every target of the mapping is in the taxonomy."""
    assert set(opensets.BITEXT_TO_STOREFRONT.values()) <= {i.name for i in read_taxonomy()}
