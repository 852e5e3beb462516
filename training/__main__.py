"""`python -m training COMMAND`: make, measure and publish what the service serves."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.markup import escape

from app.artifacts.manifest import MANIFEST, sha256_of
from app.errors import InputError, ShopintentError
from training import data_commands, run_commands
from training.cart import commands as cart_commands
from training.examples import SEEDS, TAXONOMY
from training.run_commands import Device, Quantisation, Store, Threads
from training.terminal import ProgressLine, console, limit_threads, model_threads

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

Data = Annotated[Path, typer.Option(help="Folder of the public data sets (see docs/training.md).")]


def _version(told: str) -> Any:
    return typer.Option(help=told, exists=True, file_okay=False)


@app.command("train-default")
def train_default(
    data: Data,
    store: Store = Path("model_store"),
    run: Annotated[
        Path | None, typer.Option(help="Keeps finished steps; by default one for each input.")
    ] = None,
    device: Device = "cpu",
    threads: Threads = 0,
    variant: Annotated[
        Literal["storefront", "storefront-fast"],
        typer.Option(
            help="storefront-fast: a third of the layers, no carts (docs/decisions/0023)."
        ),
    ] = "storefront",
    start: Annotated[
        Path | None,
        _version("Directory of a published version to go on from (docs/decisions/0025)."),
    ] = None,
    ngrams_of: Annotated[
        Path | None,
        _version(
            "Directory of a published version whose n-grams are kept, where only carts change."
        ),
    ] = None,
) -> None:
    """Train, quantise, calibrate, evaluate and publish the default model, or its fast variant."""
    limit_threads(threads)
    from training import default
    from training.shops import SHOPS
    from training.storefront import VARIANTS

    sources = [TAXONOMY, *sorted(SEEDS.glob("*/*.jsonl")), *sorted(SHOPS.glob("*/*.jsonl"))]
    chosen = VARIANTS[variant]
    begun = sha256_of(start / MANIFEST) if start is not None else ""
    run = run or run_commands.run_directory(variant, sources, f"{chosen} {device} {begun}")
    with ProgressLine(console) as progress:
        artifact = default.train_default(
            data,
            store,
            run,
            device,
            model_threads(threads),
            progress,
            chosen,
            start,
            ngrams_of,
        )
    console.print(f"published {artifact.label}: see {artifact.directory / 'report.md'}")


@app.command("quantise")
def quantise(
    run: Annotated[
        Path | None, typer.Option(help="A run; for gptq it must have been published.")
    ] = None,
    name: Annotated[str, typer.Option(help="Or a model in the store.")] = "storefront",
    version: Annotated[str | None, typer.Option(help="By default the active one.")] = None,
    format_: Annotated[
        Literal["gguf", "gptq"],
        typer.Option("--format", help="gguf: the weights for CPUs; gptq: those for GPUs."),
    ] = "gguf",
    quantisation: Quantisation = None,
    store: Store = Path("model_store"),
    calibration: Annotated[
        Path | None, typer.Option(help="CSV to calibrate on; by default our training messages.")
    ] = None,
    dev: Annotated[
        Path | None, typer.Option(help="CSV to measure on; by default our dev messages.")
    ] = None,
    bits: Annotated[
        int, typer.Option(help="8 keeps the answers, 4 saves memory (docs/gpu.md).")
    ] = 8,
    group_size: Annotated[int | None, typer.Option(help="Columns that share a scale.")] = None,
    desc_act: Annotated[bool, typer.Option(help="The most active columns first.")] = False,
    plain: Annotated[
        str, typer.Option(help="Kinds of matrices that keep 16 bits, by comma: v_proj,down_proj.")
    ] = "",
    messages: Annotated[int, typer.Option(help="Training messages to calibrate on.")] = 1024,
    repacked: Annotated[
        bool, typer.Option("--repacked", help="gptq: the GGUF weights' own numbers, uncalibrated.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="gptq: leave it there, and what is served as it is.")
    ] = None,
    threads: Threads = 0,
) -> None:
    """Build the weights that are served: a run's own (gguf), or a published model's.

    For GPUs (gptq) it is also measured what that costs against the 16-bit weights.
    """
    limit_threads(threads)
    if run is not None and format_ == "gguf":
        run_commands.quantise_run(run, quantisation, threads)
        return
    if run is not None:
        name, version, store = run_commands.published_by(run)
    if format_ == "gguf":
        if quantisation is not None:
            raise InputError("what is published keeps its quantisation: give --run to change it")
        run_commands.build_published(store, name, version)
        return
    from app.artifacts.store import Store as ModelStore
    from training import quantise as recipe
    from training.gptq import GptqConfig

    config = GptqConfig(
        bits=bits,
        group_size=group_size,
        desc_act=desc_act,
        plain=tuple(kind for kind in plain.split(",") if kind),
        messages=messages,
        repacked=repacked,
    )
    with ProgressLine(console) as progress:
        artifact = ModelStore(store).resolve(name, version)
        found = recipe.quantise_artifact(
            artifact,
            *recipe.read_messages(calibration, dev),
            config,
            model_threads(threads),
            out,
            progress,
        )
    console.print(
        f"{artifact.label}: {found.agreement:.2%} of {found.messages} decisions as with 16 bits; "
        f"in-scope accuracy {found.accuracy:.4f}, with 16 bits {found.merged_accuracy:.4f}"
    )
    if out is None:
        serve = f"INTENT_BACKEND=gptq INTENT_MODELS={name} .venv/bin/shopintent serve"
        console.print(f"serve it: {serve}")


app.command("fit")(run_commands.fit)
app.command("prepare")(run_commands.prepare)
app.command("tune")(run_commands.tune)
app.command("merge")(run_commands.merge)
app.command("calibrate")(run_commands.calibrate)
app.command("evaluate")(run_commands.evaluate)
app.command("publish")(run_commands.publish)
app.command("base")(run_commands.base)
app.command("average")(run_commands.average)
app.command("adapter-cost")(run_commands.adapter_cost)
app.command("stats")(data_commands.stats)
app.command("check-data")(data_commands.check_data)
app.command("synthesise")(data_commands.synthesise)
app.command("vocabulary")(data_commands.vocabulary)
app.command("cart-data")(cart_commands.cart_data)
app.command("cart-stats")(cart_commands.cart_stats)


def main() -> None:
    try:
        app()
    except ShopintentError as error:
        # It quotes what a file holds, and brackets in that are no markup.
        console.print(f"[red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(2)
    except OSError as error:
        if error.filename is None:
            raise
        told = escape(f"{error.filename}: {error.strerror}")
        console.print(f"[red]error:[/] {told}", highlight=False, soft_wrap=True)
        sys.exit(2)
    except SystemExit as stop:
        if stop.code == 130:  # typer makes it of Ctrl-C
            console.print("stopped; run the same command again to go on")
        raise


if __name__ == "__main__":
    main()
