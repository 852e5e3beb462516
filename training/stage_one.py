"""The storefront models' tuning: messages, teacher and carts brought together for :mod:`training.joint`."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file

from app.artifacts.base_package import Progress, silent
from app.classification.cart import CartHeads
from app.classification.head import Head
from app.classification.model_files import HEAD, cart_heads
from app.classification.prompt import Prompt, normalise
from app.errors import FileDamaged, InputError
from training.adapter_files import IMPORTANCE, Adapter, read_adapter
from training.bases import Base, Tokeniser
from training.cart.dataset import TOGETHER, write_dataset
from training.cart.encoding import CartEncoder, EncodedCart
from training.cart.packing import CartGroup, together
from training.cart.renaming import rename, stems_of
from training.cart.tuning import CartObjective
from training.cart.written import draw_written
from training.changes import Change, LowRank, Whole, fresh
from training.examples import LANGUAGES, Example, read_rows, read_seeds
from training.gemma import Gemma, read_checkpoint
from training.joint import Message, Messages, Pool, first_rows, train
from training.noise import noisy
from training.rounding import Rounding
from training.storefront import (
    CART_HELD_OUT,
    CART_ROWS,
    DEFAULT,
    JSON_SHARE,
    RENAMED_SHARE,
    SEED,
    WRITTEN_SHARE,
    LabelSet,
    Variant,
    composed_texts,
    label_sets,
    unlabelled_texts,
)
from training.teacher import packaged_teacher
from training.tuned_files import CART, write_cart_heads, write_tuned
from training.tuning import Tuned, text_rows

SPELLINGS = 5
"""Noisy ways to write each message, beside its own."""
_NOTHING = np.float32(1e-12)
_GROUPS = {"storefront": "own", "clinc150": "open", "hwu64": "open", "bitext": "open"}


@dataclass(frozen=True, slots=True)
class Text:
    """A text, its language, and the row of its label among all sets' rows (-1: none)."""

    text: str
    language: str
    label: int = -1


def tune_default(
    base: Base,
    data: Path,
    cache: Path,
    run: Path,
    device: str,
    progress: Progress,
    variant: Variant = DEFAULT,
    start: Path | None = None,
) -> Tuned:
    """Tune and keep the outcome in ``run``; several runs with other seeds are worth averaging.

    ``start`` is a published version to go on from: its weights, its head and its cart heads.
    """
    tokeniser = Tokeniser(base, Prompt())
    tensors, table = read_checkpoint(base.directory / "model.safetensors", device)
    before = None if start is None else read_start(start, variant.carts)
    lessons = prepare(data, tokeniser, table, variant, before)
    targets = packaged_teacher(cache, device, progress).embed(lessons.texts, progress)
    groups = together(cart_rows(tokeniser, run / "cart", progress)) if variant.carts else None
    tuned, carts = learn(
        tensors, table, lessons, targets, groups, variant, before, device, progress=progress
    )
    if carts is not None:
        write_cart_heads(run, carts)
    write_tuned(run, tuned)
    return tuned


@dataclass(frozen=True, slots=True)
class Lessons:
    """Messages by pool, starting rows (labels, hidden) of each label set, texts for the teacher."""

    pools: list[Pool]
    heads: list[npt.NDArray[np.float32]]
    texts: list[str]


def prepare(
    data: Path, tokeniser: Tokeniser, table: torch.Tensor, variant: Variant, before: Start | None
) -> Lessons:
    """What ``data`` and the project's own messages have to teach. ``table`` is the base's embedding."""
    sets = label_sets(data)
    heads = _first_heads(tokeniser, table, sets)
    if before is not None:
        heads[0] = before.head.rows
    groups = group_texts(sets, heads, [*unlabelled_texts(data, sets), *composed_texts(sets)])
    texts = list(dict.fromkeys(t.text for group in groups.values() for t in group))
    rows = {text: row for row, text in enumerate(texts)}
    pools = [
        Pool(variant.shares[name], spelt(group, tokeniser, rows, variant.tuning.seed))
        for name, group in groups.items()
    ]
    return Lessons(pools, heads, texts)


