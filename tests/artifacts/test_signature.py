"""Only what was signed with the service's key is served, where there is a key."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.artifacts.manifest import MANIFEST
from app.artifacts.signature import SIGNATURE, read_signing_key, sign
from app.artifacts.store import Store
from app.errors import ManifestInvalid
from tests.fake_artifact import write_fake_artifact

KEY = b"a key of enough bytes"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    write_fake_artifact(tmp_path)
    return tmp_path / "storefront" / "1"


def resolve(directory: Path, key: bytes | None = KEY) -> None:
    Store(directory.parent.parent, key).resolve("storefront")


def test_signed_is_served(directory: Path) -> None:
    """With the right key; without a key signatures are not looked at."""
    sign(directory, KEY)
    resolve(directory)
    (directory / SIGNATURE).write_text("nonsense")
    resolve(directory, None)


def test_unsigned_is_refused(directory: Path) -> None:
    """Named as what it is."""
    with pytest.raises(ManifestInvalid, match="not signed"):
        resolve(directory)


def test_another_key_or_another_manifest_is_refused(directory: Path) -> None:
    """One changed byte of the manifest, or a signature of somebody else."""
    sign(directory, b"somebody else's key")
    with pytest.raises(ManifestInvalid, match="not signed with"):
        resolve(directory)
    sign(directory, KEY)
    with (directory / MANIFEST).open("ab") as stream:
        stream.write(b" ")
    with pytest.raises(ManifestInvalid, match="not signed with"):
        resolve(directory)


def test_a_key_must_be_there_and_long_enough(tmp_path: Path) -> None:
    """An empty file is no key."""
    path = tmp_path / "key"
    with pytest.raises(ManifestInvalid, match="cannot be read"):
        read_signing_key(path)
    path.write_text("short\n")
    with pytest.raises(ManifestInvalid, match="16 bytes"):
        read_signing_key(path)
    path.write_bytes(KEY + b"\n")
    assert read_signing_key(path) == KEY
