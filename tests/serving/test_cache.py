"""The result cache keeps its bound and the right entries."""

from __future__ import annotations

import sys
import tracemalloc

from app.domain import CartAction, CartDecision, IntentScore, Prediction
from app.serving.cache import PredictionCache, size_of


def prediction(intents: int = 30) -> Prediction:
    ranking = tuple(IntentScore(f"intent_{i}", float(i) / 7) for i in range(intents))
    return Prediction("intent_0", 0.5, True, ranking)


def test_least_recently_used_goes_first() -> None:
    """When room is needed, what was asked for longest ago leaves."""
    one = size_of(("digest", "a"), prediction())
    cache = PredictionCache(one * 2)
    cache.put(("digest", "a"), prediction())
    cache.put(("digest", "b"), prediction())
    assert cache.get(("digest", "a"))
    cache.put(("digest", "c"), prediction())
    assert cache.get(("digest", "a"))
    assert cache.get(("digest", "b")) is None
    assert cache.get(("digest", "c"))


def test_bound_in_bytes_is_kept() -> None:
    """Thousands of entries of all lengths never account for more than the bound."""
    cache = PredictionCache(50_000)
    for number in range(2_000):
        cache.put(("digest", f"{number}" * (1 + number % 90)), prediction())
        assert cache.bytes <= 50_000
    assert cache.bytes == sum(size_of(key, found) for key, found in cache._entries.items())


def test_account_is_near_the_truth() -> None:
    """What an entry is said to take is what the interpreter takes for it, within a third."""
    cache = PredictionCache(1 << 30)
    names = [f"intent_{i}" for i in range(30)]
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for number in range(1_000):
        ranking = tuple(IntentScore(name, number / 7 + i) for i, name in enumerate(names))
        found = Prediction(names[0], number / 3, True, ranking)
        cache.put(("digest", f"message number {number} of a customer"), found)
    taken = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert 0.67 < cache.bytes / taken < 1.5, (cache.bytes, taken, sys.version)


def test_zero_turns_it_off() -> None:
    """With no room nothing is kept."""
    cache = PredictionCache(0)
    cache.put(("digest", "a"), prediction())
    assert cache.get(("digest", "a")) is None
    assert len(cache) == cache.bytes == 0


def test_models_do_not_share_answers() -> None:
    """The same text under another model's digest is another entry."""
    cache = PredictionCache(1 << 20)
    cache.put(("one", "a"), prediction())
    assert cache.get(("two", "a")) is None


def test_replacing_an_entry_counts_once() -> None:
    """Two answers to the same question, computed side by side, take the room of one."""
    cache = PredictionCache(1 << 20)
    cache.put(("one", "a"), prediction())
    once = cache.bytes
    cache.put(("one", "a"), prediction())
    assert (len(cache), cache.bytes) == (1, once)


def test_carts_are_accounted_for_too() -> None:
    """A decision on a cart counts with the names of its products, and keeps the same bound."""
    cache = PredictionCache(20_000)
    for number in range(400):
        product = f"product number {number}"
        action = CartAction("add", product, 2, 0.9, ambiguous=True, candidates=(product, "other"))
        found = CartDecision("actions", 0.9, (action,), considered=2)
        cache.put(("digest", f"cart\0catalog\0message {number}"), found)
        assert cache.bytes <= 20_000
    assert cache.bytes == sum(size_of(key, found) for key, found in cache._entries.items())
    assert 10 < len(cache) < 40
