"""Cart rows that several processes make while tools/train_away.py learns from them."""

from __future__ import annotations

import gc
import os
import pickle
import random
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from app.classification.prompt import Prompt
from training.bases import GEMMA_3_270M, Base, Tokeniser
from training.cart.dataset import TOGETHER
from training.cart.generation import generate_together
from training.cart.named import read_named
from training.cart.packing import CartGroup, together
from training.cart.phrasings import SLOT, read_phrasings
from training.cart.validation import check_row
from training.cart.written import draw_written, read_written
from training.examples import LANGUAGES
from training.noise import without_diacritics
from training.stage_one import CartPupil
from training.storefront import RENAMED_SHARE, WRITTEN_SHARE

SAMPLED = 10_000
"""Catalogs that are made to see which pieces carts need."""
GROUPS_A_FILE = 250
CROATIAN = 1.4
"""How much more often generated carts are Croatian, its weakest language."""


def groups_of(
    directory: Path, seed: str, used: set[int] | None = None, renamed: float = RENAMED_SHARE
) -> Iterator[CartGroup]:
    """Rows by catalog, for ever; none with pieces beside ``used``."""
    base = Base(directory, GEMMA_3_270M, "")
    pupil = CartPupil(Tokeniser(base, Prompt()), renamed)
    rng = random.Random(seed)  # noqa: S311
    weights = [CROATIAN if language == "hr" else 1.0 for language in LANGUAGES]
    while True:
        if rng.random() < WRITTEN_SHARE:
            encoded = pupil.encode(draw_written(rng, TOGETHER), rng)
        else:
            (language,) = rng.choices(LANGUAGES, weights)
            rows = [asdict(row) for row in generate_together(language, "train", rng, TOGETHER)]
            encoded = pupil.encode([row for row in rows if not check_row(row, "train")], rng)
        kept = [row for row in encoded if used is None or used.issuperset(row.tokens)]
        yield from together(kept)


def make_rows(work: Path, workers: int, most: int, seed: int, folder: str, renamed: float) -> None:
    """Files of catalogs with their rows in ``folder``, by several processes, up to ``most`` catalogs."""
    (work / folder).mkdir(exist_ok=True)
    with get_context("fork").Pool(workers) as pool:
        each = most // workers
        pool.starmap(
            _make_rows,
            [(work, f"{seed}:{folder}:{n}", each, folder, renamed) for n in range(workers)],
        )


def _make_rows(work: Path, seed: str, most: int, folder: str, renamed: float) -> None:
    used = set(np.load(work / "used.npy").tolist())
    made = groups_of(work / "tokeniser", seed, used, renamed)
    for number in range(most // GROUPS_A_FILE):
        content = [next(made) for _ in range(GROUPS_A_FILE)]
        path = work / folder / f"{number:05}-{seed.replace(':', '-')}.pickle"
        path.with_suffix(".partial").write_bytes(pickle.dumps(content))
        path.with_suffix(".partial").replace(path)


def follow(directory: Path, groups: list[CartGroup], ended: threading.Event) -> None:
    """Add what files come, until ``ended``."""
    known: set[str] = set()
    while not ended.is_set():
        for path in sorted(directory.glob("*.pickle")):
            if path.name not in known:
                known.add(path.name)
                groups += pickle.loads(path.read_bytes())  # noqa: S301 - written beside, by us
                gc.freeze()  # rows stay: to look through all of them for garbage takes seconds
                time.sleep(0.02)  # the thread that trains comes first
        ended.wait(1.0)


def cart_pieces(directory: Path) -> set[int]:
    """Ids that a sample of generated rows takes, every phrasing, every written row and named line."""
    with get_context("fork").Pool(os.cpu_count()) as pool:
        each = SAMPLED // (os.cpu_count() or 1)
        found = pool.starmap(
            _pieces_of, [(directory, seed, each) for seed in range(os.cpu_count() or 1)]
        )
    plain = Tokeniser(Base(directory, GEMMA_3_270M, ""), Prompt()).plain
    texts = [
        re.sub(SLOT, "", phrasing.text)
        for language in LANGUAGES
        for phrasings in read_phrasings(language).values()
        for phrasing in phrasings
    ]
    for catalog in read_written():
        texts += catalog.names
        texts += [row["text"] for row in catalog.rows]
    for line in (p for language in LANGUAGES for lines in read_named(language) for p in lines):
        names = {line.name}
        names |= {form for p in line.exact for form in (p.nominative, p.few, p.many)}
        forms = {form for name in names for form in _forms(name)}
        texts += [*forms, *(f" {form}" for form in forms)]  # alone, and behind a brand
    ways = {way for text in texts for way in (text, text.capitalize(), text.casefold())}
    return set().union(*found, *map(plain, ways))


def _forms(name: str) -> tuple[str, ...]:
    """As it is listed, and as it is typed."""
    return name, name.upper(), name[0].upper() + name[1:], without_diacritics(name)


def _pieces_of(directory: Path, seed: int, count: int) -> set[int]:
    made = groups_of(directory, f"pieces:{seed}")
    return {token for _ in range(count) for row in next(made).rows for token in row.tokens}
