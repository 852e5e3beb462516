"""Tunes the default model on from a published version, on a GPU that nothing can be fetched from.

    python tools/train_away.py pack .gpu --data DATA    here: `small`, then the rest in parts
    python tools/train_away.py unpack .gpu /tmp/away    there, once for each part that was carried
    python tools/train_away.py rows /tmp/away           there, as soon as `small` is unpacked
    python tools/train_away.py embed /tmp/away          there, when all is unpacked
    python tools/train_away.py train /tmp/away OUT --until TIME    there
    python tools/train_away.py take OUT runs/NAME       here: a run as train-default leaves it

What is learned, and how, is `train-default --start` (:mod:`training.stage_one`), but for the clock, which
ends the run, and for cart rows, which other processes make while it learns. Of both embedding tables only
the rows go over that messages and carts need; a cart row that would need another is not learned.
"""

from __future__ import annotations

import argparse
import io
import json
import lzma
import os
import shutil
import sys
import tarfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

sys.path.insert(0, str(Path(__file__).parents[1]))

# Beside this script:
from away_files import (
    read_base,
    read_lessons,
    squeeze,
    unfold_teacher,
    write_base,
    write_lessons,
    write_teacher,
)
from away_rows import cart_pieces, follow, make_rows

from app.artifacts.base_package import assemble_base
from app.backends.gguf_file import GgufFile
from app.classification.cart import CartHeads
from app.classification.model_files import HEAD
from app.classification.prompt import Prompt
from training.adapter_files import ADAPTER, IMPORTANCE, Adapter, read_adapter, write_adapter
from training.bases import GEMMA_3_270M, Tokeniser, packaged_base
from training.cart.packing import CartGroup
from training.gemma import read_checkpoint
from training.stage_one import learn, prepare, read_start
from training.storefront import DEFAULT, RENAMED_SHARE
from training.teacher import Teacher
from training.terminal import console
from training.tuned_files import CART, write_cart_heads, write_tuned
from training.tuning import Tuned

_PROFILED = 30
_PIECE = 15_000_000
"""Bytes of an adapter's file that such a machine lets go."""
ROWS = "rows"
"""Where rows of catalogs are, of one kind; other kinds may lie beside them."""
FIRST_GROUPS = 6000
"""Catalogs that must be there before training begins."""


def pack(out: Path, data: Path, version: Path, part_bytes: int) -> None:
    """``out/small`` and ``out/part-N``; the lessons in ``out/rest`` are not made again."""
    cache = version.parents[1] / ".cache"
    base = packaged_base(cache)
    shutil.rmtree(out / "small", ignore_errors=True)
    small, rest = out / "small", out / "rest"
    (small / "tokeniser").mkdir(parents=True)
    (rest / "start").mkdir(parents=True, exist_ok=True)
    for path in base.directory.glob("tokenizer*"):
        squeeze(path, small / "tokeniser")
    for name in ("adapter-1.safetensors", HEAD, CART, IMPORTANCE):
        shutil.copyfile(version / name, rest / "start" / name)
    if not (rest / "lessons").is_dir():
        _say("what there is to learn")
        _, table = read_checkpoint(base.directory / "model.safetensors", "cpu")
        tokeniser = Tokeniser(base, Prompt())
        write_lessons(
            rest / "lessons", prepare(data, tokeniser, table, DEFAULT, read_start(version))
        )
    lessons = read_lessons(rest / "lessons")
    _say("which pieces carts need")
    used = cart_pieces(base.directory)
    prompts = (way for pool in lessons.pools for m in pool.messages for way in m.spellings)
    used.update(token for way in prompts for token in way)
    np.save(small / "used.npy", np.array(sorted(used), np.int32))
    _say(f"{len(used)} pieces; the base")
    write_base(rest / "base.safetensors", GgufFile(assemble_base(GEMMA_3_270M, cache)), used)
    _say("the teacher")
    write_teacher(rest / "teacher", cache, lessons.texts)
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as tar:
        tar.add(rest, arcname=".")
    content = whole.getvalue()
    parts = range(0, len(content), part_bytes)
    for stale in out.glob("part-*"):
        shutil.rmtree(stale)
    for number, start in enumerate(parts):
        (out / f"part-{number}").mkdir()
        part = content[start : start + part_bytes]
        (out / f"part-{number}" / f"part-{number:02}.tar").write_bytes(part)
    (small / "parts.json").write_text(json.dumps({"bytes": len(content)}))
    _say(f"{len(content) / 1e6:.0f} MB in {len(parts)} parts")


def _say(what: str) -> None:
    console.print(f"{time.strftime('%H:%M:%S')} {what}", highlight=False)


