"""``shopintent serve | classify | label | models | bench``: for people on a terminal, and JSON for pipes.

Model libraries and numpy are imported inside the commands, after the environment that they read once
has been set.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from app import cli_bulk as bulk
from app import cli_callers as callers
from app.cli_models import models
from app.errors import InputError
from app.terminal import prepare_libraries, read_settings, screen, told_plainly

if TYPE_CHECKING:
    from app.artifacts.store import Store
    from app.classification.classifier import Classifier, Message
    from app.domain import Prediction

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Tells a storefront what its customer wants.",
)
app.add_typer(models, name="models")
app.command()(bulk.label)
app.add_typer(callers.keys, name="keys")
app.add_typer(callers.feedback, name="feedback")

Json = Annotated[bool, typer.Option("--json", help="JSON on standard output.")]

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
    prepare_libraries()
    chosen = {"host": host, "port": port}
    settings = read_settings().model_copy(update={k: v for k, v in chosen.items() if v is not None})
    from app import logs
    from app.api.auth import UnsafeExposure
    from app.main import create_app
    from app.server import WHAT_TO_DO, DrainingServer
    from app.serving.lifecycle import Lifecycle
    from app.tracing import TracingUnavailable

    logs.configure(settings.log_level, settings.log_format)
    lifecycle = Lifecycle()

    def say_how_to_try_it() -> None:
        if screen.is_terminal if hints is None else hints:
            everywhere = settings.host in {"0.0.0.0", "::"}  # noqa: S104 - compared, not bound
            reachable = "127.0.0.1" if everywhere else settings.host
            address = f"http://{reachable}:{settings.port}"
            screen.print(_HINTS.replace("ADDRESS", address), soft_wrap=True)

    try:
        with told_plainly():
            application = create_app(settings, lifecycle=lifecycle)
    except (UnsafeExposure, TracingUnavailable) as error:
        screen.print(f"[red]Not started[/]: {error}.", soft_wrap=True)
        raise typer.Exit(2) from None
    server = DrainingServer(
        application,
        lifecycle,
        host=settings.host,
        port=settings.port,
        drain_seconds=settings.drain_seconds,
        read_seconds=settings.read_seconds,
        trusted_proxies=settings.trusted_proxies,
        on_live=say_how_to_try_it,
    )
    status = server.serve_until_stopped()
    if lifecycle.failure and screen.is_terminal:  # in a pipe the log has said it, line by line
        screen.print(f"[red]No model could be loaded.[/] {lifecycle.failure}.", soft_wrap=True)
        screen.print(f"{WHAT_TO_DO}.", soft_wrap=True)
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
    prepare_libraries()
    settings = read_settings()
    from app import logs
    from app.classification.loading import batches
    from app.main import model_loader

    logs.configure("warning", settings.log_format)
    plain = _output.is_terminal and not as_json
    with told_plainly():
        classifier = model_loader(settings)(model or settings.models[0]).classifier
        try:
            messages = (_prepared(classifier, *one) for one in _given(text))
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
        screen.print("[red]--plot[/] needs matplotlib: pip install matplotlib")
        raise typer.Exit(2)
    prepare_libraries()
    settings = read_settings()
    from app import logs
    from app.bench import report
    from app.bench.measure import FULL, QUICK, USUAL, measure
    from app.cpu import cpu_budget

    logs.configure("error", settings.log_format)
    threads = settings.threads or cpu_budget().model_threads
    with told_plainly():
        artifact = _store().resolve(settings.models[0])
        backend = settings.backend or artifact.manifest.format
        given = report.conditions(artifact, backend, threads)
        plan = FULL if full else QUICK if quick else USUAL
        with screen.status("") as line:
            findings = measure(artifact, backend, threads, plan, line.update)
    screen.print(report.tables(findings, given))
    if plot:
        report.plot(findings, given, plot)
        screen.print(f"Plot: {plot}")
    print(json.dumps(report.as_json(findings, given)), flush=True)


def _store() -> Store:
    from app.artifacts.store import Store

    settings = read_settings()
    with told_plainly():
        return Store.open(settings.store_dir, settings.signing_key_file)


def _given(texts: list[str] | None) -> Iterator[tuple[str, str]]:
    """Messages, each with the place where it stands."""
    if texts:
        for number, text in enumerate(texts, 1):
            yield f"message {number}", text
        return
    for number, raw in enumerate(sys.stdin.buffer, 1):
        try:
            line = raw.decode().removeprefix("\ufeff")  # some editors begin a file with it
        except UnicodeDecodeError:
            # Python's own reading would drop the letters, or end in a traceback, as the locale has it.
            screen.print(f"line {number} is not UTF-8: save the file as UTF-8 and try again")
            raise typer.Exit(2) from None
        if line.strip():
            yield f"line {number}", _text_of(number, line)


def _text_of(number: int, line: str) -> str:
    text: object = line
    if line.lstrip().startswith("{"):
        try:
            text = json.loads(line)["text"]
        except (ValueError, KeyError, RecursionError):
            text = None
    if not isinstance(text, str):
        screen.print(f"line {number} is not a JSON object with a string in the field 'text'")
        raise typer.Exit(2)
    return text


def _prepared(classifier: Classifier, place: str, text: str) -> Message:
    try:
        return classifier.prepare(text)
    except InputError as error:
        screen.print(f"{place}: {error}")
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
