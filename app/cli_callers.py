"""``shopintent keys`` and ``shopintent feedback``: who may call, and what callers have told."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from app.errors import ShopintentError

if TYPE_CHECKING:
    from app.feedback.store import FeedbackStore

keys = typer.Typer(no_args_is_help=True, help="The keys of callers.")
feedback = typer.Typer(no_args_is_help=True, help="What callers said was right.")

_screen = Console(stderr=True)


@keys.callback()
def _keys() -> None:
    """The keys of callers."""


@keys.command("new")
def new_key(
    name: Annotated[str, typer.Argument(help="Who will use it; logs and metrics show it.")],
    scopes: Annotated[
        str, typer.Option(help="Of classify, feedback, metrics, admin; with commas.")
    ] = "classify",
) -> None:
    """Make a key: the key itself, once, on standard error; its line for the key file on standard output.

    So `shopintent keys new web >> keys` files the line and shows the key.
    """
    from app.api import keys as api_keys

    try:
        secret, key = api_keys.new_key(name, api_keys.scopes_of(scopes))
    except api_keys.BadKeyList as error:
        _screen.print(f"[red]{escape(str(error))}[/]", soft_wrap=True)
        raise typer.Exit(2) from None
    _screen.print("The key. It is shown this once; only its hash is kept:\n", style="dim")
    _screen.print(f"  {secret}\n", style="bold", highlight=False, markup=False, soft_wrap=True)
    print(key.line)


@feedback.command("export")
def export_feedback(
    output: Annotated[
        Path | None, typer.Option(help="A new file; default standard output.")
    ] = None,
) -> None:
    """The kept messages and their right intents, as a CSV that `python -m training fit` takes."""
    from app.feedback.export import write_csv

    with _opened() as store:
        if output is None:
            written = write_csv(store.rows(), sys.stdout)
        else:
            with output.open("x", encoding="utf-8", newline="") as target:
                written = write_csv(store.rows(), target)
    _screen.print(f"[green]✓[/] {written} messages")


@feedback.command("delete")
def delete_feedback(
    decision_id: Annotated[str, typer.Argument(metavar="ID", help="The id of a decision.")],
) -> None:
    """Forget all that is kept about a decision; exit 1 if there is nothing."""
    with _opened() as store:
        known = store.delete(decision_id)
    _screen.print("[green]✓[/] deleted" if known else "Nothing is kept under that id.")
    raise typer.Exit(0 if known else 1)


@contextmanager
def _opened() -> Iterator[FeedbackStore]:
    from app.feedback.sqlite import SqliteFeedback
    from app.settings import Settings

    path = Settings().feedback_file
    if path is None or not path.exists():
        _screen.print("There is no feedback: INTENT_FEEDBACK_FILE names the file that keeps it.")
        raise typer.Exit(2)
    try:
        store = SqliteFeedback(path)
        yield store
        store.close()
    except (ShopintentError, OSError) as error:
        _screen.print(f"[red]{type(error).__name__}[/]: {escape(str(error))}", soft_wrap=True)
        raise typer.Exit(1) from None