def unpack(carried: Path, work: Path) -> None:
    """Collect what came in this call; when all of it is there, lay it out."""
    work.mkdir(parents=True, exist_ok=True)
    for path in carried.glob("small/*"):
        (shutil.copytree if path.is_dir() else shutil.copyfile)(path, work / path.name)
    for path in work.glob("tokeniser/*.xz"):
        path.with_suffix("").write_bytes(lzma.decompress(path.read_bytes()))
        path.unlink()
    for path in carried.glob("part-*/*.tar"):
        shutil.copyfile(path, work / path.name)
    parts = sorted(work.glob("part-*.tar"))
    there, wanted = sum(p.stat().st_size for p in parts), (work / "parts.json").read_text()
    if there < json.loads(wanted)["bytes"]:
        _say(f"{there} of {json.loads(wanted)['bytes']} bytes have come")
        return
    whole = io.BytesIO(b"".join(path.read_bytes() for path in parts))
    with tarfile.open(fileobj=whole) as tar:
        tar.extractall(work, filter="data")
    for path in parts:
        path.unlink()
    unfold_teacher(work / "teacher")
    (work / "complete").touch()
    _say("all parts are unpacked")


def embed(work: Path, device: str) -> None:
    """The teacher's embeddings of all texts, for every run."""
    texts = read_lessons(work / "lessons").texts
    targets = Teacher(work / "teacher", device).embed(texts, batch_size=512)
    np.save(work / "targets.partial.npy", targets.astype(np.float16))
    (work / "targets.partial.npy").replace(work / "targets.npy")


def train(
    work: Path,
    out: Path,
    until: float,
    seed: int,
    messages: int,
    catalogs: int,
    device: str,
    *,
    rate: float | None = None,
    rank: int = DEFAULT.kept,
    whole: bool = True,
    rounded: bool = False,
    profiled: bool = False,
    memory: float = 1.0,
    dropout: float = 0.0,
    folder: str = ROWS,
) -> None:
    """One run that ends at the time ``until``; ``out`` gets what it has learned, meanwhile too.

    It keeps to the share ``memory`` of a GPU's: what is cached for other lengths goes first.
    """
    if device != "cpu":
        torch.cuda.set_per_process_memory_fraction(memory)
    groups: list[CartGroup] = []
    ended = threading.Event()
    threading.Thread(target=follow, args=(work / folder, groups, ended), daemon=True).start()
    lessons = read_lessons(work / "lessons")
    before = read_start(work / "start")
    tensors, table = read_base(work, device)
    while not (work / "targets.npy").is_file() or len(groups) < FIRST_GROUPS:
        time.sleep(0.5)
    targets = np.load(work / "targets.npy").astype(np.float32)
    tuning = replace(DEFAULT.tuning, seed=seed, batch_size=messages)
    variant = replace(
        DEFAULT,
        tuning=tuning,
        catalogs=catalogs,
        kept=rank,
        whole=whole,
        rounded=rounded,
        dropout=dropout,
    )
    if rate is not None:
        variant = replace(variant, whole_rate=rate, tuning=replace(tuning, learning_rate=rate))
    clock = _Clock(until)
    _say(f"{len(lessons.texts)} texts, {len(groups)} catalogs")

    def write(tuned: Tuned, carts: CartHeads | None) -> None:
        assert carts is not None
        _write_result(out, seed, tuned, carts)
        _say(f"kept after {clock.steps} steps")

    learned = learn(
        tensors,
        table,
        lessons,
        targets,
        groups,
        variant,
        before,
        device,
        _Profiled(clock) if profiled else clock,
        lambda what, done, _: _say(f"{what}: {done} steps, {len(groups)} catalogs"),
        write,
    )
    ended.set()
    write(*learned)


