"""``shopintent serve | classify | models | bench``: for people on a terminal, and JSON for pipes.

Model libraries and numpy are imported inside the commands, after the environment that they read once
has been set.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from app.errors import ShopintentError

if TYPE_CHECKING:
    from app.artifacts.store import Store
    from app.domain import Prediction
    from app.settings import Settings

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Tells a storefront what its customer wants.",
)
models = typer.Typer(no_args_is_help=True, help="The models in the store.")
app.add_typer(models, name="models")

Json = Annotated[bool, typer.Option("--json", help="JSON on standard output.")]

_screen = Console(stderr=True)
_output = Console()

_HINTS = """
[bold green]Ready.[/] Try it at [bold]ADDRESS/[/] or in another terminal:

  curl -s ADDRESS/v1/classify -H 'Content-Type: application/json' \\
    -d '{"text": "my parcel was due tuesday and still nothing"}'

Reference: ADDRESS/docs   Stop: Ctrl-C
"""


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="INTENT_HOST; default 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(help="INTENT_PORT; default 8080.")] = None,
    hints: Annotated[
        bool | None,
        typer.Option("--hints/--no-hints", help="Say how to try it; default on a terminal."),
    ] = None,
) -> None:
    """Serve the models over HTTP until SIGTERM or Ctrl-C."""
    settings = _settings()
    _prepare_libraries()
    from app import logs
    from app.main import create_app
    from app.server import WHAT_TO_DO, DrainingServer
    from app.serving.lifecycle import Lifecycle

    logs.configure(settings.log_level, settings.log_format)
    lifecycle = Lifecycle()
    host = host or settings.host
    port = settings.port if port is None else port

    def say_how_to_try_it() -> None:
        if _screen.is_terminal if hints is None else hints:
            reachable = "127.0.0.1" if host in {"0.0.0.0", "::"} else host  # noqa: S104 - not bound
            _screen.print(_HINTS.replace("ADDRESS", f"http://{reachable}:{port}"), soft_wrap=True)

    server = DrainingServer(
        create_app(settings, lifecycle=lifecycle),
        lifecycle,
        host=host,
        port=port,
        drain_seconds=settings.drain_seconds,
        on_live=say_how_to_try_it,
    )
    status = server.serve_until_stopped()
    if lifecycle.failure and _screen.is_terminal:  # in a pipe the log has said it, line by line
        _screen.print(f"[red]No model could be loaded.[/] {lifecycle.failure}.", soft_wrap=True)
        _screen.print(f"{WHAT_TO_DO}.", soft_wrap=True)
    raise typer.Exit(status)


@app.command()
def classify(
    text: Annotated[
        list[str] | None, typer.Argument(help="Messages; without any, one a line from stdin.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="A name in the store.")] = None,
    top_k: Annotated[int, typer.Option(min=1, max=100)] = 3,
    as_json: Json = False,
) -> None:
    """Classify messages in this process, without a server.

    Lines of standard input are plain text or JSON objects with the field "text".
    """
    settings = _settings()
    _prepare_libraries()
    from app import logs
    from app.classification.loading import batches
    from app.main import model_loader

    logs.configure("warning", settings.log_format)
    plain = _output.is_terminal and not as_json
    with _told_plainly():
        classifier = model_loader(settings)(model or settings.models[0]).classifier
        try:
            messages = (classifier.prepare(line) for line in text or _lines())
            # One at a time for a person, who wants to see each at once.
            groups = (
                ([m] for m in messages) if plain else batches(messages, classifier.backend.info)
            )
            for batch in groups:
                for message, found in zip(batch, classifier.classify(batch), strict=True):
                    _show(message.text, found, top_k) if plain else _print_json(
                        message.text, found, top_k
                    )
        finally:
            classifier.close()


@models.command("list")
def list_models(as_json: Json = False) -> None:
    """Names and versions in the store; the active version of each is marked."""
    store = _store()
    rows = []
    with _told_plainly():
        for name in store.names():
            active = store.active_version(name)
            rows += [
                {"name": name, "version": version, "active": version == active}
                for version in store.versions(name)
            ]
    if as_json or not _output.is_terminal:
        print(json.dumps(rows))
        return
    table = Table("model", "version", "active")
    for row in rows:
        table.add_row(str(row["name"]), str(row["version"]), "yes" if row["active"] else "")
    _output.print(table)


@models.command()
def verify(
    names: Annotated[list[str] | None, typer.Argument(help="By default all.")] = None,
) -> None:
    """Check every published file and the built weights of the active versions; exit 1 if any fails."""
    store = _store()
    failed = False
    with _told_plainly():
        chosen = names or store.names()
    for name in chosen:
        try:
            artifact = store.resolve(name)
            if artifact.manifest.weights is not None:
                artifact.weights_path()
        except ShopintentError as error:
            failed = True
            _screen.print(f"[red]✗[/] {name}: {error}", soft_wrap=True)
        else:
            _screen.print(f"[green]✓[/] {artifact.label}: {len(artifact.manifest.files)} files")
    if not chosen:
        _screen.print(f"There are no models in {store.root}.")
    raise typer.Exit(1 if failed or not chosen else 0)


@models.command()
def build(
    names: Annotated[list[str] | None, typer.Argument(help="By default INTENT_MODELS.")] = None,
    version: Annotated[str | None, typer.Option(help="By default the active one.")] = None,
) -> None:
    """Build the weights on this machine: fetch the pinned base, merge the adapter, quantise.

    Quick when they are there already.
    """
    settings = _settings()
    store = _store()
    with _told_plainly(), _bars() as bars:
        for name in names or settings.models:
            artifact = store.resolve(name, version)
            if artifact.manifest.weights is None:
                _screen.print(f"{artifact.label}: nothing to build")
                continue
            from app.backends.gguf_weights import build_weights

            path = build_weights(artifact, bars)
            _screen.print(
                f"[green]✓[/] {artifact.label}: {path.stat().st_size / 1e6:.0f} MB, verified"
            )


@models.command()
def activate(name: str, version: str) -> None:
    """Make a version the one that is served after the next start."""
    with _told_plainly():
        artifact = _store().activate(name, version)
    _screen.print(f"[green]✓[/] {artifact.label} is active")


@app.command()
def bench(
    quick: Annotated[bool, typer.Option("--quick", help="Under 40 seconds, less sure.")] = False,
    full: Annotated[
        bool, typer.Option("--full", help="Minutes: more rounds, overload, cached answers.")
    ] = False,
    plot: Annotated[
        Path | None, typer.Option(help="A PNG of the latencies; needs matplotlib.")
    ] = None,
) -> None:
    """Measure the default model's service against the bare model; the last line is JSON."""
    if plot and not find_spec("matplotlib"):
        _screen.print("[red]--plot[/] needs matplotlib: pip install matplotlib")
        raise typer.Exit(2)
    settings = _settings()
    _prepare_libraries()
    from app import logs
    from app.bench import report
    from app.bench.measure import FULL, QUICK, USUAL, measure
    from app.cpu import cpu_budget

    logs.configure("error", settings.log_format)
    threads = settings.threads or cpu_budget().model_threads
    with _told_plainly():
        artifact = _store().resolve(settings.models[0])
        backend = settings.backend or artifact.manifest.format
        given = report.conditions(artifact, backend, threads)
        plan = FULL if full else QUICK if quick else USUAL
        with _screen.status("") as line:
            findings = measure(artifact, backend, threads, plan, line.update)
    _screen.print(report.tables(findings, given))
    if plot:
        report.plot(findings, given, plot)
        _screen.print(f"Plot: {plot}")
    print(json.dumps(report.as_json(findings, given)), flush=True)