def learn(
    tensors: dict[str, torch.Tensor],
    table: torch.Tensor,
    lessons: Lessons,
    targets: npt.NDArray[np.float32],
    groups: Sequence[CartGroup] | None,
    variant: Variant,
    before: Start | None,
    device: str,
    pace: Callable[[int], float] | None = None,
    progress: Progress = silent,
    keep: Callable[[Tuned, CartHeads | None], None] | None = None,
) -> tuple[Tuned, CartHeads | None]:
    """Tune a base on from ``before``; ``targets`` are the teacher's embeddings of the lessons' texts.

    ``pace`` and ``keep`` are as in :func:`training.joint.train`.
    """
    torch.set_float32_matmul_precision("high")
    # Its attention plans each call anew on the host, 5 ms every time: more than the GPU then takes.
    torch.backends.cuda.enable_cudnn_sdp(False)
    config = variant.tuning
    if before is not None and variant.whole:
        config = replace(config, learning_rate=variant.whole_rate)
    model = Gemma(
        tensors,
        table,
        layers=variant.layers,
        change=_change(variant, before),
        compiled=device.startswith("cuda"),
        rounded=_rounding(variant, before) if variant.rounded else None,
        dropout=variant.dropout,
    )
    first_bias = None if before is None else before.head.bias
    messages = Messages(lessons.pools, lessons.heads, targets, config, device, first_bias)
    start = None if before is None else before.carts
    carts = []
    if groups is not None:
        size, seed = variant.catalogs, config.seed
        carts = [CartObjective(groups, model.hidden, size, device, seed, start=start)]

    def result(tuned: Tuned) -> tuple[Tuned, CartHeads | None]:
        tuned = replace(tuned, heads=tuned.heads[:1])  # the other sets' labels have done their work
        return tuned, carts[0].heads() if carts else None

    tuned = train(
        model,
        messages,
        carts,
        config,
        lambda done, total, loss: progress(f"tune (loss {loss:.2f})", done, total),
        pace,
        None if keep is None else lambda so_far: keep(*result(so_far)),
    )
    return result(tuned)


def _change(variant: Variant, before: Start | None) -> Callable[[str, torch.Tensor], Change]:
    """What is tuned: a new adapter, the one that was there (maybe wider), or all numbers."""
    if before is None:
        return fresh(variant.rank, variant.scale, variant.tuning.seed)
    started = widened(balanced(before.adapter), variant.kept, variant.tuning.seed)

    def change(name: str, weight: torch.Tensor) -> Change:
        a, b = (torch.from_numpy(factor).to(weight.device) for factor in started[name])
        if variant.whole:
            return Whole(a, b, len(a), before.importance.get(name))
        return LowRank(a, b, 1.0)

    return change


def _rounding(variant: Variant, before: Start | None) -> Rounding:
    return Rounding(variant.quantisation, before.importance if before else None)


@dataclass(frozen=True, slots=True)
class Start:
    """What a published version was made of, and what its matrices' inputs are (for rounding)."""

    adapter: Adapter
    head: Head
    carts: CartHeads | None
    importance: Mapping[str, npt.NDArray[np.float32]]


def read_start(version: Path, carts: bool = True) -> Start:
    """Raises :class:`FileDamaged` when one of the version's files cannot be read."""
    adapter = read_adapter(version / "adapter-1.safetensors")
    try:
        head = load_file(version / HEAD)
        found = load_file(version / CART) if carts else None
        known = version / IMPORTANCE
        importance = load_file(known) if known.is_file() else {}
        return Start(
            adapter,
            Head(head["rows"], head["bias"]),
            None if found is None else cart_heads(found),
            {name: columns.astype(np.float32) for name, columns in importance.items()},
        )
    except (OSError, SafetensorError, KeyError) as error:
        raise FileDamaged(f"{version}: no version to go on from: {error}") from error


def balanced(adapter: Adapter) -> Adapter:
    """The same changes, every row of ``a`` and its column of ``b`` equally long.

    A step of Adam is as long in both, and would turn the shorter of an unlike pair about.
    """
    even: Adapter = {}
    for name, (a, b) in adapter.items():
        rows, columns = np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=0)
        share = np.sqrt(np.maximum(columns, _NOTHING) / np.maximum(rows, _NOTHING))
        even[name] = a * share[:, None], b / share
    return even


def widened(adapter: Adapter, rank: int, seed: int) -> Adapter:
    """The same changes by factors ``rank`` wide, if they are narrower: what is added begins anew."""
    rng = np.random.default_rng(seed)
    wide: Adapter = {}
    for name, (a, b) in adapter.items():
        more = max(0, rank - len(a))
        new = rng.standard_normal((more, a.shape[1]), np.float32) / math.sqrt(a.shape[1])
        nothing = np.zeros((len(b), more), np.float32)
        wide[name] = np.concatenate([a, new]).astype(np.float32), np.concatenate([b, nothing], 1)
    return wide


