"""How much each caller may ask: a token bucket each, counted in messages of usual length."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from time import monotonic

from app.errors import RateLimited

MESSAGE_CHARS = 256
MESSAGE_TOKENS = 64
"""A message of up to so many counts as one, a longer one as several: its time is as much longer."""
_MOST = 10_000
"""Callers remembered. The one not heard of for longest is forgotten, and begins anew."""


def weight_of(texts: Iterable[str]) -> int:
    """As how many messages these count."""
    return sum(1 + max(0, len(text) - 1) // MESSAGE_CHARS for text in texts)


class Rates:
    """Buckets by caller. Event loop's thread only.

    A request is taken when its caller has at least one token left, and may leave it in debt: so a
    batch larger than the bucket is served, and paid for by waiting after it.
    """

    def __init__(
        self, per_second: float, burst: float, clock: Callable[[], float] = monotonic
    ) -> None:
        """``per_second`` 0 sets no limit. ``burst`` is what a caller who was silent may send at once."""
        self.per_second = per_second
        self.burst = max(1.0, burst)
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, caller: str, messages: int = 1) -> RateLimited | None:
        """Count a request, or say why not."""
        if not self.per_second:
            return None
        level = self._level(caller)
        if level < 1.0:
            self._keep(caller, level)
            return RateLimited(
                "this caller asks more often than allowed", (1.0 - level) / self.per_second
            )
        self._keep(caller, level - messages)
        return None

    def charge(self, caller: str, messages: int) -> None:
        """Count more for a request that was taken, once it is known what it holds."""
        if self.per_second and messages:
            self._keep(caller, self._level(caller) - messages)

    def give_back(self, caller: str, messages: int) -> None:
        """Undo a charge for what was not done. Nobody gets more than the bucket holds."""
        if self.per_second and messages:
            self._keep(caller, min(self.burst, self._level(caller) + messages))

    def _level(self, caller: str) -> float:
        level, then = self._buckets.get(caller, (self.burst, self._clock()))
        return min(self.burst, level + (self._clock() - then) * self.per_second)

    def _keep(self, caller: str, level: float) -> None:
        self._buckets[caller] = (level, self._clock())
        self._buckets.move_to_end(caller)
        if len(self._buckets) > _MOST:
            self._buckets.popitem(last=False)
