from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from app.artifacts.manifest import (
    MANIFEST,
    FileEntry,
    Manifest,
    read_json,
    read_manifest,
    write_atomically,
    write_manifest,
)
from app.errors import FileDamaged, ManifestInvalid
from tests.fake_artifact import write_fake_artifact
from tests.fake_cart import fake_cart


def _recipe(**fields: object) -> dict[str, object]:
    base = {"kind": "file", "path": "base.gguf", "sha256": "0" * 64}
    recipe = {"base": base, "adapters": [], "quantisation": "Q8_0", "output": "model.gguf"}
    return recipe | fields


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    return write_fake_artifact(tmp_path)


def test_what_is_written_is_read(manifest: Manifest, tmp_path: Path):
    """The format round-trips."""
    assert read_manifest(tmp_path / "storefront" / "1") == manifest


def test_publishing_checks_the_files_first(manifest: Manifest, tmp_path: Path):
    """A manifest never describes what is not there."""
    directory = tmp_path / "storefront" / "1"
    (directory / MANIFEST).unlink()
    (directory / "head.safetensors").write_bytes(b"other")
    with pytest.raises(FileDamaged):
        write_manifest(directory, manifest)
    assert not (directory / MANIFEST).exists()


def test_whoever_reads_the_folder_reads_its_files(manifest: Manifest, tmp_path: Path):
    """A model trained by one user can be served by another."""
    directory = tmp_path / "storefront" / "1"
    directory.chmod(0o755)
    (directory / "head.safetensors").chmod(0o600)
    write_manifest(directory, manifest)
    assert (directory / "head.safetensors").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(
    ("field", "value", "where"),
    [
        ("name", "Upper", "name"),
        ("version", "0", "version"),
        ("format", "pickle", "format"),
        ("labels", [{"intent": "a"}, {"intent": "b"}, {"intent": "c"}], "labels"),
        ("labels", [{"intent": "a"}, {"intent": "a"}, {"intent": "out_of_scope"}], "labels"),
        ("files", [{"path": "../x", "bytes": 1, "sha256": "0" * 64}], "files"),
        ("surprise", 1, "surprise"),
        ("weights", _recipe(layers=[0, 1, 1]), "only once"),
        ("weights", _recipe(layers=[]), "layers"),
        ("weights", _recipe(layers=[-1]), "layers"),
    ],
)
def test_a_broken_field_is_named(
    manifest: Manifest, tmp_path: Path, field: str, value: object, where: str
):
    """The message says which field of which artifact is wrong."""
    path = tmp_path / "storefront" / "1" / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    with pytest.raises(ManifestInvalid, match=where):
        read_manifest(path.parent)


@pytest.mark.parametrize("path", ["/etc/passwd", "../up", "a/../../b", "a\\b"])
def test_paths_stay_inside_the_artifact(path: str):
    """Nothing outside can be named."""
    with pytest.raises(ValueError, match="inside"):
        FileEntry(path=path, bytes=0, sha256="0" * 64)


def test_atomic_writes_leave_no_partial_file(tmp_path: Path):
    """Old or new, and no rest beside it."""
    path = tmp_path / "file"
    write_atomically(path, b"old")
    write_atomically(path, b"new")
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("file", b"new")]


def test_a_failed_write_leaves_the_old_file_alone(tmp_path: Path):
    """And no rest beside it."""
    path = tmp_path / "file"
    path.mkdir()
    with pytest.raises(OSError, match="directory"):
        write_atomically(path, b"new")
    assert list(tmp_path.iterdir()) == [path]


def test_writers_at_once_do_not_meet(tmp_path: Path):
    """Each write ends well, and readers see one content or the other, whole."""
    path = tmp_path / "active"
    contents = {b"1\n" * 100, b"2\n" * 50}
    write_atomically(path, b"1\n" * 100)

    def write(content: bytes) -> set[bytes]:
        seen = set()
        for _ in range(200):
            write_atomically(path, content)
            seen.add(path.read_bytes())
        return seen

    with ThreadPoolExecutor(2) as writers:
        seen = set().union(*writers.map(write, contents))
    assert seen <= contents
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("content", [b"", b"[1]", b"{", b"\xff"])
def test_json_that_is_no_object_is_damaged(tmp_path: Path, content: bytes):
    """Side files go through one door."""
    path = tmp_path / "calibration.json"
    path.write_bytes(content)
    with pytest.raises(FileDamaged, match=r"calibration\.json"):
        read_json(path)


def test_a_manifest_without_carts_is_written_as_before_there_were_any(
    manifest: Manifest, tmp_path: Path
):
    """Older versions read it, and its digest stays; with carts it says so and round-trips."""
    content = (tmp_path / "storefront" / "1" / MANIFEST).read_text()
    assert "cart" not in json.loads(content)
    with_carts = write_fake_artifact(tmp_path, "carts", cart=fake_cart())
    read = read_manifest(tmp_path / "carts" / "1")
    assert read == with_carts
    assert read.cart == fake_cart().spec
