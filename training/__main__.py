"""`python -m training COMMAND`: make, measure and publish what the service serves."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from app.cpu import cpu_budget
from app.errors import ShopintentError
from training import data_commands
from training.cart import commands as cart_commands
from training.examples import SEEDS, TAXONOMY
from training.terminal import ProgressLine

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
console = Console(stderr=True)

Store = Annotated[Path, typer.Option(help="The model store to publish into.")]
Data = Annotated[Path, typer.Option(help="Folder of the public data sets (see docs/training.md).")]
Threads = Annotated[int, typer.Option(help="Threads; 0 takes what this machine gives.")]
Device = Annotated[str, typer.Option(help="cpu, or cuda for a GPU.")]


@app.command("train-default")
def train_default(
    data: Data,
    store: Store = Path("model_store"),
    run: Annotated[
        Path | None, typer.Option(help="Keeps finished steps; by default one for each input.")
    ] = None,
    device: Device = "cpu",
    threads: Threads = 0,
) -> None:
    """Train, quantise, calibrate, evaluate and publish the default model."""
    _limit_threads(threads)
    from training import default
    from training.storefront import NAME, TUNING

    sources = [TAXONOMY, *sorted(SEEDS.glob("*/*.jsonl"))]
    run = run or run_directory(NAME, sources, f"{TUNING} {device}")
    with ProgressLine(console) as progress:
        artifact = default.train_default(data, store, run, device, _threads(threads), progress)
    console.print(f"published {artifact.label}: see {artifact.directory / 'report.md'}")


@app.command("fit")
def fit(
    train: Annotated[Path, typer.Option(help="CSV of the columns text,intent.")],
    name: Annotated[str, typer.Option(help="Name of the model in the store.")],
    dev: Annotated[Path | None, typer.Option(help="Held-out CSV, if the shop has one.")] = None,
    test: Annotated[list[Path] | None, typer.Option(help="CSV to report on, only.")] = None,
    base: Annotated[
        str, typer.Option(help="storefront, gemma-3-270m, a directory or a model id.")
    ] = "storefront",
    store: Store = Path("model_store"),
    languages: Annotated[str, typer.Option(help="Of the stock negatives, by comma.")] = "en",
    epochs: Annotated[float | None, typer.Option(help="Passes over the rows.")] = None,
    seed: Annotated[int, typer.Option(help="Same seed, same result.")] = 20,
    device: Device = "cpu",
    threads: Threads = 0,
) -> None:
    """From a shop's own CSV to a calibrated, evaluated version that can be served."""
    _limit_threads(threads)
    from training import fit as recipe

    # Inputs first: a bad file is told before the base is loaded.
    rows, _, _ = recipe.read_inputs(train, dev, test or [])
    for warning in rows.warnings:
        console.print(f"[yellow]note:[/] {warning}")
    tuning = recipe.with_overrides(device, seed, epochs)
    with ProgressLine(console) as progress:
        backbone = recipe.find_backbone(base, store, progress)
        artifact = recipe.fit(
            train,
            dev,
            name,
            backbone,
            store,
            run_directory(
                name,
                [train, *([dev] if dev else []), *sorted(SEEDS.glob("*/out_of_scope.*"))],
                f"{backbone.digest} {tuning} {languages}",
            ),
            tuning,
            tuple(language.strip() for language in languages.split(",")),
            _threads(threads),
            progress,
            test or [],
        )
    console.print(f"published {artifact.label}: see {artifact.directory / 'report.md'}")
    console.print(f"serve it: INTENT_MODELS={name} .venv/bin/shopintent serve")


app.command("stats")(data_commands.stats)
app.command("check-data")(data_commands.check_data)
app.command("synthesise")(data_commands.synthesise)
app.command("cart-data")(cart_commands.cart_data)
app.command("cart-stats")(cart_commands.cart_stats)


def _threads(asked: int) -> int:
    return asked or cpu_budget().model_threads


def _limit_threads(asked: int) -> None:
    """Before torch or llama.cpp load: they read these once. Passive waiting spares busy machines."""
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("OMP_NUM_THREADS", str(_threads(asked)))
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def run_directory(name: str, inputs: list[Path], settings: str) -> Path:
    """Finished steps are found again only for the same inputs and settings."""
    digest = hashlib.sha256(settings.encode())
    for path in inputs:
        digest.update(path.read_bytes())
    return Path("runs") / f"{name}-{digest.hexdigest()[:12]}"


def main() -> None:
    try:
        app()
    except ShopintentError as error:
        console.print(f"[red]error:[/] {error}", highlight=False)
        sys.exit(2)
    except SystemExit as stop:
        if stop.code == 130:  # typer makes it of Ctrl-C
            console.print("stopped; run the same command again to go on")
        raise


if __name__ == "__main__":
    main()
