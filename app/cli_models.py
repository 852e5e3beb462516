"""``shopintent models``: what is in the store, whether it is whole, and which version is served."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from app.errors import ShopintentError
from app.terminal import read_settings, screen, told_plainly

if TYPE_CHECKING:
    from app.artifacts.store import Artifact, Store

models = typer.Typer(no_args_is_help=True, help="The models in the store.")

Json = Annotated[bool, typer.Option("--json", help="JSON on standard output; default in a pipe.")]
Name = Annotated[str, typer.Argument(help="A name in the store.")]

_output = Console()
_TAKEN_UP = (
    "A running service takes it up by itself where INTENT_WATCH_SECONDS is set, else after "
    "POST /v1/admin/models/{}/reload or a restart."
)


@models.command("list")
def list_models(as_json: Json = False) -> None:
    """Names and versions in the store; the active version of each is marked."""
    store = _store()
    with told_plainly():
        rows = [row for name in store.names() for row in _rows(store, name)]
    if as_json or not _output.is_terminal:
        print(json.dumps(rows))
        return
    table = Table("model", "version", "", "made", "languages", "intents", "accuracy", "weights")
    for row in rows:
        accuracy = row["accuracy"]
        table.add_row(
            row["name"],
            row["version"],
            "[green]active[/]" if row["active"] else "",
            str(row["created"] or "")[:10],
            ", ".join(row["languages"] or ()),
            str(row["intents"] or ""),
            f"{accuracy:.3f}" if accuracy is not None else "",
            f"[red]{escape(row['problem'])}[/]" if row["problem"] else row["weights"],
        )
    _output.print(table)


def _rows(store: Store, name: str) -> Iterator[dict[str, Any]]:
    from app.artifacts.manifest import read_manifest

    try:
        active, broken = store.active_version(name), None
    except ShopintentError as error:
        active, broken = None, str(error)
    for version in store.versions(name):
        row = {"name": name, "version": version, "active": version == active, "problem": broken}
        row |= dict.fromkeys(("created", "languages", "intents", "accuracy", "weights"))
        directory = store.root / name / version
        try:
            manifest = read_manifest(directory)
        except ShopintentError as error:
            row["problem"] = str(error)
        else:
            built = (directory / "weights" / "build.json").is_file()
            row |= {
                "created": manifest.created,
                "languages": manifest.languages,
                "intents": len(manifest.labels) - 1,
                "accuracy": manifest.evaluation.get("accuracy"),
                "weights": "none"
                if manifest.weights is None
                else "built"
                if built
                else "not built",
            }
        yield row


@models.command()
def verify(
    names: Annotated[list[str] | None, typer.Argument(help="By default all.")] = None,
    every: Annotated[
        bool, typer.Option("--all", help="All versions, not only the active ones.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Check signatures, every published file and the built weights; exit 1 if any fails."""
    from app.artifacts.checkpoints import has_checkpoint, verified_checkpoint

    store = _store()
    rows = []
    with told_plainly():
        chosen = names or store.names()
        wanted = [
            (name, version)
            for name in chosen
            for version in (store.versions(name) if every else (None,))
        ]
    for name, version in wanted:
        label = f"{name}/{version}" if version else name
        try:
            artifact = store.resolve(name, version)
            if artifact.manifest.weights is not None:
                artifact.weights_path()
            if has_checkpoint(artifact):
                verified_checkpoint(artifact)
        except ShopintentError as error:
            rows.append({"name": name, "version": version, "whole": False, "reason": str(error)})
            screen.print(f"[red]✗[/] {label}: {escape(str(error))}", soft_wrap=True)
        else:
            found = artifact.manifest.version
            rows.append({"name": name, "version": found, "whole": True, "reason": None})
            screen.print(f"[green]✓[/] {artifact.label}: {len(artifact.manifest.files)} files")
    if not wanted:
        screen.print(f"There are no models in {store.root}.")
    if as_json or not _output.is_terminal:
        print(json.dumps(rows))
    raise typer.Exit(0 if wanted and all(row["whole"] for row in rows) else 1)


