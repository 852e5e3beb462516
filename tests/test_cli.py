"""The command line: results on standard output, words for people on standard error, exit codes."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from app.cli import _given, app
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


def test_classify_reads_past_a_byte_order_mark(shopintent) -> None:
    """A file saved on Windows: its first line is an object too, or plain."""
    for first in ('{"text": "where is my order"}', "where is my order"):
        done = shopintent("classify", stdin=f"\ufeff{first}\ncan i pay with paypal\n")
        rows = [json.loads(line) for line in done.stdout.splitlines()]
        assert [row["text"] for row in rows] == ["where is my order", "can i pay with paypal"]


def test_classify_names_the_bad_line(shopintent) -> None:
    """A line that is no message ends the run with its number, and without a traceback."""
    deep = '{"text": ' + "[" * 100_000
    for bad in ('{"txt": "x"}', '{"text": null}', '{"text": 5}', '{"text": ""}', "\a", "{", deep):
        done = shopintent("classify", stdin=f"where is my order\n{bad}\n")
        assert done.exit_code == 2, bad[:20]
        assert "line 2" in done.stderr
        assert "Traceback" not in done.output
    done = shopintent("classify", "where is my order", " ")
    assert (done.exit_code, "message 2" in done.stderr) == (2, True)


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
    back = shopintent("models", "rollback", "storefront")
    assert json.loads(back.stdout) == {"name": "storefront", "version": "2", "active": True}
    assert shopintent("models", "activate", "storefront", "latest").exit_code == 0
    listed = json.loads(shopintent("models", "list").stdout)
    assert [(row["version"], row["active"]) for row in listed] == [("1", False), ("2", True)]


def test_list_shows_a_broken_version_too(shopintent, fake_store: Path) -> None:
    """What cannot be read stands beside what can, with the reason."""
    write_fake_artifact(fake_store, version="2")
    (fake_store / "storefront/1/manifest.json").write_text("{")
    rows = json.loads(shopintent("models", "list").stdout)
    assert [row["intents"] for row in rows] == [None, 4]
    assert "manifest" in rows[0]["problem"]
    assert rows[1]["problem"] is None


def test_verify_can_check_every_version(shopintent, fake_store: Path) -> None:
    """By default the active ones; with --all an old damaged one is found too, in JSON for pipes."""
    write_fake_artifact(fake_store, version="2")
    (fake_store / "storefront/1/calibration.json").write_text("{}")
    assert shopintent("models", "verify").exit_code == 0
    done = shopintent("models", "verify", "--all")
    assert done.exit_code == 1
    assert [(row["version"], row["whole"]) for row in json.loads(done.stdout)] == [
        ("1", False),
        ("2", True),
    ]


def test_signed_models_only(
    shopintent, fake_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a key in the settings an unsigned version is refused until it is signed."""
    assert shopintent("models", "sign", "storefront").exit_code == 2
    key = tmp_path / "key"
    monkeypatch.setenv("INTENT_SIGNING_KEY_FILE", str(key))
    assert shopintent("models", "verify").exit_code == 1
    key.write_text("a key of enough bytes")
    done = shopintent("models", "verify")
    assert (done.exit_code, "not signed" in done.stderr) == (1, True)
    assert shopintent("models", "sign", "storefront").exit_code == 0
    assert shopintent("models", "verify").exit_code == 0
    assert shopintent("classify", "where is my order").exit_code == 0


def test_a_store_that_cannot_be_written_is_a_sentence(
    shopintent, fake_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line with the reason for each command that changes it."""
    write_fake_artifact(fake_store, version="2")
    key = tmp_path / "key"
    key.write_text("a key of enough bytes")
    # Even root cannot put a file where a folder is.
    (fake_store / "storefront/active").mkdir()
    (fake_store / "storefront/2/manifest.hmac").mkdir()
    for command in (("activate", "storefront", "1"), ("rollback", "storefront")):
        done = shopintent("models", *command)
        assert (done.exit_code, done.stdout) == (1, "")
        assert f"{fake_store} cannot be changed: Is a directory\n" == done.stderr
    monkeypatch.setenv("INTENT_SIGNING_KEY_FILE", str(key))
    done = shopintent("models", "sign", "storefront")
    assert (done.exit_code, "cannot be changed" in done.stderr) == (1, True)


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


def test_verify_looks_into_gptq_checkpoints(shopintent, fake_store: Path) -> None:
    """One that lies beside the other weights and is not whole is told, before a GPU would refuse it."""
    assert shopintent("models", "verify").exit_code == 0
    (fake_store / "storefront" / "1" / "weights" / "gptq").mkdir(parents=True)
    done = shopintent("models", "verify")
    assert done.exit_code == 1
    assert "GPTQ" in done.stderr


def test_classify_names_the_line_that_is_not_utf8() -> None:
    """Its letters are not left out without a word, whatever the locale."""
    given = list(_lines(b"where is my order\n"))
    assert given == [("line 1", "where is my order\n")]
    with pytest.raises(typer.Exit):
        list(_lines("where is my order\nd\u00f3nde est\u00e1\n".encode("latin-1")))


def _lines(content: bytes) -> list[tuple[str, str]]:
    """What `classify` makes of such a file in a locale without an encoding, as services have it."""
    stream = io.TextIOWrapper(io.BytesIO(content), encoding="utf-8", errors="surrogateescape")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdin", stream)
        return list(_given(None))


def test_brackets_in_what_was_given_are_told_as_they_are(shopintent) -> None:
    """An error quotes them; they are no markup of the terminal."""
    for name in ("[/x]", "[bold]"):
        for command in (("models", "activate", "storefront", name), ("keys", "new", f"{name} ")):
            done = shopintent(*command)
            assert isinstance(done.exception, SystemExit), command
            assert done.exit_code in {1, 2}
        assert repr(name) in shopintent("models", "activate", "storefront", name).stderr
