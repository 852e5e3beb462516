"""``fit`` and its steps one by one, over a run directory that keeps what each has made."""

from __future__ import annotations

import hashlib
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.markup import escape

from app.errors import InputError
from training.examples import SEEDS
from training.terminal import ProgressLine, console, limit_threads, model_threads

if TYPE_CHECKING:
    from app.artifacts.store import Artifact
    from training.recipe import Recipe
    from training.runs import Run

_STORE = Path("model_store")
Store = Annotated[Path, typer.Option(help="The model store to publish into.")]
Threads = Annotated[int, typer.Option(help="Threads; 0 takes what this machine gives.")]
Device = Annotated[str, typer.Option(help="cpu, or cuda for a GPU.")]
RunOption = Annotated[Path, typer.Option("--run", help="The run's directory.")]
Train = Annotated[Path, typer.Option(help="CSV of the columns text,intent.")]
Name = Annotated[str, typer.Option(help="Name of the model in the store.")]
Dev = Annotated[Path | None, typer.Option(help="Held-out CSV, if the shop has one.")]
Test = Annotated[list[Path] | None, typer.Option(help="CSV to report on, only.")]
Base = Annotated[
    str | None,
    typer.Option(
        help="storefront (default), gemma-3-270m, smollm2-135m, a directory, a GGUF file or the id of "
        "a model on the Hugging Face hub."
    ),
]
RecipeName = Annotated[
    str | None, typer.Option("--recipe", help="TOML file of knobs, or a name in training/recipes.")
]
Languages = Annotated[str, typer.Option(help="Of the stock negatives, by comma.")]
Epochs = Annotated[float | None, typer.Option(min=0, help="Passes over the rows.")]
Seed = Annotated[int | None, typer.Option(help="Same seed, same result; 20 by default.")]
Precision = Annotated[
    Literal["auto", "bf16", "nf4"] | None,
    typer.Option(help="Of the frozen weights while tuning; auto is nf4 (QLoRA) on a GPU."),
]
TuneOption = Annotated[
    Literal["auto", "always", "never"] | None,
    typer.Option(
        "--tune",
        help="Whether the shop gets an adapter of its own (minutes) or only a head (seconds); "
        "auto: an adapter from 40 messages an intent on.",
    ),
]
Quantisation = Annotated[
    str | None, typer.Option(help="Of the served weights: 'IQ4_NL attn_v=Q8_0', Q8_0, F16 ...")
]


def fit(
    train: Train,
    name: Name,
    dev: Dev = None,
    test: Test = None,
    base: Base = None,
    recipe: RecipeName = None,
    store: Store = _STORE,
    languages: Languages = "en",
    epochs: Epochs = None,
    seed: Seed = None,
    precision: Precision = None,
    tune: TuneOption = None,
    quantisation: Quantisation = None,
    run: Annotated[
        Path | None, typer.Option(help="Keeps finished steps; by default one for each input.")
    ] = None,
    device: Device = "cpu",
    threads: Threads = 0,
) -> None:
    """From a shop's own CSV to a calibrated, evaluated version that can be served.

    The same as prepare, tune, merge, quantise, calibrate, evaluate and publish, one after another.
    """
    limit_threads(threads)
    from training import fit as steps
    from training.runs import Run

    # Inputs first: a bad file is told before the base is loaded.
    steps.read_inputs(train, dev, test or [])
    chosen = _recipe(recipe, base, epochs, seed, precision, tune, quantisation, device)
    inputs = [
        train,
        *([dev] if dev else []),
        *(test or []),
        *sorted(SEEDS.glob("*/out_of_scope.*")),
    ]
    made = Run(run or run_directory(name, inputs, f"{chosen} {languages} {store.resolve()}"))
    _prepare(made, train, dev, test or [], name, store, languages, chosen)
    with ProgressLine(console) as progress:
        artifact = steps.fit(made, model_threads(threads), progress)
    _say_published(artifact)


def prepare(
    run: RunOption,
    train: Train,
    name: Name,
    dev: Dev = None,
    test: Test = None,
    base: Base = None,
    recipe: RecipeName = None,
    store: Store = _STORE,
    languages: Languages = "en",
    epochs: Epochs = None,
    seed: Seed = None,
    precision: Precision = None,
    tune: TuneOption = None,
    quantisation: Quantisation = None,
    device: Device = "cpu",
) -> None:
    """Check rows and base, and lay out a run."""
    limit_threads(0)
    from training.runs import Run

    chosen = _recipe(recipe, base, epochs, seed, precision, tune, quantisation, device)
    _prepare(Run(run), train, dev, test or [], name, store, languages, chosen)
    console.print(f"prepared {run}: next `python -m training tune --run {run}`", highlight=False)


