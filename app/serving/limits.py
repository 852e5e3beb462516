"""The bounds within which the service takes work."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Set by the operator; see ``Settings`` for the defaults."""

    text_chars: int
    batch_messages: int
    body_bytes: int
    queue_tokens: int
    deadline: float
    """Seconds that a request may take when its caller names no deadline."""
    catalog_entries: int = 2000
    entry_chars: int = 200
    """Of one catalog entry."""
