"""The nouns that carts are measured with, which nothing that is learned may hold."""

import re

from training.cart.products import DATA
from training.examples import read_rows
from training.noise import without_diacritics


def held_out_nouns(language):
    """What products are called that no adapter has seen, as :func:`words_of` gives it."""
    nouns = set()
    for row in read_rows(DATA / f"products.{language}.jsonl"):
        for phrase in (*row["heads"], *row["mentions"]) if row["split"] != "train" else ():
            bare = re.sub(r"^~?(m|f|n|fa|mp|fp|p):", "", phrase)
            braced = re.search(r"\{([^}]+)\}", bare)
            if "{}" in bare or not (braced or "|" in bare or phrase in row["heads"]):
                continue
            nouns |= {words_of(form) for form in (braced[1] if braced else bare).split("|")}
    return nouns - {words_of("set"), words_of("")}


def words_of(text):
    """Its words without diacritics, between spaces: texts may be joined, and no noun stands in two."""
    return f" {' '.join(re.findall('[a-z]+', without_diacritics(text.casefold())))} "
