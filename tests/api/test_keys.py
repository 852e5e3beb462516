"""Keys: made once, kept as hashes, read strictly."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from app.api.keys import BadKeyList, Scope, find_key, new_key, read_keys
from app.cli import app


def test_a_new_key_is_random_and_its_line_is_its_hash() -> None:
    """256 bits behind a recognisable beginning; the line has the hash and nothing of the key."""
    secrets = {new_key("web", [Scope.CLASSIFY])[0] for _ in range(100)}
    assert len(secrets) == 100
    secret, key = new_key("web", [Scope.ADMIN, Scope.CLASSIFY])
    assert secret.startswith("shop_")
    assert len(secret) == len("shop_") + 43
    assert key.line == f"web classify,admin sha256:{hashlib.sha256(secret.encode()).hexdigest()}"
    assert read_keys(key.line) == (key,)
    assert find_key([key], secret.encode()) == key
    assert find_key([key], secret[:-1].encode()) is None


@pytest.mark.parametrize(
    "line",
    [
        "web", "web classify", "web classify sha256:00", "Web classify sha256:" + "0" * 64,
        "web all sha256:" + "0" * 64, "web , sha256:" + "0" * 64, "web classify md5:" + "0" * 64,
        "web classify sha256:" + "G" * 64, "web classify sha256:" + "0" * 64 + " more", "a/b classify x",
    ],
)  # fmt: skip
def test_bad_lines_are_named_by_number(line: str) -> None:
    """The number of the line, never its content: it may be a key that somebody pasted."""
    good = new_key("web", [Scope.CLASSIFY])[1].line
    with pytest.raises(BadKeyList, match="line 3") as raised:
        read_keys(f"# ours\n{good}\n{line}\n")
    assert line not in str(raised.value)


@given(st.text())
def test_any_text_is_a_list_or_refused(text: str) -> None:
    """No key file ends the service in another way than the foreseen."""
    try:
        keys = read_keys(text)
    except BadKeyList:
        return
    assert all(len(key.digest) == 32 for key in keys)


def test_command_shows_the_key_once(tmp_path: Path) -> None:
    """The key on standard error, for eyes; its line on standard output, for the file."""
    done = CliRunner().invoke(app, ["keys", "new", "web", "--scopes", "classify, admin"])
    assert done.exit_code == 0
    (key,) = read_keys(done.stdout)
    (secret,) = [word for word in done.stderr.split() if word.startswith("shop_")]
    assert find_key([key], secret.encode()) == key
    assert secret not in done.stdout
    for wrong in (["Web"], ["web", "--scopes", "root"], ["web", "--scopes", ""], ["a b"]):
        assert CliRunner().invoke(app, ["keys", "new", *wrong]).exit_code == 2


def test_start_is_refused_with_a_sentence(
    fake_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`serve --host` beyond loopback without keys says what to do, exit code 2."""
    monkeypatch.setenv("INTENT_STORE_DIR", str(fake_store))
    for name in ("INTENT_KEYS", "INTENT_KEYS_FILE", "INTENT_AUTH", "INTENT_HOST"):
        monkeypatch.delenv(name, raising=False)
    done = CliRunner().invoke(app, ["serve", "--host", "0.0.0.0", "--port", "0"])
    assert done.exit_code == 2
    assert "shopintent keys new" in done.stderr
    assert "Traceback" not in done.output