def group_texts(
    sets: Sequence[LabelSet],
    heads: Sequence[npt.NDArray[np.float32]],
    unlabelled: Sequence[tuple[str, str]],
) -> dict[str, list[Text]]:
    """All texts by the group that :attr:`Variant.shares` names."""
    groups: dict[str, list[Text]] = {name: [] for name in DEFAULT.shares}
    for first, label_set in zip(first_rows(heads), sets, strict=True):
        places = {label: first + row for row, label in enumerate(label_set.labels)}
        group = groups[_GROUPS.get(label_set.name, "shops")]
        group += [Text(e.text, e.language, places[e.intent]) for e in label_set.examples]
    groups["unlabelled"] = [Text(text, language) for text, language in unlabelled]
    return groups


def spelt(
    texts: Sequence[Text], tokeniser: Tokeniser, rows: dict[str, int], seed: int
) -> list[Message]:
    """Every text as written twice, and in :data:`SPELLINGS` noisy ways; all mean what it means."""
    rng = random.Random(seed)
    ways = [
        [t.text, *(normalise(noisy(t.text, t.language, rng)) for _ in range(SPELLINGS))]
        for t in texts
    ]
    prompts = iter(tokeniser.prompts([way for each in ways for way in each]))
    messages = []
    for text, each in zip(texts, ways, strict=True):
        own, *others = (next(prompts) for _ in each)
        messages.append(Message((own, own, *others), text.label, rows[text.text]))
    return messages


def cart_rows(tokeniser: Tokeniser, directory: Path, progress: Progress) -> list[EncodedCart]:
    """The training rows, written and generated: some renamed, some simple ones that answer in JSON."""
    if not (directory / "train.jsonl").is_file():
        write_dataset(directory, SEED, CART_ROWS, CART_HELD_OUT, CART_HELD_OUT, progress)
    pupil = CartPupil(tokeniser)
    rng = random.Random(SEED)
    encoded = []
    for _, rows in groupby(read_rows(directory / "train.jsonl"), lambda row: row["catalog"]):
        written = rng.random() < WRITTEN_SHARE
        encoded += pupil.encode(draw_written(rng, TOGETHER) if written else list(rows), rng)
    return encoded


class CartPupil:
    """Written rows as training reads them: some renamed, some with the paper's answer in JSON."""

    def __init__(self, tokeniser: Tokeniser, renamed: float = RENAMED_SHARE) -> None:
        """``renamed`` is the share of catalogs whose products get made-up names."""
        self._renamed = renamed
        self._encoder = CartEncoder(tokeniser.plain, tokeniser.beginning, tokeniser.end)
        seeds = read_seeds()
        self._stems = {language: stems_of(_words(seeds, language)) for language in LANGUAGES}

    def encode(self, rows: Sequence[dict[str, Any]], rng: random.Random) -> list[EncodedCart]:
        """Rows about one catalog. If it is renamed, all of them get the same names."""
        renaming, seed = rng.random() < self._renamed, rng.random()
        encoded = []
        for written in rows:
            names, stems = random.Random(seed), self._stems[written["language"]]
            marked = renaming and "mentions" in written
            row = (marked and rename(written, stems, names)) or written
            simple = row["kind"] in ("single", "absent", "no_action")
            as_json = simple and rng.random() < JSON_SHARE
            encoded.append(self._encoder.encode(row, as_json=as_json))
        return encoded


def _words(seeds: Sequence[Example], language: str) -> list[str]:
    """Raises :class:`InputError` where seeds are missing: nothing would be renamed then."""
    texts = (e.text.casefold() for e in seeds if e.language == language)
    words = sorted({word for text in texts for word in re.findall(r"[^\W\d_]+", text)})
    if not words:
        raise InputError(f"no seeds in training/data/seeds/{language}: products get no other names")
    return words


def _first_heads(
    tokeniser: Tokeniser, table: torch.Tensor, sets: Sequence[LabelSet]
) -> list[npt.NDArray[np.float32]]:
    """Each label begins at the mean of its name's embeddings."""
    embedding = table.cpu().numpy()
    return [
        text_rows(
            embedding, [tokeniser.plain(label.replace("_", " ").lower()) for label in s.labels]
        )
        for s in sets
    ]
