"""Near-duplicates: the share of character 4-grams that two messages have in common (Jaccard 1912).

What passes a split in slightly changed dress makes a test look better than it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import sparse

from app.classification.ngrams import fold
from training.examples import Example

GRAM = 4
FAMILY = 0.75
"""Seeds at least this much alike belong to one family."""
_BLOCK = 512
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Pair:
    """Two messages and their similarity, between 0 and 1."""

    similarity: float
    left: Example
    right: Example


def grams(text: str) -> frozenset[str]:
    """Character 4-grams across words, without case, diacritics, punctuation and the values of digits.

    A message without letters ("👍", "17:30") stands for itself, else all of them would be alike.
    """
    words = " ".join(_WORD.findall(fold(text)))
    if not any(c.isalpha() for c in words):
        return frozenset((text.casefold(),))
    padded = f" {words} "
    return frozenset(padded[i : i + GRAM] for i in range(max(1, len(padded) - GRAM + 1)))


def similarity(one: str, other: str) -> float:
    left, right = grams(one), grams(other)
    return len(left & right) / len(left | right)


def near_pairs(left: Sequence[Example], right: Sequence[Example], threshold: float) -> list[Pair]:
    """Pairs of one message from each side that are at least ``threshold`` alike, the nearest first.

    Exact: all intersections are counted, as blocks of a sparse matrix product.
    """
    pairs = [
        Pair(alike, left[row], right[column])
        for row, column, alike in _near(left, right, threshold)
    ]
    return _sorted(pairs)


def near_within(examples: Sequence[Example], threshold: float) -> list[Pair]:
    """The same among the messages of one list; each pair once."""
    pairs = [
        Pair(alike, examples[row], examples[column])
        for row, column, alike in _near(examples, examples, threshold)
        if row < column
    ]
    return _sorted(pairs)


def join_families(examples: Sequence[Example], threshold: float = FAMILY) -> list[Example]:
    """The same messages in order, where families with near-duplicates have become one.

    A joined family bears the first of its members' names, so that the outcome does not hang on the
    order of the messages. Likeness is passed on: if A is like B and B like C, all three are joined.
    """
    parents = {example.family: example.family for example in examples}

    def root(family: str) -> str:
        while parents[family] != family:
            parents[family] = parents[parents[family]]
            family = parents[family]
        return family

    for pair in near_within(examples, threshold):
        one, other = sorted((root(pair.left.family), root(pair.right.family)))
        parents[other] = one
    return [replace(example, family=root(example.family)) for example in examples]


def _sorted(pairs: Sequence[Pair]) -> list[Pair]:
    return sorted(pairs, key=lambda pair: (-pair.similarity, pair.left.text, pair.right.text))


def _near(
    left: Sequence[Example], right: Sequence[Example], threshold: float
) -> Iterator[tuple[int, int, float]]:
    if not left or not right:
        return
    numbers: dict[str, int] = {}
    left_grams = [_numbered(grams(example.text), numbers) for example in left]
    right_grams = [_numbered(grams(example.text), numbers) for example in right]
    rows = _matrix(left_grams, len(numbers))
    columns = _matrix(right_grams, len(numbers)).T.tocsr()
    row_sizes = np.array([len(g) for g in left_grams])
    column_sizes = np.array([len(g) for g in right_grams])
    for start in range(0, len(left), _BLOCK):
        common = (rows[start : start + _BLOCK] @ columns).tocoo()
        union = row_sizes[start + common.row] + column_sizes[common.col] - common.data
        alike = common.data / union
        for place in np.flatnonzero(alike >= threshold):
            yield start + int(common.row[place]), int(common.col[place]), float(alike[place])


def _numbered(found: frozenset[str], numbers: dict[str, int]) -> list[int]:
    return sorted(numbers.setdefault(gram, len(numbers)) for gram in found)


def _matrix(rows: Sequence[Sequence[int]], width: int) -> sparse.csr_matrix:
    starts = np.cumsum([0, *(len(row) for row in rows)])
    columns = np.concatenate([np.asarray(row, np.int64) for row in rows])
    return sparse.csr_matrix(
        (np.ones(len(columns), np.int32), columns, starts), shape=(len(rows), width)
    )
