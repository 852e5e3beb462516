"""The messages that are sent."""

from __future__ import annotations

from itertools import islice
from statistics import mean

from app.bench.messages import customer_messages
from app.classification.prompt import normalise


def test_none_repeats() -> None:
    """Ten thousand messages, all of them new to a cache."""
    texts = [normalise(text) for text in islice(customer_messages(1), 10_000)]
    assert len(set(texts)) == len(texts)


def test_same_seed_same_messages() -> None:
    """A run can be repeated."""
    first, again, other = (list(islice(customer_messages(seed), 50)) for seed in (1, 1, 2))
    assert first == again != other


def test_lengths_are_mixed() -> None:
    """From a word to a paragraph, with all placeholders filled."""
    texts = list(islice(customer_messages(3), 500))
    assert min(map(len, texts)) < 10
    assert max(map(len, texts)) > 150
    assert 25 < mean(map(len, texts)) < 80
    assert not any("{" in text for text in texts)