def _write_result(out: Path, seed: int, tuned: Tuned, carts: CartHeads) -> None:
    """What a run has come to, each file whole or not at all; the adapter in pieces of some MB."""
    partial = out.with_name(f"{out.name}.partial-{seed}")
    partial.mkdir(parents=True, exist_ok=True)
    names = sorted(tuned.adapter)
    pieces = -(-sum(a.size + b.size for a, b in tuned.adapter.values()) // _PIECE)
    for number in range(pieces):
        part = {name: tuned.adapter[name] for name in names[number::pieces]}
        write_adapter(partial / f"{seed}-{number}-{ADAPTER}", part, bits=8)
    ((rows, bias),) = tuned.heads
    head = {"rows": torch.from_numpy(rows), "bias": torch.from_numpy(bias)}
    save_file(head, partial / f"{seed}-{HEAD}")
    write_cart_heads(partial, carts)
    (partial / CART).replace(partial / f"{seed}-{CART}")
    out.mkdir(exist_ok=True)
    for path in sorted(partial.iterdir()):
        path.replace(out / path.name)


class _Clock:
    """Which share of the run is over, from its second step on: the first waits for compilers."""

    def __init__(self, until: float) -> None:
        """``until`` as :func:`time.time` has it."""
        self.steps = 0
        self._until = until
        self._began = 0.0

    def __call__(self, step: int) -> float:
        self.steps = step
        if step < 2:
            self._began = time.time()
        return (time.time() - self._began) / max(1e-3, self._until - self._began)


class _Profiled:
    """A clock; what takes the time of three steps is printed."""

    def __init__(self, clock: _Clock) -> None:
        self._clock = clock
        self._profile = torch.profiler.profile()

    def __call__(self, step: int) -> float:
        if step == _PROFILED:
            self._profile.start()
        elif step == _PROFILED + 3:
            self._profile.stop()
            found = self._profile.key_averages()
            for time_ in ("self_device_time_total", "self_cpu_time_total"):
                print(
                    found.table(sort_by=time_, row_limit=25, max_name_column_width=70), flush=True
                )
        return self._clock(step)


def take(fetched: Path, seed: int, run: Path) -> None:
    """One run's result as ``train-default`` leaves it."""
    adapter: Adapter = {}
    for piece in sorted(fetched.glob(f"{seed}-*-{ADAPTER}")):
        adapter |= read_adapter(piece)
    head = load_file(fetched / f"{seed}-{HEAD}")
    run.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(fetched / f"{seed}-{CART}", run / CART)
    write_tuned(run, Tuned(adapter, [(head["rows"].numpy(), head["bias"].numpy())]))


def main() -> None:
    """One of the commands above."""
    given = _arguments()
    match given.command:
        case "pack":
            pack(given.out, given.data, given.start, given.part_mb * 10**6)
        case "unpack":
            unpack(given.carried, given.work)
        case "embed":
            embed(given.work, given.device)
        case "rows":
            make_rows(
                given.work, given.workers, given.most, given.seed, given.folder, given.renamed
            )
        case "train":
            size = given.messages, given.catalogs
            train(
                given.work,
                given.out,
                given.until,
                given.seed,
                *size,
                given.device,
                rate=given.learning_rate,
                rank=given.rank,
                whole=not given.factors,
                rounded=given.rounded,
                profiled=given.profile,
                memory=given.memory,
                dropout=given.dropout,
                folder=given.folder,
            )
        case "take":
            take(given.fetched, given.seed, given.run)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    commands = parser.add_subparsers(dest="command", required=True)
    found = {}
    for name, *paths in (
        ("pack", "out"), ("unpack", "carried", "work"), ("rows", "work"), ("embed", "work"),
        ("train", "work", "out"), ("take", "fetched", "run"),
    ):  # fmt: skip
        found[name] = commands.add_parser(name)
        for path in paths:
            found[name].add_argument(path, type=Path)
    found["pack"].add_argument("--data", type=Path, required=True)
    found["pack"].add_argument("--part-mb", type=int, default=50)
    found["rows"].add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 1) - 4))
    found["rows"].add_argument("--most", type=int, default=200_000, help="Catalogs in all.")
    found["train"].add_argument("--until", type=float, required=True, help="Seconds since 1970.")
    found["train"].add_argument("--messages", type=int, default=384, help="In each step.")
    found["train"].add_argument("--catalogs", type=int, default=48, help="In each step.")
    found["train"].add_argument(
        "--profile", action="store_true", help="Three steps, to the screen."
    )
    found["train"].add_argument("--learning-rate", type=float, help="At its peak.")
    found["train"].add_argument("--rank", type=int, default=DEFAULT.kept, help="Of the result.")
    found["train"].add_argument("--factors", action="store_true", help="Tune an adapter alone.")
    found["train"].add_argument("--memory", type=float, default=1.0, help="Share of the GPU's.")
    found["train"].add_argument("--rounded", action="store_true", help="See training/rounding.py.")
    found["train"].add_argument("--dropout", type=float, default=0.0, help="In every layer.")
    found["rows"].add_argument(
        "--renamed",
        type=float,
        default=RENAMED_SHARE,
        help="Share with made-up names; rows with pieces that were not packed are left out.",
    )
    found["rows"].add_argument("--folder", default=ROWS, help="Where they go; one for each kind.")
    found["train"].add_argument("--folder", default=ROWS, help="The one whose rows are learned.")
    found["pack"].add_argument("--start", type=Path, default=Path("model_store/storefront/1"))
    for name in ("rows", "train", "take"):
        found[name].add_argument("--seed", type=int, default=1)
    for name in ("embed", "train"):
        found[name].add_argument("--device", default="cuda")
    return parser.parse_args()


if __name__ == "__main__":
    main()
