"""A vocabulary without the pieces that its texts never need.

Gemma's 262,144 pieces cover every script; a shop's messages need a fraction, and each piece is a row of
the embedding. The tokeniser joins, again and again, the two neighbours whose joint piece has the best
score. What is joined inside a piece does not depend on what stands around it, so pieces that are kept
with all that is joined on the way to them split every text made of them as the whole vocabulary does.
Any other text is split into smaller pieces that were kept, in the end into bytes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from app.backends.gguf_file import GgufFile, array
from app.errors import FileDamaged, ManifestInvalid

Ids: TypeAlias = npt.NDArray[np.int64]

TENSORS = frozenset({"token_embd.weight", "output.weight"})
"""Those that have a row for each piece."""

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6
"""As ``enum llama_token_type`` counts."""

_PIECES, _SCORES, _TYPES = (f"tokenizer.ggml.{key}" for key in ("tokens", "scores", "token_type"))


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Pieces (UTF-8), scores (n,) and types (n,) by token id; the ids that the metadata names."""

    pieces: tuple[bytes, ...]
    scores: npt.NDArray[np.float32]
    types: npt.NDArray[np.int32]
    named: dict[str, int]
    ids: dict[bytes, int]

    @classmethod
    def read(cls, file: GgufFile) -> Vocabulary:
        """Raises :class:`ManifestInvalid` when the file's tokeniser is of another kind."""
        if _SCORES not in file.keys or "tokenizer.ggml.merges" in file.keys:
            raise ManifestInvalid("only a SentencePiece vocabulary with scores can be trimmed")
        named = {
            key: value
            for key in file.keys
            if key.startswith("tokenizer.ggml.")
            and key.endswith("_token_id")
            and (value := file.uint32(key)) is not None
        }
        pieces = tuple(file.strings(_PIECES))
        ids = {piece: number for number, piece in enumerate(pieces)}
        return cls(pieces, file.floats(_SCORES), file.int32s(_TYPES), named, ids)

    def closed(self, ids: Iterable[int]) -> Ids:
        """The ids, sorted, with all that the tokeniser cannot do without or joins on the way to them."""
        indispensable = np.isin(self.types, (UNKNOWN, USER_DEFINED, BYTE)).nonzero()[0]
        kept = {*ids, *indispensable.tolist(), *self.named.values()}
        for number in tuple(kept):
            kept.update(self.closed_over(number))
        return np.array(sorted(kept), np.int64)

    def closed_over(self, number: int) -> list[int]:
        """A piece's id and those that the tokeniser goes through when it reads the piece alone."""
        if self.types[number] != NORMAL:
            return [number]
        parts = [character.encode() for character in self.pieces[number].decode()]
        passed = [number, *(self.ids[part] for part in parts if part in self.ids)]
        while True:
            joints = [self.ids.get(left + right) for left, right in pairwise(parts)]
            found = [(place, joint) for place, joint in enumerate(joints) if joint is not None]
            if not found:
                return passed
            place, best = max(found, key=lambda item: (self.scores[item[1]], -item[0]))
            parts[place : place + 2] = [self.pieces[best]]
            passed.append(best)

    def values_without_others(self, kept: Ids) -> dict[str, int | bytes]:
        """The metadata of a file that has only the kept pieces, numbered in their order."""
        numbers = {int(old): new for new, old in enumerate(kept)}
        values: dict[str, int | bytes] = {key: numbers[old] for key, old in self.named.items()}
        values[_PIECES] = array([self.pieces[number] for number in kept])
        values[_SCORES] = array(self.scores[kept])
        values[_TYPES] = array(self.types[kept])
        return values


def write_kept(path: Path, kept: Iterable[int], size: int) -> None:
    """One bit for each of ``size`` pieces, as safetensors."""
    marks = np.zeros(size, np.uint8)
    marks[np.fromiter(kept, np.int64)] = 1
    save_file({"kept": np.packbits(marks)}, path)


def read_kept(path: Path, size: int) -> Ids:
    """The ids, sorted. Raises :class:`FileDamaged` when they are not of ``size`` pieces."""
    try:
        packed = load_file(path)["kept"]
    except (OSError, KeyError, SafetensorError) as error:
        raise FileDamaged(f"{path.name} is unreadable: {error}") from error
    if packed.dtype != np.uint8 or packed.shape != ((size + 7) // 8,):
        raise FileDamaged(f"{path.name} is not about a vocabulary of {size} pieces")
    return np.unpackbits(packed, count=size).nonzero()[0]