class _Bars:
    """Draws the progress of long steps: one bar a step."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, step: str, done: int, total: int) -> None:
        if step not in self._tasks:
            self._tasks[step] = self._progress.add_task(step, total=total or None)
            if not _screen.is_terminal:
                _screen.print(f"{step} ...")
        self._progress.update(self._tasks[step], completed=done, total=total or None)


@contextmanager
def _bars() -> Iterator[_Bars]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=_screen, disable=not _screen.is_terminal) as progress:
        yield _Bars(progress)


@contextmanager
def _told_plainly() -> Iterator[None]:
    """End with a sentence instead of a traceback when something foreseen happens."""
    try:
        yield
    except ShopintentError as error:
        _screen.print(f"[red]{type(error).__name__}[/]: {error}", soft_wrap=True)
        raise typer.Exit(1) from None


def _settings() -> Settings:
    from app.settings import Settings

    try:
        return Settings()
    except ValidationError as error:
        for one in error.errors(include_url=False):
            name = "INTENT_" + "_".join(str(part) for part in one["loc"][:1]).upper()
            _screen.print(f"[red]{name}[/]: {one['msg']}")
        raise typer.Exit(2) from None


def _store() -> Store:
    from app.artifacts.store import Store

    return Store(_settings().store_dir)


def _prepare_libraries() -> None:
    """Set what OpenMP and BLAS read when they load.

    Passive waiting: two spinning teams on few cores turn milliseconds into seconds. One BLAS thread:
    the head is a small product, and a second pool would only take cores from the model.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # llama.cpp asks back some 700 times a batch whether a node is wanted, and each time needs the
    # interpreter. Python's 5 ms turns would let a busy event loop stretch a batch fourfold.
    sys.setswitchinterval(0.0002)


def _lines() -> Iterator[str]:
    for number, line in enumerate(sys.stdin, 1):
        if not line.strip():
            continue
        if not line.lstrip().startswith("{"):
            yield line
            continue
        try:
            yield str(json.loads(line)["text"])
        except (ValueError, KeyError):
            _screen.print(f"line {number} is not a JSON object with the field 'text'")
            raise typer.Exit(2) from None


def _print_json(text: str, found: Prediction, top_k: int) -> None:
    ranking = [{"intent": s.intent, "confidence": s.confidence} for s in found.ranking[:top_k]]
    row = {
        "text": text,
        "intent": found.intent,
        "confidence": found.confidence,
        "in_scope": found.in_scope,
        "ranking": ranking,
    }
    print(json.dumps(row, ensure_ascii=False), flush=True)


def _show(text: str, found: Prediction, top_k: int) -> None:
    colour = "green" if found.in_scope else "yellow"
    _output.print(text, style="dim", markup=False)
    _output.print(f"[bold {colour}]{found.intent}[/]  {found.confidence:.2f}")
    for score in found.ranking[:top_k]:
        bar = "█" * round(score.confidence * 30)
        _output.print(f"  {score.confidence:5.2f} {score.intent:<28} [{colour}]{bar}[/]")
