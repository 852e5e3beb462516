"""Whether customers ask for other things than they did: the population stability index (PSI).

PSI is the symmetrised Kullback-Leibler divergence of two distributions, ``sum (p - q) ln(p / q)``.
The custom of credit scoring (Siddiqi 2006): below 0.1 alike, above 0.25 shifted. Of ``n`` messages over
``k`` intents that did not drift it shows about ``(k - 1) / n``, so a window must not be small.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Mapping

WINDOW = 2000
"""Messages in the sliding window; the first so many are kept as a reference of their own."""
_ENOUGH = 1000
"""Messages from which on the index is told; before, chance would speak."""
_FLOOR = 1e-3
"""Least share of an intent, so that one never seen does not make the index infinite."""


def psi(shares: Mapping[str, float], reference: Mapping[str, float]) -> float:
    """Of two distributions over intents; what one of them lacks has a share of 0 in it."""
    index = 0.0
    for intent in shares.keys() | reference.keys():
        p = max(shares.get(intent, 0.0), _FLOOR)
        q = max(reference.get(intent, 0.0), _FLOOR)
        index += (p - q) * math.log(p / q)
    return index


class IntentWindow:
    """The last :data:`WINDOW` decisions of one version. One thread only.

    Against ``published``, the shares that the version was made for, the index tells how far this
    shop's mix is from the training mix: some distance is normal. Against the first full window
    since the version went live it tells change.
    """

    def __init__(self, published: Mapping[str, float] | None) -> None:
        self._published = published
        self._first: dict[str, float] | None = None
        self._intents: deque[str] = deque()
        self._counts: Counter[str] = Counter()

    def add(self, intent: str) -> None:
        self._intents.append(intent)
        self._counts[intent] += 1
        if len(self._intents) > WINDOW:
            self._counts[self._intents.popleft()] -= 1
        if self._first is None and len(self._intents) == WINDOW:
            self._first = self._shares()

    def against_published(self) -> float:
        """NaN where no shares were published or too little has been asked."""
        return self._psi(self._published)

    def against_first(self) -> float:
        """NaN until the first window is full."""
        return self._psi(self._first)

    def _psi(self, reference: Mapping[str, float] | None) -> float:
        if reference is None or len(self._intents) < _ENOUGH:
            return math.nan
        return psi(self._shares(), reference)

    def _shares(self) -> dict[str, float]:
        total = len(self._intents)
        return {intent: count / total for intent, count in self._counts.items()}
