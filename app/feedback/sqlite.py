"""Feedback in one SQLite file: its writer does not hold up readers, and what is deleted is overwritten."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple
from pathlib import Path

from app.errors import FeedbackLost
from app.feedback.store import Feedback

_TABLE = """
CREATE TABLE IF NOT EXISTS feedback (
    id TEXT PRIMARY KEY, received REAL NOT NULL, client TEXT NOT NULL, model TEXT NOT NULL,
    version TEXT NOT NULL, predicted TEXT NOT NULL, confidence REAL NOT NULL, intent TEXT NOT NULL,
    text TEXT
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS feedback_received ON feedback (received);
"""
_PUT = "INSERT OR REPLACE INTO feedback VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"


class SqliteFeedback:
    """A :class:`app.feedback.store.FeedbackStore`. The file is readable by its owner only."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        with _told():
            path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
            self._connection = sqlite3.connect(
                path, check_same_thread=False, isolation_level=None, timeout=5.0
            )
            for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "secure_delete=ON"):
                self._connection.execute(f"PRAGMA {pragma}")
            self._connection.executescript(_TABLE)

    def put(self, feedback: Feedback) -> None:
        with self._lock, _told():
            self._connection.execute(_PUT, astuple(feedback))

    def delete(self, feedback_id: str) -> bool:
        return self._delete("id = ?", feedback_id) > 0

    def purge(self, before: float) -> int:
        return self._delete("received < ?", before)

    def _delete(self, condition: str, value: str | float) -> int:
        with self._lock, _told():
            deleted = self._connection.execute(
                f"DELETE FROM feedback WHERE {condition}",  # noqa: S608 - our own words above
                (value,),
            ).rowcount
            if deleted:
                # The log still holds the pages as they were; empty it, or nothing is gone yet.
                self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            return deleted

    def rows(self) -> Iterator[Feedback]:
        with self._lock, _told():
            found = self._connection.execute(
                "SELECT * FROM feedback ORDER BY received, id"
            ).fetchall()
        return (Feedback(*row) for row in found)

    def close(self) -> None:
        with self._lock, _told():
            self._connection.close()


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise FeedbackLost(f"the feedback file cannot be used: {type(error).__name__}") from error
