"""`python -m study`: measure what is not measured yet, then write figures, tables and plots."""

from __future__ import annotations

import sys
from pathlib import Path
from time import monotonic
from typing import Annotated

import typer
from rich.console import Console

from app.errors import ShopintentError
from study.plan import QUICK, Sizes, trials

_screen = Console(stderr=True, highlight=False)


def study(
    directory: Annotated[Path, typer.Option(help="Keeps weights, rows and results.")] = Path(
        "runs/study"
    ),
    out: Annotated[
        Path | None,
        typer.Option(help="Where the page goes: docs, or with --quick the first directory."),
    ] = None,
    store: Annotated[Path, typer.Option(help="The model store.")] = Path("model_store"),
    name: Annotated[str, typer.Option(help="The model; its live version is measured.")] = (
        "storefront"
    ),
    only: Annotated[
        list[str] | None,
        typer.Option(help="Trials by name or part of it: 'default/Q4_0/*', json, smollm2 ..."),
    ] = None,
    messages: Annotated[int | None, typer.Option(help="Own test messages.")] = None,
    carts: Annotated[int | None, typer.Option(help="Cart rows for the pointers.")] = None,
    generated: Annotated[int | None, typer.Option(help="Of them, in JSON by llama.cpp.")] = None,
    generated_torch: Annotated[int | None, typer.Option(help="Of them, in JSON by torch.")] = None,
    gpu: Annotated[
        Path | None, typer.Option(help="Results of tools/gpu_run.py, for the tables of a GPU.")
    ] = None,
    threads: Annotated[int, typer.Option(help="Of every configuration.")] = 2,
    quick: Annotated[bool, typer.Option("--quick", help="Tiny sizes: does it all run?")] = False,
    list_: Annotated[bool, typer.Option("--list", help="Name the trials and end.")] = False,
    report_only: Annotated[
        bool, typer.Option("--report-only", help="Measure nothing: write what there is.")
    ] = False,
) -> None:
    """What format, quantisation and decoding cost and gain on this machine. Stopped, it goes on later."""
    if list_:
        for trial in trials(only or ()):
            typer.echo(trial.name)
        return
    from dataclasses import replace

    from study.accelerator import take_gpu
    from study.figures import collect
    from study.run import Study
    from study.write import write_study

    given = {
        "messages": messages,
        "carts": carts,
        "generated": generated,
        "generated_torch": generated_torch,
    }
    sizes = replace(QUICK if quick else Sizes(), **{k: v for k, v in given.items() if v})
    started = monotonic()
    if gpu is not None:
        take_gpu(gpu, directory)
    made = Study(directory, store, name, sizes, threads, _screen.print)
    failed = [] if report_only else made.run(only or ())
    written = write_study(collect(made), out or (directory if quick else Path("docs")))
    _screen.print(f"{written} after {monotonic() - started:.0f} s")
    if failed:
        _screen.print(f"failed, see {made.log}: {', '.join(failed)}")
        sys.exit(1)


def main() -> None:
    try:
        typer.run(study)
    except ShopintentError as error:
        _screen.print(f"[red]error:[/] {error}")
        sys.exit(2)


if __name__ == "__main__":
    main()