@models.command()
def build(
    names: Annotated[list[str] | None, typer.Argument(help="By default INTENT_MODELS.")] = None,
    version: Annotated[str | None, typer.Option(help="By default the active one.")] = None,
) -> None:
    """Build the weights on this machine: fetch the pinned base, merge the adapter, quantise.

    Quick when they are there already.
    """
    settings = read_settings()
    store = _store()
    with told_plainly(), _bars() as bars:
        for name in names or settings.models:
            artifact = store.resolve(name, version)
            if artifact.manifest.weights is None:
                screen.print(f"{artifact.label}: nothing to build")
                continue
            from app.backends.gguf_weights import build_weights

            path = build_weights(artifact, bars)
            screen.print(
                f"[green]✓[/] {artifact.label}: {path.stat().st_size / 1e6:.0f} MB, verified"
            )


@models.command()
def activate(
    name: Name,
    version: Annotated[str, typer.Argument(help="A version, or `latest` for always the highest.")],
    as_json: Json = False,
) -> None:
    """Make a version the one to serve, once its files have been verified."""
    store = _store()
    with told_plainly(), _changed(store):
        if version == "latest":
            artifact = store.resolve(name, store.versions(name)[-1])
            store.follow_latest(name)
        else:
            artifact = store.activate(name, version)
    _tell(artifact, as_json)


@models.command()
def rollback(name: Name, as_json: Json = False) -> None:
    """Go back to the version that was to be served before, once its files have been verified."""
    store = _store()
    with told_plainly(), _changed(store):
        artifact = store.roll_back(name)
    _tell(artifact, as_json)


@models.command()
def sign(
    name: Name,
    version: Annotated[str | None, typer.Option(help="By default the active one.")] = None,
) -> None:
    """Sign a version with the key in INTENT_SIGNING_KEY_FILE, so that services with the key serve it."""
    from app.artifacts import signature
    from app.artifacts.store import Store

    settings = read_settings()
    if settings.signing_key_file is None:
        screen.print("[red]INTENT_SIGNING_KEY_FILE[/] names no key", soft_wrap=True)
        raise typer.Exit(2)
    store = Store(settings.store_dir)
    with told_plainly(), _changed(store):
        key = signature.read_signing_key(settings.signing_key_file)
        artifact = store.resolve(name, version)
        signature.sign(artifact.directory, key)
    screen.print(f"[green]✓[/] {artifact.label} is signed")


@contextmanager
def _changed(store: Store) -> Iterator[None]:
    """End with a sentence where the store lets nobody write: it may be mounted to be read only."""
    try:
        yield
    except OSError as error:
        screen.print(f"[red]{store.root} cannot be changed[/]: {error.strerror}", soft_wrap=True)
        raise typer.Exit(1) from None


def _tell(artifact: Artifact, as_json: bool) -> None:
    name, version = artifact.manifest.name, artifact.manifest.version
    screen.print(
        f"[green]✓[/] {artifact.label} is active. {_TAKEN_UP.format(name)}", soft_wrap=True
    )
    if as_json or not _output.is_terminal:
        print(json.dumps({"name": name, "version": version, "active": True}))


class _Bars:
    """Draws the progress of long steps: one bar a step."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, step: str, done: int, total: int) -> None:
        if step not in self._tasks:
            self._tasks[step] = self._progress.add_task(step, total=total or None)
            if not screen.is_terminal:
                screen.print(f"{step} ...")
        self._progress.update(self._tasks[step], completed=done, total=total or None)


@contextmanager
def _bars() -> Iterator[_Bars]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=screen, disable=not screen.is_terminal) as progress:
        yield _Bars(progress)


def _store() -> Store:
    from app.artifacts.store import Store

    settings = read_settings()
    with told_plainly():
        return Store.open(settings.store_dir, settings.signing_key_file)
