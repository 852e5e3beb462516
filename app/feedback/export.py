"""Feedback as a CSV that ``python -m training fit`` takes."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from typing import TextIO

from app.classification.prompt import normalise
from app.feedback.store import Feedback

_FORMULA = ("=", "+", "-", "@")


def write_csv(rows: Iterable[Feedback], target: TextIO) -> int:
    """Columns ``text,intent``, oldest first; rows without text are left out. How many were written.

    Of one text the newest intent counts, as ``fit`` refuses a text under two. A text that a
    spreadsheet would run as a formula gets a space in front, which ``fit`` takes off again.
    """
    newest: dict[str, tuple[str, str]] = {}
    for row in rows:
        if row.text is not None:
            text = normalise(row.text)
            newest.pop(text.casefold(), None)
            newest[text.casefold()] = (text, row.intent)
    writer = csv.writer(target, lineterminator="\n")
    writer.writerow(("text", "intent"))
    for text, intent in newest.values():
        writer.writerow((f" {text}" if text.startswith(_FORMULA) else text, intent))
    return len(newest)
