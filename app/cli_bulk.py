"""``shopintent label``: stored messages, by the million."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from app.terminal import prepare_libraries, read_settings, screen, told_plainly


def label(
    messages: Annotated[
        Path, typer.Argument(metavar="IN", help="Parquet, or one JSON object a line.")
    ],
    out: Annotated[Path, typer.Option(help="The Parquet file to write.")],
    model: Annotated[str | None, typer.Option(help="A name in the store.")] = None,
    text: Annotated[str, typer.Option(help="The column that holds the message.")] = "text",
    keep: Annotated[
        list[str] | None, typer.Option(help="A column to copy into the output; repeat it for more.")
    ] = None,
    top_k: Annotated[int, typer.Option(min=1, max=100)] = 3,
    part_rows: Annotated[
        int, typer.Option(min=1, help="Rows between two saves: what a kill costs at most.")
    ] = 2000,
    on_ray: Annotated[bool, typer.Option("--ray", help="Many workers, through Ray Data.")] = False,
    ray_address: Annotated[
        str | None, typer.Option(help="A running cluster; by default one on this machine.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="With --ray; by default all CPUs by INTENT_THREADS.")
    ] = None,
) -> None:
    """Label stored messages by the million; killed, the same command goes on where it was."""
    if not find_spec("pyarrow"):
        screen.print("[red]label[/] needs pyarrow: install the extra `bulk`")
        raise typer.Exit(2)
    prepare_libraries()
    settings = read_settings()
    from app import logs
    from app.bulk.job import Job, run_here
    from app.bulk.labelling import ModelChoice
    from app.bulk.on_ray import RayRunner
    from app.bulk.screen import run_watched
    from app.bulk.source import Columns
    from app.main import backend_options, open_store

    logs.configure("warning", settings.log_format)
    settings = settings.model_copy(update={"store_dir": settings.store_dir.absolute()})
    name = model or settings.models[0]
    with told_plainly():
        store = open_store(settings)
        job = Job(
            input=messages.absolute(),
            output=out.absolute(),
            columns=Columns(text, tuple(keep or ())),
            model=ModelChoice(
                store=store,
                name=name,
                version=store.active_version(name),
                backend=settings.backend,
                options=backend_options(settings),
            ),
            top_k=top_k,
            part_rows=part_rows,
            max_text_chars=settings.max_text_chars,
        )
        run_watched(job, RayRunner(workers, ray_address) if on_ray else run_here, screen)
