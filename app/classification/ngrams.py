"""The character-n-gram half of the classifier: hashed TF-IDF features and a linear model.

It sees what a small language model's tokens hide (typos, fragments, shop words) and costs a fraction
of a millisecond. Features after Joachims (1998) and the ``char_wb`` analyser of scikit-learn; hashing
after Weinberger et al. (2009). Training and serving share :func:`features`, so they cannot disagree.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias
from zlib import crc32

import numpy as np
import numpy.typing as npt

Weights: TypeAlias = npt.NDArray[np.float32] | npt.NDArray[np.float16]
"""As they are fitted, and as they are stored and served: half the memory, widened row by row."""

BUCKETS = 1 << 20
CHAR_SIZES = range(2, 6)
_WORD = re.compile(r"\w+|[^\w\s]")
_DIGIT = re.compile(r"\d")
_UNDECOMPOSED = str.maketrans({"đ": "d", "ł": "l", "ø": "o", "ß": "ss"})


@dataclass(frozen=True, slots=True)
class Features:
    """Counts of hashed n-grams of one text, words and characters apart.

    ``words`` and ``chars`` are sorted unique bucket numbers (int64), the counts beside them float32.
    """

    words: npt.NDArray[np.int64]
    word_counts: npt.NDArray[np.float32]
    chars: npt.NDArray[np.int64]
    char_counts: npt.NDArray[np.float32]


def fold(text: str) -> str:
    """Lower case, no diacritics, digits as ``0``: "Košarica 12" and "kosarica 47" meet."""
    return _DIGIT.sub("0", without_diacritics(text))


def without_diacritics(text: str) -> str:
    """Lower case and no diacritics: "Košarica 12" becomes "kosarica 12"."""
    decomposed = unicodedata.normalize("NFKD", text.lower().translate(_UNDECOMPOSED))
    return "".join(c for c in decomposed if not unicodedata.combining(c))


def features(text: str) -> Features:
    """Word 1-2-grams and, inside word borders, character 2-5-grams of a normalised text."""
    tokens = _WORD.findall(fold(text))
    words = _counted([crc32(gram.encode()) for gram in _word_grams(tokens)])
    chars = _counted([crc32(gram) for token in tokens for gram in _char_grams(token)])
    return Features(*words, *chars)


def _word_grams(tokens: Sequence[str]) -> Iterator[str]:
    yield from tokens
    for left, right in pairwise(tokens):
        yield f"{left} {right}"


def _char_grams(token: str) -> list[bytes]:
    """Encoded. Where a letter is a byte, as nearly always, grams are cut from the encoded token."""
    padded = f" {token} "
    encoded = padded.encode()
    length = len(padded)
    plain = len(encoded) == length
    grams: list[bytes] = []
    for size in CHAR_SIZES:
        if size >= length:
            return [*grams, encoded]
        places = range(length - size + 1)
        if plain:
            grams += [encoded[i : i + size] for i in places]
        else:
            grams += [padded[i : i + size].encode() for i in places]
    return grams


def _counted(hashes: list[int]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    buckets, counts = np.unique(np.array(hashes, np.int64) % BUCKETS, return_counts=True)
    return buckets, counts.astype(np.float32)


@dataclass(frozen=True, slots=True)
class NgramModel:
    """A multinomial logistic regression over the hashed TF-IDF features.

    Two blocks, words and characters; in each, ``buckets`` (sorted) names the rows of ``idf`` (n,) and
    ``weights`` (n, labels). ``bias`` is (labels,). Buckets never seen in training are left out.
    """

    word_buckets: npt.NDArray[np.int64]
    word_idf: npt.NDArray[np.float32]
    word_weights: Weights
    char_buckets: npt.NDArray[np.int64]
    char_idf: npt.NDArray[np.float32]
    char_weights: Weights
    bias: npt.NDArray[np.float32]

    def score(self, text: str) -> tuple[npt.NDArray[np.float32], float]:
        """Log-probabilities (labels,) of a normalised text, and the known share of its characters.

        The share is that of the squared character-block weight which falls on n-grams seen in
        training: near 1 for familiar wording, near 0 for another language or gibberish.
        """
        f = features(text)
        logits = self.bias.copy()
        rows, values, _ = weigh(f.words, f.word_counts, self.word_buckets, self.word_idf)
        logits += values @ self.word_weights[rows].astype(np.float32, copy=False)
        rows, values, known = weigh(f.chars, f.char_counts, self.char_buckets, self.char_idf)
        logits += values @ self.char_weights[rows].astype(np.float32, copy=False)
        logits -= logits.max()
        return logits - np.log(np.exp(logits).sum()), known


def weigh(
    buckets: npt.NDArray[np.int64],
    counts: npt.NDArray[np.float32],
    known_buckets: npt.NDArray[np.int64],
    idf: npt.NDArray[np.float32],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32], float]:
    """TF-IDF of one text in one block: rows of the known buckets, unit-length values, known share.

    Term frequency is damped, ``1 + ln(count)``. Unknown buckets count with the largest idf for the
    length, so a text of mostly unknown n-grams gets small values, not inflated ones.
    """
    if not len(buckets) or not len(known_buckets):
        return np.zeros(0, np.int64), np.zeros(0, np.float32), 0.0
    places = np.minimum(np.searchsorted(known_buckets, buckets), len(known_buckets) - 1)
    is_known = known_buckets[places] == buckets
    damped = 1.0 + np.log(counts)
    weights = damped * np.where(is_known, idf[places], idf.max())
    squared = weights**2
    total = float(squared.sum())
    known = squared[is_known].sum() / total
    values = weights[is_known] / np.float32(np.sqrt(total))
    return places[is_known], values.astype(np.float32), float(known)
