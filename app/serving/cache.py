"""Answers given before, bounded in bytes, the least recently used going first."""

from __future__ import annotations

import sys
from collections import OrderedDict
from typing import TypeAlias

from app import metrics
from app.domain import CartDecision, Prediction

Key: TypeAlias = tuple[str, str]
"""Digest of the model, and the normalised text (for a cart behind its catalog's digest): all that an
answer depends on."""

_ENTRY = 480
_SCORE = 96
"""Bytes of one entry without its text and ranking, and of one ranked intent, as CPython 3.11 lays
them out (64 bit)."""


class PredictionCache:
    """Whole decisions, so that every ``top_k`` is answered from one entry. One thread only."""

    def __init__(self, max_bytes: int) -> None:
        """``max_bytes`` 0 turns it off."""
        self.max_bytes = max_bytes
        self.bytes = 0
        self._entries: OrderedDict[Key, Prediction | CartDecision] = OrderedDict()
        self._hits = metrics.CACHE_REQUESTS.labels("hit")
        self._misses = metrics.CACHE_REQUESTS.labels("miss" if max_bytes else "off")

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Key) -> Prediction | CartDecision | None:
        prediction = self._entries.get(key)
        if prediction is None:
            self._misses.inc()
            return None
        self._entries.move_to_end(key)
        self._hits.inc()
        return prediction

    def put(self, key: Key, prediction: Prediction | CartDecision) -> None:
        size = size_of(key, prediction)
        if size > self.max_bytes:
            return
        replaced = self._entries.pop(key, None)
        if replaced is not None:
            self.bytes -= size_of(key, replaced)
        self._entries[key] = prediction
        self.bytes += size
        while self.bytes > self.max_bytes:
            self.bytes -= size_of(*self._entries.popitem(last=False))
        metrics.CACHE_BYTES.set(self.bytes)


def size_of(key: Key, prediction: Prediction | CartDecision) -> int:
    """Bytes that an entry takes, near enough to bound the memory."""
    if isinstance(prediction, CartDecision):
        products = [one.product for one in prediction.actions] + [
            *prediction.candidates,
            *(name for one in prediction.actions for name in one.candidates),
        ]
        ranked = sum(_SCORE + sys.getsizeof(product) for product in products)
    else:
        ranked = _SCORE * len(prediction.ranking)
    return _ENTRY + sys.getsizeof(key[1]) + ranked