def tune(run: RunOption, threads: Threads = 0) -> None:
    """Tune the rehearsal's adapter and the version's own (LoRA, or QLoRA on a GPU)."""
    limit_threads(threads)
    from training import fit as steps
    from training.runs import Run

    with ProgressLine(console) as progress:
        steps.tune(Run(run), progress)
    _say_done(run, "rehearse", "tune")


def merge(run: RunOption, threads: Threads = 0) -> None:
    """Base and adapters as one bfloat16 model, in RUN/merged."""
    limit_threads(threads)
    from training import fit as steps
    from training.runs import Run

    with ProgressLine(console) as progress:
        steps.merge(Run(run), progress)
    _say_done(run, "merge")


def calibrate(run: RunOption, threads: Threads = 0) -> None:
    """Fit fusion, scope gate and threshold on what the rehearsal has not seen."""
    limit_threads(threads)
    from training import fit as steps
    from training.runs import Run

    with ProgressLine(console) as progress:
        steps.calibrate(Run(run), progress)
    _say_done(run, "calibrate")


def evaluate(run: RunOption, threads: Threads = 0) -> None:
    """Measure the built weights on the test sets, and against the merged ones."""
    limit_threads(threads)
    from training import fit as steps
    from training.runs import Run

    with ProgressLine(console) as progress:
        steps.evaluate(Run(run), model_threads(threads), progress)
    _say_done(run, "evaluate")


def publish(run: RunOption, threads: Threads = 0) -> None:
    """Put the measured version into the store, with its report."""
    limit_threads(threads)
    from training import fit as steps
    from training.runs import Run

    with ProgressLine(console) as progress:
        artifact = steps.publish(Run(run), model_threads(threads), progress)
    _say_published(artifact)


def quantise_run(run: Path, quantisation: str | None, threads: int) -> None:
    """The part of the command ``quantise`` that builds a run's GGUF weights."""
    from training import fit as steps
    from training.runs import Run

    with ProgressLine(console) as progress:
        steps.quantise(Run(run), model_threads(threads), progress, quantisation)
    _say_done(run, "quantise")


def published_by(run: Path) -> tuple[str, str, Path]:
    """Name, version and store of what a run has published. Raises :class:`app.errors.InputError`."""
    from training.run_files import published, read_spec
    from training.runs import Run

    manifest = published(Run(run)).manifest
    return manifest.name, manifest.version, Path(read_spec(Run(run)).store)


def build_published(store: Path, name: str, version: str | None) -> None:
    """The GGUF weights of a published model, as `shopintent models build` makes them."""
    from app.artifacts.store import Store as ModelStore
    from app.backends.gguf_weights import build_weights

    with ProgressLine(console) as progress:
        path = build_weights(ModelStore(store).resolve(name, version), progress)
    console.print(f"built {path}", highlight=False, soft_wrap=True)


def base(
    name: Annotated[
        str, typer.Argument(help="A directory, a GGUF file or owner/model[@revision].")
    ],
    store: Store = _STORE,
) -> None:
    """Put a base that no package index has into the store, as a GGUF file."""
    limit_threads(0)
    from app.artifacts.manifest import BaseFile
    from training.base_sources import find_base

    with ProgressLine(console) as progress:
        found = find_base(name, store, progress)
    origin = found.origin
    where = (
        f"{store / origin.path} (sha256 {origin.sha256})" if isinstance(origin, BaseFile) else name
    )
    console.print(f"base: {where}", highlight=False, soft_wrap=True)


def adapter_cost(
    name: Annotated[str, typer.Option(help="A model in the store.")] = "storefront",
    store: Store = _STORE,
    rounds: Annotated[int, typer.Option(min=1, help="Alternating measurements of each.")] = 20,
    threads: Threads = 1,
) -> None:
    """Measure what adapters cost when llama.cpp adds them at run time (docs/decisions/0013)."""
    limit_threads(threads)
    from app.artifacts.store import Store as ModelStore
    from training.adapter_cost import measure_shapes

    console.print("ms: least and median wall time, least CPU time", highlight=False)
    weights = ModelStore(store).resolve(name).weights_path()
    for shape, found in measure_shapes(weights, model_threads(threads), rounds).items():
        print(
            f"{shape:<24} single {found.single_least:7.1f} {found.single_median:7.1f} "
            f"{found.single_cpu:7.1f}   batch {found.batch_least:7.1f} {found.batch_median:7.1f} "
            f"{found.batch_cpu:7.1f}"
        )


