"""The second backbone: SmolLM2-135M, tuned on a part of the own training messages by `training fit`.

Small on purpose: upper layers only and few passes, so that a reader's machine has it in minutes. It is
there to see whether the formats rank alike on another model, not to win.
"""

from __future__ import annotations

import csv
import json
import random
import shutil
import sys
from pathlib import Path

from app.artifacts.store import Artifact, Store
from app.errors import ArtifactError, UnknownModel
from study.plan import SMALL
from study.weights import run_child

NAME = SMALL
BASE = "smollm2-135m"


def small_path(directory: Path, rows: int, epochs: float) -> Path:
    """Where the tuned version lies, once it is published."""
    return directory / f"{NAME}-{rows}-{epochs:g}" / NAME


def small_backbone(
    directory: Path, store: Path, rows: int, epochs: float, threads: int, log: Path
) -> Artifact:
    """The tuned version in ``directory``, made by a child unless it is there. ``store`` has a cache."""
    own = small_path(directory, rows, epochs).parent
    try:
        return Store(own).resolve(NAME)
    except (ArtifactError, UnknownModel):
        job = {
            "own": str(own.resolve()),
            "cache": str((store / ".cache").resolve()),
            "rows": rows,
            "epochs": epochs,
            "threads": threads,
        }
        run_child("study.backbone", job, log, threads)
        return Store(own).resolve(NAME)


def tune(own: Path, cache: Path, rows: int, epochs: float, threads: int) -> None:
    """Fit and publish into the store ``own``; ``rows`` training messages of each intent and language."""
    from dataclasses import replace

    from training import fit
    from training.examples import LANGUAGES
    from training.recipe import read_recipe
    from training.runs import Run
    from training.terminal import ProgressLine, console

    own.mkdir(parents=True, exist_ok=True)
    if not (own / ".cache").exists():
        (own / ".cache").symlink_to(cache)
    messages = own / "messages.csv"
    write_messages(messages, rows)
    recipe = read_recipe("smollm2-135m")
    recipe = replace(
        recipe,
        base=BASE,
        first_layer=None,
        quantisation="Q8_0",
        tuning=replace(recipe.tuning, epochs=epochs),
    )
    run = Run(own / "run")
    with ProgressLine(console) as progress:
        fit.prepare(
            run,
            train=messages,
            dev=None,
            tests=[],
            name=NAME,
            store=own,
            languages=LANGUAGES,
            recipe=recipe,
            progress=progress,
        )
        fit.fit(run, threads, progress)
    shutil.rmtree(run.directory)


def write_messages(path: Path, rows: int) -> None:
    """A CSV of training messages, so many of each intent and language, in the order of the seeds' draw."""
    from study.rows import SEED
    from training.storefront import training_seeds

    taken: dict[tuple[str, str], int] = {}
    shuffled = random.Random(SEED).sample(training_seeds(), len(training_seeds()))
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(("text", "intent"))
        for example in shuffled:
            group = (example.intent, example.language)
            taken[group] = taken.get(group, 0) + 1
            if taken[group] <= rows:
                writer.writerow((example.text, example.intent))


def main() -> None:
    job = json.loads(sys.stdin.readline())
    tune(Path(job["own"]), Path(job["cache"]), job["rows"], job["epochs"], job["threads"])


if __name__ == "__main__":
    main()
