"""Cart rows whose products are called something nobody has heard of, alike in catalog and message.

A model that sees few products learns them by heart instead of comparing what stands in the message
with what stands in the catalog. Here the stems of a row's product names are swapped for stems of other
words, wherever they stand, and their endings stay: "zelenog sapuna" and "Zeleni sapun" become
"planinog vjetrona" and "Planini vjetron". The wish is the same, and only reading it finds the product.
"""

from __future__ import annotations

import random
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from app.classification.ngrams import without_diacritics

_WORD = re.compile(r"[^\W\d_]+")
_SHORTEST = 4
"""Letters of a word that is renamed; shorter ones are units, articles and joints."""
_STEM = 4
"""Letters that two forms of a word share at the least; else all but the last two of the shorter one."""
_ENDING = 4
"""Letters that a form may have beyond its stem."""


def stems_of(words: Sequence[str]) -> list[str]:
    """What names may be made of: the words without their ends, each once."""
    return sorted({_stem(word) for word in words if len(word) > _SHORTEST and word.isalpha()})


def rename(
    row: Mapping[str, Any], stems: Sequence[str], rng: random.Random
) -> dict[str, Any] | None:
    """The row with other names, or None where a mention is a synonym, which would mean nothing then."""
    roots = _roots(row["catalog"])
    named = zip(row["actions"], row["mentions"], strict=True)
    if len(roots) > len(stems) or not all(_named(m, a["product"], roots) for a, m in named):
        return None
    new = dict(zip(roots, rng.sample(stems, len(roots)), strict=True))

    def other(found: re.Match[str]) -> str:
        root = _root(found[0].casefold(), new)
        return found[0] if root is None else _like(found[0], new[root] + found[0][len(root) :])

    def renamed(text: str) -> str:
        return _WORD.sub(other, text)

    catalog = [renamed(name) for name in row["catalog"]]
    text = renamed(row["text"])
    if len({name.casefold() for name in catalog}) < len(catalog):
        return None
    if not all(_stands(renamed(mention), text) for mention in row["mentions"]):
        return None  # a slip of the thumb hid a name from the renaming
    return {
        **row,
        "catalog": catalog,
        "text": text,
        "actions": [{**a, "product": renamed(a["product"])} for a in row["actions"]],
        "mentions": [renamed(mention) for mention in row["mentions"]],
        "candidates": [renamed(name) for name in row.get("candidates") or ()],
    }


def _roots(catalog: Sequence[str]) -> list[str]:
    """What the longer words of a catalog are forms of, the shortest first."""
    words = sorted({w.casefold() for name in catalog for w in _WORD.findall(name)}, key=len)
    roots: list[str] = []
    for root in (_stem(word) for word in words if len(word) >= _SHORTEST):
        if not any(root.startswith(known) for known in roots):
            roots.append(root)
    return roots


def _like(word: str, other: str) -> str:
    """The other word in the word's capitals."""
    if word.isupper():
        return other.upper()
    return other.capitalize() if word[0].isupper() else other.casefold()


def _named(mention: str, product: str, roots: Collection[str]) -> bool:
    """Whether every longer word of the mention is a form of one in the product's name."""
    plain = without_diacritics(product.casefold())
    words = [w.casefold() for w in _WORD.findall(mention) if len(w) >= _SHORTEST]
    return bool(words) and all(
        _root(word, roots) is not None and without_diacritics(word[:_STEM]) in plain
        for word in words
    )


def _stands(mention: str, text: str) -> bool:
    """Whether the longer words of a mention are in the text, up to their endings."""
    plain = without_diacritics(text.casefold())
    words = [w for w in _WORD.findall(mention) if len(w) >= _SHORTEST]
    return all(without_diacritics(_stem(word)) in plain for word in words)


def _root(word: str, roots: Collection[str]) -> str | None:
    """The longest root that a word of some length is a form of."""
    if len(word) < _SHORTEST:
        return None
    for end in range(len(word), max(_STEM, len(word) - _ENDING) - 1, -1):
        if word[:end] in roots:
            return word[:end]
    return None


def _stem(word: str) -> str:
    return word.casefold()[: max(_STEM, len(word) - 2)]
