"""The check that every row of cart data must pass."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from training.cart.catalogs import LARGEST, STRAY_FIT
from training.cart.matching import fit
from training.cart.numerals import LARGEST_QUANTITY
from training.cart.products import Split, products_of, read_products
from training.examples import LANGUAGES
from training.noise import without_diacritics

_KINDS_WITHOUT_ACTION = {"absent", "no_action", "ambiguous"}


def check_row(row: Mapping[str, Any], split: Split) -> list[str]:
    """What is wrong with a row of a split; nothing when it is sound."""
    catalog = row["catalog"]
    faults = []
    if len(set(catalog)) != len(catalog) or not 2 <= len(catalog) <= LARGEST:
        faults.append("the catalog repeats a product or has a wrong size")
    if not row["text"].strip() or "{" in row["text"] or "[" in row["text"]:
        faults.append("the text is empty or has an unfilled slot")
    if bool(row["actions"]) == (row["kind"] in _KINDS_WITHOUT_ACTION):
        faults.append("the kind and the number of actions disagree")
    if (len(row.get("candidates", ())) > 1) != (row["kind"] == "ambiguous"):
        faults.append("candidates belong to ambiguous rows, two or more")
    if row["kind"] == "several" and not 2 <= len(row["actions"]) <= 6:
        faults.append("several means two to six actions")
    faults += [f for candidate in row.get("candidates", ()) for f in _listed(candidate, catalog)]
    for action, mention in zip(row["actions"], row["mentions"], strict=True):
        faults += _check_action(action, mention, catalog, split)
    return [f"{fault}: {row['text']!r}" for fault in faults]


def check_splits(splits: Mapping[Split, Iterable[Mapping[str, Any]]]) -> list[str]:
    """Families on two sides of the sources, and names of dev or test in training catalogs."""
    sides: dict[str, set[Split]] = {}
    for language in LANGUAGES:
        for product in read_products(language):
            sides.setdefault(product.family, set()).add(product.split)
    faults = [f"family on two sides: {name}" for name, found in sides.items() if len(found) > 1]
    trained = {_plain(name) for row in splits.get("train", ()) for name in row["catalog"]}
    text = "\n".join(sorted(trained))
    held_out: tuple[Split, ...] = ("dev", "test")
    for language in LANGUAGES:
        for split in held_out:
            faults += [
                f"{split} product in training: {product.base}"
                for product in products_of(language, split)
                if _plain(product.base) in text
            ]
    return faults


def _check_action(
    action: Mapping[str, Any], mention: str, catalog: Iterable[str], split: Split
) -> list[str]:
    faults = _listed(action["product"], catalog)
    if action["action"] not in {"add", "remove"}:
        faults.append("unknown action")
    quantity = action["quantity"]
    if type(quantity) is not int or not 1 <= quantity <= LARGEST_QUANTITY:
        faults.append(f"the quantity is not a whole number from 1 to {LARGEST_QUANTITY}")
    own = fit(mention, action["product"])
    least = max(own + 0.05, STRAY_FIT if split == "train" else 0.0)
    better = [name for name in catalog if fit(mention, name) > least]
    if better:
        faults.append(f"{mention!r} fits {better[0]!r} better than {action['product']!r}")
    return faults


def _listed(name: str, catalog: Iterable[str]) -> list[str]:
    return [] if name in catalog else [f"{name!r} is not in the catalog"]


def _plain(name: str) -> str:
    return re.sub(r"[^0-9a-z]+", "", without_diacritics(name).casefold())
