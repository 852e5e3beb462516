"""How far each product of a catalog is named by a message, letter by letter: features for the cart heads.

The model knows what words mean; of a product that it has never seen it knows little. That its name stands
in the message, inflected or with a slip, is plain to see, and is what these features tell.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from app.classification.shortlist import MAX_WORDS, ShortlistIndex, words_of

Floats = npt.NDArray[np.float32]

FEATURES = ("share", "said", "covered", "rarest", "nearest", "most", "place", "place_squared")
"""Columns of :func:`wording`, in order."""


def wording(index: ShortlistIndex, message: str) -> Floats:
    """Features (n, 8) of the index' products as :data:`FEATURES`, each about 0 to 1.

    ``said`` sums how well each word of the message is found in the product, rare words more; ``share``
    is that beside the best product's, ``most`` is 1 for the best. ``covered`` is how much of the product's
    name is in the message; ``rarest`` and ``nearest`` tell of its best word alone, with and without its
    rarity. ``place`` is where in the message that word stands, times ``rarest``, then squared.
    """
    count = len(index)
    words = words_of(message)[:MAX_WORDS]
    heard: Floats = np.zeros(index.words, np.float32)
    said: Floats = np.zeros(count, np.float32)
    rarest: Floats = np.zeros(count, np.float32)
    place: Floats = np.zeros(count, np.float32)
    seen: set[str] = set()
    for number, word in enumerate(words):
        likeness = None if word in seen else index.likeness(word)
        seen.add(word)
        if likeness is None:
            continue
        heard = np.maximum(heard, likeness)
        found = index.answers(likeness)
        said += found
        place = np.where(found > rarest, np.float32(number / len(words)), place)
        rarest = np.maximum(rarest, found)
    covered, nearest = index.coverage(heard)
    scale = np.float32(np.log1p(count))
    rarest /= scale
    best = said.max()
    return np.stack(
        [
            said / max(best, np.float32(1e-6)),
            said / scale,
            covered,
            rarest,
            nearest,
            (said >= best - np.float32(1e-6)).astype(np.float32),
            place * rarest,
            place * place * rarest,
        ],
        axis=1,
    )
