"""The command line: results on standard output, words for people on standard error, exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from app.cli import app
from tests.fake_artifact import write_fake_artifact


@pytest.fixture
def shopintent(fake_store: Path, monkeypatch: pytest.MonkeyPatch):
    """Runs a command on the fake store."""
    monkeypatch.setenv("INTENT_STORE_DIR", str(fake_store))
    monkeypatch.setenv("INTENT_THREADS", "1")
    for name in ("INTENT_MODELS", "INTENT_BACKEND"):
        monkeypatch.delenv(name, raising=False)

    def run(*arguments: str, stdin: str | None = None) -> Result:
        return CliRunner().invoke(app, arguments, input=stdin)

    return run


def test_classify_prints_a_json_line_for_each_message(shopintent) -> None:
    """Into a pipe goes one object a message, in order."""
    done = shopintent("classify", "where is my order", "can i pay with paypal", "--top-k", "2")
    assert done.exit_code == 0, done.output
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["intent"] for row in rows] == ["order_status", "payment_methods"]
    assert all(len(row["ranking"]) == 2 for row in rows)


def test_classify_reads_lines_and_jsonl(shopintent) -> None:
    """Standard input may hold plain lines and JSON objects; blank lines are skipped."""
    stdin = 'where is my order\n\n{"text": "can i pay with paypal"}\n' * 10
    done = shopintent("classify", stdin=stdin)
    intents = [json.loads(line)["intent"] for line in done.stdout.splitlines()]
    assert intents == ["order_status", "payment_methods"] * 10


def test_classify_names_the_bad_line(shopintent) -> None:
    """A line that is no message ends the run with its number."""
    done = shopintent("classify", stdin='where is my order\n{"txt": "x"}\n')
    assert done.exit_code == 2
    assert "line 2" in done.stderr


def test_unknown_model_is_a_sentence(shopintent) -> None:
    """No traceback for what can be foreseen."""
    done = shopintent("classify", "hello", "--model", "nobody")
    assert done.exit_code == 1
    assert "UnknownModel" in done.stderr
    assert "Traceback" not in done.output


def test_models_are_listed_verified_and_activated(shopintent, fake_store: Path) -> None:
    """A second version is active by number, the first one by choice."""
    write_fake_artifact(fake_store, version="2")
    listed = json.loads(shopintent("models", "list").stdout)
    assert [(row["version"], row["active"]) for row in listed] == [("1", False), ("2", True)]
    assert shopintent("models", "activate", "storefront", "1").exit_code == 0
    listed = json.loads(shopintent("models", "list", "--json").stdout)
    assert [(row["version"], row["active"]) for row in listed] == [("1", True), ("2", False)]
    assert shopintent("models", "verify").exit_code == 0
    assert shopintent("models", "activate", "storefront", "3").exit_code == 1


def test_verify_tells_which_file_is_damaged(shopintent, fake_store: Path) -> None:
    """One changed byte is found and named."""
    head = fake_store / "storefront/1/head.safetensors"
    head.write_bytes(head.read_bytes()[:-1] + b"?")
    done = shopintent("models", "verify", "storefront")
    assert done.exit_code == 1
    assert "head.safetensors" in done.stderr


def test_build_has_nothing_to_do_without_weights(shopintent) -> None:
    """An artifact without a recipe is not an error."""
    done = shopintent("models", "build")
    assert done.exit_code == 0
    assert "nothing to build" in done.stderr


def test_wrong_setting_is_named(shopintent, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable and what is wrong with it, exit code 2."""
    monkeypatch.setenv("INTENT_PORT", "http")
    done = shopintent("serve")
    assert done.exit_code == 2
    assert "INTENT_PORT" in done.stderr
