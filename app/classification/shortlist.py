"""Which products of a long catalog a message may mean, by the character n-grams of their words.

A model reads some sixty products at once; a shop may list thousands. Words of the message are compared
with words of the products by their 3- and 4-grams, so inflected forms, missing diacritics and slips
still meet ("maslinovih ulja" and "Maslinovo ulje"); rare n-grams and words that few products share
weigh more. It finds wording, not meaning: a synonym or another language's word is not seen.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from app.classification.ngrams import without_diacritics

_SIZES = (3, 4)
_WORD = re.compile(r"\d+|[^\W\d]+")
"""Numbers apart from letters: "BT500" and "bt-500", "250ml" and "250 ml" are the same words."""
MAX_WORDS = 400
"""Words of one message that are looked up: all of 2,000 characters of ordinary text. People who tell a
story first say last what they want."""
_WORD_STEP = 8
"""How much later than by the whole message a product comes by one word alone."""
_LEAST = 0.2
"""Likeness of two words below which they have nothing but a syllable in common."""

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.intp]


class ShortlistIndex:
    """The words of a catalog, ready to be compared with messages. Immutable: any thread may ask it."""

    def __init__(self, products: Sequence[str]) -> None:
        """``products`` are normalised lines, none empty."""
        numbers: dict[str, int] = {}
        own = [
            sorted({numbers.setdefault(word, len(numbers)) for word in words_of(product)})
            for product in products
        ]
        grams = [grams_of(word) for word in numbers]
        self._products = len(products)
        self._with_words = np.array([i for i, words in enumerate(own) if words], np.intp)
        self._words = np.array([word for words in own for word in words], np.intp)
        lengths = np.array([len(words) for words in own if words], np.intp)
        self._starts = np.concatenate([[0], np.cumsum(lengths)])[:-1].astype(np.intp)
        self._index_grams(grams)

    def __len__(self) -> int:
        """Products."""
        return self._products

    @property
    def words(self) -> int:
        """Different words of all products."""
        return len(self._norms)

    def _index_grams(self, grams: Sequence[frozenset[str]]) -> None:
        """Postings from n-gram to words; each n-gram weighs by its rarity among the words."""
        postings: dict[str, list[int]] = {}
        for word, own in enumerate(grams):
            for gram in own:
                postings.setdefault(gram, []).append(word)
        self._postings = {gram: np.array(words, np.intp) for gram, words in postings.items()}
        self._weight = {
            gram: float(np.log(1 + len(grams) / len(words))) for gram, words in postings.items()
        }
        self._unseen = float(np.log(1 + max(1, len(grams))))
        self._norms = np.array([self._norm(own) for own in grams], np.float32)

    def _norm(self, grams: Iterable[str]) -> float:
        return float(np.sqrt(sum(self._weight.get(gram, self._unseen) ** 2 for gram in grams)))

    def ranking(self, message: str) -> Integers:
        """Places of the products, best first; those that are alike in the catalog's order.

        A product counts by what it answers to in the whole message, or by one word alone that it
        answers to better: a message that asks for three things must not be filled up by one.
        """
        total = np.zeros(self._products, np.float32)
        places: list[Integers] = []
        for word in list(dict.fromkeys(words_of(message)))[:MAX_WORDS]:
            scores = self._scores(word)
            if scores is not None:
                total += scores
                places.append(_WORD_STEP * _places(scores))
        by_all = _places(total)
        ranking: Integers = np.lexsort((by_all, np.minimum.reduce([by_all, *places])))
        return ranking

    def _scores(self, word: str) -> Floats | None:
        """How much each product answers to one word, (products,); None for a word unknown here."""
        likeness = self.likeness(word)
        return None if likeness is None else self.answers(likeness)

    def answers(self, likeness: Floats) -> Floats:
        """How much each product answers to a word of this likeness (w,) to the catalog's: (products,)."""
        best = np.maximum.reduceat(likeness[self._words], self._starts)
        # A word that many products share tells them apart less than one that few have.
        rarity = np.log((1 + self._products) / (1 + best.sum()))
        scores = np.zeros(self._products, np.float32)
        scores[self._with_words] = np.float32(max(rarity, 0.05)) * best
        return scores

    def coverage(self, heard: Floats) -> tuple[Floats, Floats]:
        """How much of each product's name was heard, of ``heard`` (w,) a word: by rarity, and at best."""
        counts = np.bincount(self._words, minlength=self.words)
        rarity = np.log((1 + self._products) / counts).astype(np.float32)
        covered, nearest = (np.zeros(self._products, np.float32) for _ in range(2))
        if len(self._words):
            own = rarity[self._words]
            told = np.add.reduceat(own * heard[self._words], self._starts)
            whole = np.add.reduceat(own, self._starts)
            covered[self._with_words] = told / np.maximum(whole, np.float32(1e-6))
            nearest[self._with_words] = np.maximum.reduceat(heard[self._words], self._starts)
        return covered, nearest

    def likeness(self, word: str) -> Floats | None:
        """Cosine of one word's weighted n-grams with each word of the catalog; None for none."""
        grams = grams_of(word)
        found = [gram for gram in grams if gram in self._postings]
        if not found:
            return None
        places = np.concatenate([self._postings[gram] for gram in found])
        weights = np.repeat(
            [self._weight[gram] ** 2 for gram in found],
            [len(self._postings[gram]) for gram in found],
        )
        shared = np.bincount(places, weights, len(self._norms))
        likeness = (shared / (self._norms * self._norm(grams))).astype(np.float32)
        likeness[likeness < _LEAST] = 0
        return likeness


def _places(scores: Floats) -> Integers:
    """The place of each product by its score, 0 for the best; none without a score is near."""
    order = np.argsort(-scores, kind="stable")
    places = np.empty(len(scores), np.intp)
    places[order] = np.arange(len(scores))
    places[scores <= 0] += len(scores)
    return places


def words_of(text: str) -> list[str]:
    """Words and numbers in small letters without diacritics."""
    return _WORD.findall(without_diacritics(text))


def grams_of(word: str) -> frozenset[str]:
    """3- and 4-grams with the word's beginning marked; endings are not, for they inflect."""
    padded = f" {word}"
    if len(padded) <= _SIZES[0] or word.isdigit():
        return frozenset({f" {word} "})
    return frozenset(
        padded[start : start + size] for size in _SIZES for start in range(len(padded) - size + 1)
    )
