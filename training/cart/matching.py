"""How well a mention fits a product name, by character trigrams: the check, not the model."""

from __future__ import annotations

import re
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