def average(
    results: Annotated[
        list[str], typer.Argument(help="DIR=WEIGHT of each tuned run, twice or more.")
    ],
    out: Annotated[Path, typer.Option(help="Directory for the result.")],
    rank: Annotated[int, typer.Option(min=1, help="Of the resulting adapter.")] = 80,
    importance: Annotated[
        Path | None, typer.Option(help="importance.safetensors of a version: tells what to cut.")
    ] = None,
) -> None:
    """Average runs of `train-default` into one that generalises better (docs/decisions/0015)."""
    from app.backends.gguf_importance import read_importance
    from training.averaging import average as averaged
    from training.averaging import average_carts
    from training.tuned_files import read_cart_heads, read_tuned, write_cart_heads, write_tuned

    parts, carts = [], []
    for result in results:
        directory, _, weight = result.rpartition("=")
        try:
            share = float(weight)
        except ValueError:
            raise InputError(f"{result}: write DIR=WEIGHT, such as runs/a=0.5") from None
        tuned = read_tuned(Path(directory))
        if tuned is None:
            raise InputError(f"{directory}: no result of a finished run is there")
        parts.append((share, tuned))
        heads = read_cart_heads(Path(directory))
        carts += [] if heads is None else [(share, heads)]
    squared = None if importance is None else read_importance(importance)
    if len(carts) == len(parts):
        write_cart_heads(out, average_carts(carts))
    write_tuned(out, averaged(parts, rank, squared))
    console.print(f"{out}: the average of {len(parts)} runs", highlight=False)


def run_directory(name: str, inputs: list[Path], settings: str) -> Path:
    """Finished steps are found again only for the same inputs and settings."""
    digest = hashlib.sha256(settings.encode())
    for path in inputs:
        digest.update(path.read_bytes())
    return Path("runs") / f"{name}-{digest.hexdigest()[:12]}"


def _recipe(
    name: str | None,
    base: str | None,
    epochs: float | None,
    seed: int | None,
    precision: Literal["auto", "bf16", "nf4"] | None,
    tune: Literal["auto", "always", "never"] | None,
    quantisation: str | None,
    device: str,
) -> Recipe:
    """A recipe's knobs with what the command line changes."""
    from training.recipe import read_recipe, recipe_of

    recipe = read_recipe(name).as_dict()
    over = {"base": base, "precision": precision, "tune": tune, "quantisation": quantisation}
    recipe |= {knob: value for knob, value in over.items() if value is not None}
    tuning = {"epochs": epochs, "seed": seed, "device": device}
    recipe["tuning"] |= {knob: value for knob, value in tuning.items() if value is not None}
    _require_device(device)
    return recipe_of(recipe, "command line")


def _require_device(device: str) -> None:
    """Told before a run is laid out: torch would say so in a traceback, at the first long step."""
    if device == "cpu":
        return
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # the latter where torch has no CUDA
        raise InputError(f"the device {device!r} cannot be used here: give cpu, or cuda") from error


def _prepare(
    run: Run,
    train: Path,
    dev: Path | None,
    tests: list[Path],
    name: str,
    store: Path,
    languages: str,
    recipe: Recipe,
) -> None:
    from training import fit as steps

    with ProgressLine(console) as progress:
        warnings = steps.prepare(
            run,
            train=train,
            dev=dev,
            tests=tests,
            name=name,
            store=store,
            languages=tuple(language.strip() for language in languages.split(",")),
            recipe=recipe,
            progress=progress,
        )
    for warning in warnings:
        console.print(f"[yellow]note:[/] {escape(warning)}")


def _say_done(directory: Path, *steps: str) -> None:
    from training.runs import Run

    for step in steps:
        found = Run(directory).require(step)
        console.print(
            f"{step}: done in {found.seconds:.0f} s, {found.peak_mb:.0f} MB", highlight=False
        )


def _say_published(artifact: Artifact) -> None:
    name = artifact.manifest.name
    console.print(f"published {artifact.label}: see {artifact.directory / 'report.md'}")
    store = artifact.directory.parents[1]
    elsewhere = (
        "" if store.resolve() == _STORE.resolve() else f"INTENT_STORE_DIR={quote(str(store))} "
    )
    serve = f"serve it: {elsewhere}INTENT_MODELS={name} .venv/bin/shopintent serve"
    console.print(serve, markup=False, soft_wrap=True)
