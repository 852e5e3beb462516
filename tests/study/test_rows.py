"""Which messages are measured on."""

from __future__ import annotations

from collections import Counter

from study.plan import NOISE_LEVELS
from study.rows import noisy_messages, spread

ROWS = [
    {"text": f"{intent} {language} {i}", "intent": intent, "language": language}
    for intent, count in (("gift", 30), ("review", 60))
    for language in ("en", "hr")
    for i in range(count)
]


def test_every_intent_and_language_has_its_share() -> None:
    """A third of the rows is a third of every group."""
    chosen = spread(ROWS, 60)
    counts = Counter((row["intent"], row["language"]) for row in chosen)
    assert set(counts.values()) == {10, 20}
    assert len({row["text"] for row in chosen}) == 60


def test_the_same_rows_each_time() -> None:
    """Two studies measure on the same messages; more than there are is all."""
    assert spread(ROWS, 7) == spread(ROWS, 7)
    assert len(spread(ROWS, 10**6)) == len(ROWS)


def test_no_noise_is_the_message_itself() -> None:
    """Level 0 changes nothing, the highest most; intents and languages stay."""
    given = spread(ROWS, 40)
    noised = noisy_messages(given)
    by_level = {level: [r for r in noised if r["level"] == level] for level in NOISE_LEVELS}
    assert [row["text"] for row in by_level[0]] == [row["text"] for row in given]
    changed = {
        level: sum(a["text"] != b["text"] for a, b in zip(rows, given, strict=True))
        for level, rows in by_level.items()
    }
    assert changed[0] < changed[1] <= changed[4]
    assert all(
        [(r["intent"], r["language"]) for r in rows]
        == [(r["intent"], r["language"]) for r in given]
        for rows in by_level.values()
    )
