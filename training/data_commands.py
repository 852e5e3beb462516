"""The commands about data: `stats`, `check-data`, `synthesise`, `vocabulary`, imported when called."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from app.errors import InputError
from training.examples import HERE
from training.terminal import ProgressLine

if TYPE_CHECKING:
    from training.leaks import Finding
    from training.stats import Counts, Stats

_screen = Console(stderr=True)
_output = Console()

KEY_VARIABLE = "SHOPINTENT_SYNTH_KEY"
VOCABULARY_FILE = HERE / "data" / "vocabulary.safetensors"
BASES = Path("model_store") / ".cache"


def stats(
    as_json: Annotated[bool, typer.Option("--json", help="JSON on standard output.")] = False,
) -> None:
    """Count the project's own data by intent, language, split and origin."""
    from training.stats import data_stats

    found = data_stats()
    if as_json:
        typer.echo(json.dumps(found, indent=1, ensure_ascii=False))
    else:
        _show_stats(found)


def check_data(
    data: Annotated[Path, typer.Option(help="Folder of the public data sets.")],
    joined: Annotated[
        bool, typer.Option("--joined", help="Split after joining the families of near-duplicates.")
    ] = False,
) -> None:
    """List near-duplicates of fitted messages in all that is measured on; exit 1 if any is a leak."""
    from training.duplicates import join_families
    from training.examples import read_late, read_seeds
    from training.leaks import find_leaks, measured_sets
    from training.shops import read_shops

    seeds = join_families(read_seeds()) if joined else read_seeds()
    shops = [message for messages in read_shops().values() for message in messages]
    findings = find_leaks(seeds, measured_sets(data, seeds), [*shops, *read_late()])
    _show_findings(findings)
    if any(finding.leaks for finding in findings):
        raise typer.Exit(1)


def vocabulary(
    out: Annotated[Path, typer.Option(help="The file to write.")] = VOCABULARY_FILE,
    size: Annotated[
        int | None, typer.Option(help="Pieces to keep; by default all of the Latin script.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder of the public data sets; needed for a size.")
    ] = None,
    cache: Annotated[Path, typer.Option(help="Where the base is kept.")] = BASES,
) -> None:
    """Choose the pieces of the base's vocabulary that the default model's weights keep."""
    from training.vocabulary import write_vocabulary

    if size is not None and data is None:
        raise InputError("a --size needs --data, which tells what pieces are used")
    with ProgressLine(_screen) as progress:
        kept, before = write_vocabulary(out, cache, size, data, progress)
    _screen.print(f"{out}: {kept} of {before} pieces stay", highlight=False)


def synthesise(
    endpoint: Annotated[str, typer.Option(help="OpenAI-compatible address, up to /v1.")],
    model: Annotated[str, typer.Option(help="The model's name at the endpoint.")],
    out: Annotated[Path, typer.Option(help="JSONL to write to, or to go on with.")],
    intents: Annotated[str, typer.Option(help="By comma; all when left out.")] = "",
    languages: Annotated[str, typer.Option(help="By comma: en, hr, es.")] = "en,hr,es",
    per_intent: Annotated[int, typer.Option(min=1, help="Rows an intent and language.")] = 60,
    seed: Annotated[int, typer.Option(help="Varies styles and sampling.")] = 20,
    timeout: Annotated[float, typer.Option(help="Seconds a request may take.")] = 120.0,
) -> None:
    """Ask a language model for messages; a second pass must agree on each one's intent.

    The API key, where one is needed, is read from SHOPINTENT_SYNTH_KEY. The same command again goes on
    where it was stopped.
    """
    from training.chat_endpoint import ChatEndpoint
    from training.synthesise import plan, write_messages

    units = plan(_names(intents), tuple(_names(languages)), per_intent, seed)
    key = os.environ.get(KEY_VARIABLE, "")
    with ChatEndpoint(endpoint, model, key, timeout) as chat, ProgressLine(_screen) as progress:
        outcome = write_messages(chat, units, out, progress)
    table = Table("outcome", "messages", title=f"{out}: {outcome['kept']} messages kept in all")
    for name, count in outcome.items():
        table.add_row(name, str(count))
    _screen.print(table)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _show_stats(found: Stats) -> None:
    seeds = found["seeds"]
    columns = [*found["languages"], "train", "dev", "test"]
    table = Table("intent", "messages", *columns, title="Seeds")
    for intent, counts in seeds["by_intent"].items():
        table.add_row(intent, *_cells(counts, ["messages", *columns]))
    totals: Counts = {"messages": seeds["messages"], **seeds["by_split"]}
    totals |= {language: c["messages"] for language, c in seeds["by_language"].items()}
    table.add_section()
    table.add_row("all", *_cells(totals, ["messages", *columns]))
    _output.print(table)
    _output.print(_table("origin", {"": seeds["by_origin"]}))
    for heading in ("words", "characters", "slots"):
        _output.print(_table(heading, seeds[heading]))
    _output.print(_table("made-up shops", found["shops"]))
    for heading, sets in (
        ("only trained on", {"late": found["late"]}),
        ("only measured on", found["measured_only"]),
    ):
        table = Table(heading, "messages", *found["languages"])
        for name, content in sets.items():
            by_language = {k: c["messages"] for k, c in content["by_language"].items()}
            table.add_row(name, str(content["messages"]), *_cells(by_language, found["languages"]))
        _output.print(table)
    _output.print(f"{found['dropped_rows']} rows of the files repeat or contradict another")


def _table(heading: str, rows: dict[str, Counts]) -> Table:
    columns = list(dict.fromkeys(column for counts in rows.values() for column in counts))
    table = Table(heading, *columns)
    for name, counts in rows.items():
        table.add_row(name, *_cells(counts, columns))
    return table


def _cells(counts: Counts, columns: list[str]) -> list[str]:
    return [str(counts.get(column, 0)) for column in columns]


def _show_findings(findings: list[Finding]) -> None:
    pairs = Table("set", "alike", "fitted", "measured", "leak", title="Near-duplicates")
    summary = Table("set", "messages", "listed", "leaks", title="Summary")
    for finding in findings:
        for pair in finding.pairs:
            leak = "yes" if pair in finding.leaks else ""
            alike = f"{pair.similarity:.2f}"
            pairs.add_row(finding.name, alike, pair.left.text, pair.right.text, leak)
        counts = (finding.messages, len(finding.pairs), len(finding.leaks))
        summary.add_row(finding.name, *map(str, counts))
    _output.print(pairs)
    _output.print(summary)
