"""Which pieces of the base's vocabulary the default model's weights keep, written to a small file in git.

Whatever is spelt in Latin letters or has none stays: what goes are other scripts and Gemma's unused
places. With a ``size`` fewer stay: those that occur in what the model learns from, single characters,
and of the rest the ones that the base learnt first, which are the most frequent. Nothing that is only
measured on is looked at, so the figures of a report hold what trimming costs.
"""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path

from app.artifacts.base_package import Progress, assemble_base, silent
from app.backends.gguf_file import GgufFile
from app.backends.gguf_vocabulary import NORMAL, Vocabulary, write_kept
from app.backends.llama_context import LlamaModel
from app.classification.prompt import normalise
from training.bases import GEMMA_3_270M
from training.cart.generation import generate
from training.cart.written import read_written
from training.examples import LANGUAGES
from training.storefront import SEED, label_sets, unlabelled_texts

CART_ROWS_PER_LANGUAGE = 10_000
_MARKS = ("COMBINING", "VARIATION")


def write_vocabulary(
    path: Path, cache: Path, size: int | None, data: Path | None, progress: Progress = silent
) -> tuple[int, int]:
    """Choose pieces of the packaged base and write their bitmap; how many stay, and of how many.

    ``data`` is the folder of the public data sets; it is read where a ``size`` is given.
    """
    base = assemble_base(GEMMA_3_270M, cache, progress)
    vocabulary = Vocabulary.read(GgufFile(base))
    if size is None:
        chosen = vocabulary.closed(latin_pieces(vocabulary))
    else:
        if data is None:
            raise ValueError("a size needs the data that tells which pieces are used")
        chosen = vocabulary.closed(
            most_needed(vocabulary, used_pieces(base, learnt_texts(data), progress), size)
        )
    write_kept(path, chosen.tolist(), len(vocabulary.pieces))
    return len(chosen), len(vocabulary.pieces)


def latin_pieces(vocabulary: Vocabulary) -> list[int]:
    """Ids of the pieces without letters of another script, in order."""
    return [
        number
        for number, piece in enumerate(vocabulary.pieces)
        if vocabulary.types[number] == NORMAL and all(map(_is_latin, piece.decode()))
    ]


def most_needed(vocabulary: Vocabulary, used: Iterable[int], size: int) -> set[int]:
    """``used``, single characters, then the first Latin pieces, until closing them takes ``size``.

    What closing adds to the last ones may exceed it by a few.
    """
    latin = latin_pieces(vocabulary)
    characters = [i for i in latin if len(vocabulary.pieces[i].decode()) == 1]
    kept = set(vocabulary.closed({*used, *characters}).tolist())
    for number in latin:
        if len(kept) >= size:
            break
        if number not in kept:
            kept.update(vocabulary.closed_over(number))
    return kept


def used_pieces(base: Path, texts: Iterable[str], progress: Progress = silent) -> set[int]:
    """Ids of all pieces that the base's tokeniser splits the texts into."""
    model = LlamaModel(base, vocabulary_only=True)
    used: set[int] = set()
    for count, text in enumerate(texts, start=1):
        used.update(model.tokenise(normalise(text)))
        if count % 1000 == 0:
            progress("tokenise", count, 0)
    model.close()
    return used


def learnt_texts(data: Path) -> Iterator[str]:
    """All messages that the default model is tuned on, and cart rows of the training side."""
    sets = label_sets(data)
    for label_set in sets:
        yield from (example.text for example in label_set.examples)
    yield from (text for text, _ in unlabelled_texts(data, sets))
    for catalog in read_written():
        yield from catalog.names
        yield from (row["text"] for row in catalog.rows)
    seen: set[str] = set()
    for language in LANGUAGES:
        rng = random.Random(f"{SEED}:{language}")
        for _ in range(CART_ROWS_PER_LANGUAGE):
            row = generate(language, "train", rng)
            new = {row.text, *row.catalog} - seen
            seen |= new
            yield from sorted(new)


def _is_latin(character: str) -> bool:
    """Digits, punctuation, emoji and the sign for a space count as Latin; so do the ª and º of Spanish."""
    kind = unicodedata.category(character)[0]
    if kind == "L":
        return any(
            "LATIN" in unicodedata.name(c, "") for c in unicodedata.normalize("NFKD", character)
        )
    return kind != "M" or unicodedata.name(character, "").startswith(_MARKS)
