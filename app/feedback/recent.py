"""The newest decisions, so that feedback can name one by its id. In memory, and bounded."""

from __future__ import annotations

import sys
from collections import OrderedDict
from dataclasses import dataclass

from app.domain import ModelRef

_ENTRY = 700
"""Bytes of one decision without its text, as CPython 3.11 lays them out (64 bit)."""


@dataclass(frozen=True, slots=True)
class Recent:
    """A decision that was given out, to whom, and the message where it may be kept."""

    client: str
    model: ModelRef
    intent: str
    confidence: float
    text: str | None


class RecentDecisions:
    """By id; the oldest go first. Event loop's thread only."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.bytes = 0
        self._entries: OrderedDict[str, Recent] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, decision_id: str, recent: Recent) -> None:
        self._entries[decision_id] = recent
        self.bytes += _size(recent)
        while self.bytes > self.max_bytes:
            self.bytes -= _size(self._entries.popitem(last=False)[1])

    def get(self, decision_id: str) -> Recent | None:
        return self._entries.get(decision_id)

    def drop(self, decision_id: str) -> bool:
        """Forget; whether it was known."""
        dropped = self._entries.pop(decision_id, None)
        if dropped is not None:
            self.bytes -= _size(dropped)
        return dropped is not None


def _size(recent: Recent) -> int:
    return _ENTRY + (sys.getsizeof(recent.text) if recent.text is not None else 0)
