"""How well a mention fits a product name, by character trigrams: the check, not the model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from training.noise import without_diacritics


@lru_cache(maxsize=65536)
def trigrams(text: str) -> frozenset[str]:
    plain = re.sub(r"[^0-9a-z]+", " ", without_diacritics(text).casefold()).strip()
    padded = f" {plain} "
    return frozenset(padded[i : i + 3] for i in range(len(padded) - 2))


def fit(mention: str, name: str) -> float:
    """The share of the mention's trigrams that the name has, 0 to 1."""
    grams = trigrams(mention)
    return len(grams & trigrams(name)) / max(1, len(grams))


def has_richer(name: str, names: Sequence[str]) -> bool:
    """Whether another name has all its words, sizes and numbers apart.

    Then who asks for "baked beans" may mean the "baked beans, no added sugar" where no others are listed.
    """
    words = _words(name)
    return any(words <= _words(other) for other in names if other != name)


def _words(name: str) -> set[str]:
    return set(re.findall(r"[^\W\d_]{3,}", name.casefold()))
