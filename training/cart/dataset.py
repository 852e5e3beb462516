"""Cart data sets on disk: written by seed, read, checked and counted."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from training.cart.catalogs import LARGEST
from training.cart.drawing import CartRow
from training.cart.generation import generate, generate_together
from training.cart.named import read_named
from training.cart.phrasings import read_phrasings
from training.cart.products import Split, read_products
from training.cart.validation import check_row, check_splits
from training.examples import LANGUAGES, read_rows

Progress = Callable[[str, int, int], None]
TOGETHER = 8
"""Training rows about one catalog, which are learned together; of dev and test each has its own."""


def write_dataset(
    out: Path, seed: int, train: int, dev: int, test: int, progress: Progress | None = None
) -> dict[str, int]:
    """Write ``train.jsonl``, ``dev.jsonl`` and ``test.jsonl``; answers the rows of each.

    ``train`` and ``dev`` count rows over the three languages, ``test`` rows a language. Raises
    ValueError when a row or the splits fail their check; then nothing of that split is written.
    """
    out.mkdir(parents=True, exist_ok=True)
    counts: dict[str, int] = {}
    written: dict[Split, list[CartRow]] = {}
    wanted: dict[Split, dict[str, int]] = {
        "train": _shares(train), "dev": _shares(dev), "test": dict.fromkeys(LANGUAGES, test),
    }  # fmt: skip
    for split, by_language in wanted.items():
        groups: list[list[CartRow]] = []
        done = 0
        for language, count in by_language.items():
            rng = random.Random(f"{seed}:{split}:{language}")
            for group in _distinct(language, split, count, rng):
                groups.append(group)
                done += len(group)
                if progress:
                    progress(f"cart data ({split})", done, sum(by_language.values()))
        random.Random(f"{seed}:{split}").shuffle(groups)
        rows = [row for group in groups for row in group]
        problems = [problem for row in rows for problem in check_row(asdict(row), split)]
        if problems:
            raise ValueError(f"{len(problems)} faults in {split}; first: {problems[0]}")
        written[split] = rows
    problems = check_splits({split: map(asdict, rows) for split, rows in written.items()})
    if problems:
        raise ValueError(f"{len(problems)} leaks; first: {problems[0]}")
    for split, rows in written.items():
        with (out / f"{split}.jsonl").open("w", encoding="utf-8") as stream:
            for row in rows:
                stream.write(json.dumps(_filled(row), ensure_ascii=False) + "\n")
        counts[split] = len(rows)
    return counts


def source_counts() -> dict[str, Any]:
    """What is written by hand: products, families, mentions, phrasings and named catalogs by language."""
    counts: dict[str, Any] = {}
    for language in LANGUAGES:
        products = read_products(language)
        named = [line for lines in read_named(language) for line in lines]
        counts[language] = {
            "products": len(products),
            "families": len({p.family for p in products}),
            "trades": len({p.trade for p in products}),
            "mentions": sum(len(p.exact) + len(p.general) for p in products),
            "named_catalogs": len(read_named(language)),
            "named_lines": len(named),
            "named_ways": sum(len(line.exact) for line in named),
            "by_split": dict(Counter(p.split for p in products)),
            "phrasings": {use: len(rows) for use, rows in read_phrasings(language).items()},
            "heldout_phrasings": sum(
                row.heldout for rows in read_phrasings(language).values() for row in rows
            ),
        }
    return counts


def dataset_counts(directory: Path) -> dict[str, Any]:
    """Rows of each written split by language, kind, number of actions and catalog size."""
    counts: dict[str, Any] = {}
    for path in sorted(directory.glob("*.jsonl")):
        rows = read_rows(path)
        quantities = Counter(a["quantity"] for row in rows for a in row["actions"])
        counts[path.stem] = {
            "rows": len(rows),
            "distinct_texts": len({row["text"].casefold() for row in rows}),
            "by_language": dict(Counter(row["language"] for row in rows)),
            "by_kind": dict(Counter(row["kind"] for row in rows)),
            "by_actions": {
                str(k): v for k, v in sorted(Counter(len(row["actions"]) for row in rows).items())
            },
            "verbs": dict(Counter(a["action"] for row in rows for a in row["actions"])),
            "heldout_phrasing": sum(row["heldout"] for row in rows),
            "product_names": len({name for row in rows for name in row["catalog"]}),
            "catalog_size": {
                "smallest": min(len(row["catalog"]) for row in rows),
                "mean": round(sum(len(row["catalog"]) for row in rows) / len(rows), 1),
                "largest": max(len(row["catalog"]) for row in rows),
                "limit": LARGEST,
            },
            "quantity_above_one": sum(v for k, v in quantities.items() if k > 1),
        }
    return counts


def _shares(total: int) -> dict[str, int]:
    """The total over the languages, the remainder to the first."""
    each, over = divmod(total, len(LANGUAGES))
    return {language: each + (i < over) for i, language in enumerate(LANGUAGES)}


def _distinct(
    language: str, split: Split, count: int, rng: random.Random
) -> Iterator[list[CartRow]]:
    """Rows by catalog, ``count`` in all."""
    seen: set[tuple[str, Iterable[str]]] = set()
    while len(seen) < count:
        drawn = (
            generate_together(language, split, rng, TOGETHER)
            if split == "train"
            else iter([generate(language, split, rng)])
        )
        group = []
        for row in drawn:
            key = (row.text.casefold(), row.catalog)
            if key not in seen and len(seen) < count:
                seen.add(key)
                group.append(row)
        if group:
            yield group


def _filled(row: CartRow) -> dict[str, Any]:
    content = asdict(row)
    if not row.candidates:
        del content["candidates"]
    return content
