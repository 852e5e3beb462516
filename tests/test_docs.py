"""The pages for developers: every command on them is run, in order, against a running service."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet
from typer.main import get_command

from app.cli import app as serving_app
from tests.fake_artifact import write_fake_artifact
from tests.fake_cart import fake_cart
from tests.process import ROOT, Process, environment
from training.__main__ import app as training_app

DOCS = ROOT / "docs"
ADDRESS = "127.0.0.1:8080"
_BLOCK = re.compile(r"^```(\w+)(?: (serve))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_RUN = {
    "sh": "{code}",
    "python": "python3 -W error - <<'END_OF_BLOCK'\n{code}END_OF_BLOCK\n",
    "js": "node --input-type=module - <<'END_OF_BLOCK'\n{code}END_OF_BLOCK\n",
}
_READY = (
    "for _ in $(seq 600); do curl -s --fail -o /dev/null http://{address}/readyz && break; "
    "sleep 0.05; done"
)


def script(page: Path, address: str) -> str:
    """One shell script of all blocks; a block marked `serve` runs beside the others."""
    steps = ["set -euo pipefail", "trap 'kill $(jobs -p) 2>/dev/null || true' EXIT"]
    for language, serve, code in _BLOCK.findall(page.read_text()):
        command = _RUN[language].format(code=code)
        steps.append(
            f"{command.rstrip()} &\n{_READY.format(address=address)}" if serve else command
        )
    return "\n".join(steps).replace(ADDRESS, address)


@pytest.mark.parametrize("name", ["api", "quick-start", "security"])
def test_every_command_runs(name: str, tmp_path: Path) -> None:
    """Shell, Python and JavaScript, as they stand, one after the other."""
    store = tmp_path / "store"
    write_fake_artifact(store)
    free = Process(store, tmp_path / "unused.log")  # its port; the page starts its own service
    free.__exit__()
    variables = environment(
        store,
        INTENT_PORT=str(free.port),
        PATH=f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin",
    )
    done = subprocess.run(
        ["bash", "-c", script(DOCS / f"{name}.md", f"127.0.0.1:{free.port}")],
        cwd=tmp_path,
        env=variables,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    if name == "api":
        assert '"intent_ranking"' in done.stdout
        assert (tmp_path / "feedback.csv").read_text() == (
            "text,intent\ni want to send this back,return_exchange\n"
        )
    elif name == "quick-start":
        assert "where is my order { go: '/account/orders' }" in done.stdout
        assert "tell me a joke { go: '/contact' }" in done.stdout
    else:
        assert "refused, as it should be" in done.stdout


_CURL = re.compile(r"^ {4}(curl .*(?:\n {4}.*)*)", re.MULTILINE)


def curls_of(page: Path) -> list[str]:
    """The requests on a page that stand in indented blocks, as a shell takes them."""
    return [
        re.sub(r"^ {4}", "", found, flags=re.MULTILINE) for found in _CURL.findall(page.read_text())
    ]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """A service as the pages know it: two versions, carts, no keys on loopback."""
    folder = tmp_path_factory.mktemp("shop")
    for version in ("1", "2"):
        write_fake_artifact(folder / "store", version=version, cart=fake_cart())
    with Process(folder / "store", folder / "log") as service:
        yield service.wait_until_ready()


@pytest.mark.parametrize("name", ["README.md", "docs/cart.md", "docs/operations.md"])
def test_every_request_is_answered(name: str, shop: Process) -> None:
    """Pasted into a shell as it stands: 200, and the fields of an answer."""
    requests = curls_of(ROOT / name)
    assert requests
    for request in requests:
        command = request.replace(f"http://{ADDRESS}", shop.url)
        done = subprocess.run(
            ["bash", "-c", f"{command} --fail-with-body"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert {"model", "name"} & json.loads(done.stdout).keys()


def test_messages_without_a_server(tmp_path: Path) -> None:
    """As README has it: one by argument, others one a line from standard input."""
    write_fake_artifact(tmp_path / "store")
    (command,) = re.findall(
        r"`\.venv/bin/(shopintent classify [^`]+)`", (ROOT / "README.md").read_text()
    )
    told = shlex.split(command)[1:]
    for arguments, lines in ((told, ""), (told[:1], "can i pay with paypal\ntell me a joke\n")):
        done = subprocess.run(
            [sys.executable, "-m", "app", *arguments],
            input=lines,
            cwd=ROOT,
            env=environment(tmp_path / "store"),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        answers = [json.loads(line) for line in done.stdout.splitlines()]
        assert len(answers) == (lines.count("\n") or 1)


PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
_COMMAND = re.compile(
    r"^(?: {4}|\$ )?(?:\.venv/bin/)?(shopintent|python -m training|make) (.*)$", re.MULTILINE
)


def commands_of(page: Path) -> list[tuple[str, list[str]]]:
    """Our own commands on a page with their arguments, without what a shell would take off."""
    found = []
    for program, rest in _COMMAND.findall(re.sub(r"\\\n *", " ", page.read_text())):
        line = re.split(r" #|>|\||`|&&|2>", rest.replace("...", ""))[0]
        found.append((program, shlex.split(line)))
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_are_as_the_page_has_them(page: Path) -> None:
    """Every command exists and takes the options that it is shown with; every make target is there."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    programs = {"shopintent": serving_app, "python -m training": training_app}
    for program, arguments in commands_of(page):
        if program == "make":
            goals = [a for a in arguments if "=" not in a and not a.startswith("-")]
            assert set(goals) <= targets, f"{page.name}: make {goals}"
            continue
        command: Any = get_command(programs[program])
        while hasattr(command, "commands"):
            assert arguments, f"{page.name}: {program} {command.name}"
            command = command.commands[arguments.pop(0)]
        options = {name for parameter in command.params for name in parameter.opts}
        shown = {a.partition("=")[0] for a in arguments if a.startswith("--")}
        assert shown <= options | {"--help"}, f"{page.name}: {command.name} {shown - options}"


@pytest.mark.parametrize("name", ["operations", "deployment"])
def test_operators_commands_run(name: str, tmp_path: Path) -> None:
    """Each ends well where there are two versions and messages to label. Ray has tests of its own."""
    store = tmp_path / "store"
    for version in ("1", "2"):
        write_fake_artifact(store, version=version)
    write_messages(tmp_path)
    ran = 0
    for program, arguments in commands_of(DOCS / f"{name}.md"):
        if program != "shopintent" or "--ray" in arguments:
            continue
        (tmp_path / "labelled.parquet").unlink(missing_ok=True)
        done = subprocess.run(
            [sys.executable, "-m", "app", *arguments],
            cwd=tmp_path,
            env=environment(store, PYTHONPATH=str(ROOT)),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
        ran += 1
    assert ran >= 3


def write_messages(directory: Path) -> None:
    """What the pages label: lines, and a table with columns of other names."""
    rows = [{"id": f"m{n}", "text": text} for n, text in enumerate(("where is it", "hi there"))]
    (directory / "messages.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    table = [row | {"body": row["text"], "sent_at": "2026-01-01"} for row in rows]
    parquet.write_table(pa.Table.from_pylist(table), directory / "messages.parquet")


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link names a file that is there."""
    for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), target
