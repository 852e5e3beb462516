"""One part through the classifier."""

from __future__ import annotations

import pyarrow as pa
import pytest

from app.bulk.labelling import Labeller, ModelChoice
from app.bulk.source import Part


def part(texts: list[str | None]) -> Part:
    return Part(texts, pa.table({"row": pa.array(range(len(texts)), pa.int64())}))


@pytest.fixture
def labeller(choice: ModelChoice) -> Labeller:
    return Labeller(choice, top_k=3, max_text_chars=100)


def test_row_that_cannot_be_labelled_says_why(labeller: Labeller) -> None:
    """It has a reason and no answer; its neighbours have answers and no reason."""
    rows = labeller.label(part(["where is my order", None, " \t", "a" * 101])).to_pylist()
    assert [row["error"] for row in rows] == [None, "no_text", "empty_text", "text_too_long"]
    assert rows[0]["intent"] == "order_status"
    assert {row[name] for row in rows[1:] for name in ("intent", "confidence", "in_scope")} == {
        None
    }


def test_progress_counts_every_row_once(labeller: Labeller) -> None:
    """Doubles and unusable rows included."""
    seen: list[int] = []
    labeller.label(part(["where is my order"] * 5 + [None, "tell me a joke"]), seen.append)
    assert sum(seen) == 7


def test_equal_messages_are_computed_once(
    labeller: Labeller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Customers ask the same thing: a text costs one computation a part, and every row gets it."""
    computed: list[str] = []
    classify = labeller._classifier.classify

    def count(messages):
        computed.extend(message.text for message in messages)
        return classify(messages)

    monkeypatch.setattr(labeller._classifier, "classify", count)
    rows = labeller.label(part(["tell me a joke", "tell  me a joke "] * 3)).to_pylist()
    assert computed == ["tell me a joke"]
    assert {row["intent"] for row in rows} == {"out_of_scope"}


def test_part_without_a_usable_row_has_the_same_columns(labeller: Labeller) -> None:
    """Parts always fit together."""
    assert labeller.label(part([None])).schema == labeller.label(part(["a joke"])).schema
