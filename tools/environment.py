"""Make .venv and install a locked set of packages into it: `python tools/environment.py dev`.

Needs nothing but Python 3.11 and its standard library. Repeating it is safe, and instant while the
lock files stay as they are: a stamp in .venv, written last, remembers what was installed. Where
packages come from is pip's business: its own configuration decides.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import queue
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
LOG = VENV / "install.log"
LIBRARY_ONLY = ROOT / "tools" / "llama_library_only.cmake"
LLAMA = "llama-cpp-python"


@dataclass(frozen=True)
class PackageSet:
    """What to install, in order. ``contains`` names the sets that it holds as well."""

    locks: tuple[str, ...]
    unlocked: tuple[str, ...] = ()
    contains: tuple[str, ...] = ()


SETS = {
    "serve-cpu": PackageSet(("serve-cpu",)),
    "dev": PackageSet(("dev",), contains=("serve-cpu",)),
    "ray": PackageSet(("dev", "ray"), contains=("serve-cpu", "dev")),
    # torch has one build for each kind of machine, each with its own hash: see requirements/README.md
    "train": PackageSet(("dev", "train"), ("torch.txt",), contains=("serve-cpu", "dev")),
}


def main() -> None:
    """Install the set named on the command line, unless it stands already."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("set", choices=SETS)
    chosen = parser.parse_args().set
    if sys.version_info < (3, 11):  # noqa: UP036 - run by whatever python the shell found
        sys.exit(f"shopintent needs Python 3.11 or newer; this is {sys.version.split()[0]}")
    if not _installed(chosen):
        _install(chosen)


def _installed(name: str) -> bool:
    stamp = _stamp(name)
    return PYTHON.exists() and stamp.exists() and stamp.read_text() == _digest(name)


def _install(name: str) -> None:
    if not _runs(PYTHON):
        _make_venv()
    _pip("installer", "-r", "requirements/build.lock", "--require-hashes", "--no-deps")
    if not _has_compiled_llama():
        _announce_compilation()
    wanted = SETS[name]
    for lock in wanted.locks:
        _pip(f"{lock} packages", "-r", f"requirements/{lock}.lock", "--require-hashes", "--no-deps")
    for unlocked in wanted.unlocked:
        _pip(unlocked.removesuffix(".txt"), "-r", f"requirements/{unlocked}")
    _pip("shopintent", "--no-deps", "--no-build-isolation", "--editable", ".")
    for done in (*wanted.contains, name):
        _stamp(done).parent.mkdir(exist_ok=True)
        _stamp(done).write_text(_digest(done))


def _digest(name: str) -> str:
    """Of all that decides what the set installs."""
    wanted = SETS[name]
    files = [
        ROOT / "pyproject.toml",
        ROOT / "requirements" / "build.lock",
        *(ROOT / "requirements" / f"{lock}.lock" for lock in wanted.locks),
        *(ROOT / "requirements" / unlocked for unlocked in wanted.unlocked),
    ]
    digest = hashlib.sha256(str(ROOT).encode())  # a moved checkout needs its scripts made anew
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _stamp(name: str) -> Path:
    return VENV / ".stamps" / name


def _runs(python: Path) -> bool:
    if not python.exists():
        return False
    probe = "import sys; sys.exit(sys.version_info < (3, 11))"
    return subprocess.run([python, "-c", probe], check=False).returncode == 0


def _make_venv() -> None:
    print(f"Making .venv with Python {sys.version.split()[0]}", flush=True)
    shutil.rmtree(VENV, ignore_errors=True)
    made = subprocess.run([sys.executable, "-m", "venv", VENV], check=False)
    if made.returncode:
        shutil.rmtree(VENV, ignore_errors=True)
        sys.exit(
            "could not make .venv (on Debian and Ubuntu: apt install python3-venv python3-dev)"
        )


def _has_compiled_llama() -> bool:
    if any(VENV.glob("lib/python3*/site-packages/llama_cpp_python-*.dist-info")):
        return True
    lock = (ROOT / "requirements" / "serve-cpu.lock").read_text()
    locked = re.search(rf"^{LLAMA}==(\S+)", lock, re.MULTILINE)
    question = ["cache", "list", "--format=abspath", LLAMA.replace("-", "_")]
    answer = subprocess.run(
        [str(PYTHON), "-m", "pip", *question], capture_output=True, text=True, check=False
    )
    return locked is not None and f"-{locked[1]}-" in answer.stdout


def _announce_compilation() -> None:
    print(
        f"Next: {LLAMA}. It has no ready-made package: its C++ is compiled on this machine, for this\n"
        "machine's CPU, which is also what makes it fast. That takes 2 to 6 minutes on two cores. pip\n"
        "keeps the result in its cache, so it is done once, also for other checkouts.",
        flush=True,
    )
    if not any(map(shutil.which, (os.environ.get("CXX", "c++"), "g++", "clang++"))):
        sys.exit("there is no C++ compiler (on Debian and Ubuntu: apt install build-essential)")


def _pip(what: str, *arguments: str) -> None:
    """``pip install``, with its output in a log and its progress on one line of the screen.

    Python compiles a module when it is first imported; to compile all of them takes as long as to unpack
    them.
    """
    install = ("install", "-v", "--no-input", "--no-compile")
    command = [str(PYTHON), "-m", "pip", *install, *arguments]
    environment = {
        **os.environ,
        "PYTHONUNBUFFERED": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "CMAKE_ARGS": os.environ.get("CMAKE_ARGS")
        or f"-DLLAVA_BUILD=OFF -DCMAKE_PROJECT_llama_cpp_INCLUDE={LIBRARY_ONLY}",
    }
    with LOG.open("a") as log, _Screen(what) as screen:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        try:
            for line in _lines(process):
                log.write(line)
                screen.show(line)
        except BaseException:
            process.terminate()
            raise
        if process.wait():
            log.flush()
            tail = LOG.read_text(errors="replace").splitlines()[-40:]
            sys.exit("\n".join(["", *tail, f"\ncould not install {what}; the log is {LOG}"]))


def _lines(process: subprocess.Popen[str]) -> Iterator[str]:
    """Output lines as they come; an empty string now and then, so that the clock moves on."""
    assert process.stdout is not None
    waiting: queue.Queue[str | None] = queue.Queue()
    stream = process.stdout

    def read() -> None:
        for line in stream:
            waiting.put(line)
        waiting.put(None)

    threading.Thread(target=read, daemon=True).start()
    while True:
        try:
            line = waiting.get(timeout=0.5)
        except queue.Empty:
            yield ""
            continue
        if line is None:
            return
        yield line


class _Screen:
    """One line that says what happens and for how long: redrawn on a terminal, else now and then."""

    STEPS: Sequence[tuple[re.Pattern[str], str]] = (
        (re.compile(r"^\s*\[(\d+)/(\d+)\]"), f"{LLAMA}: compiling, step {{0}} of {{1}}"),
        (re.compile(r"^\s*\*\*\* Configuring CMake"), f"{LLAMA}: looking at the compiler"),
        (re.compile(r"^\s*(?:Downloading|Using cached) (\S+?)-\d"), "fetching {0}"),
        (re.compile(r"^Collecting ([\w.-]+)"), "fetching {0}"),
        (re.compile(r"^\s*Building wheel for (\S+)"), "building {0}"),
        (re.compile(r"^Installing collected packages"), "unpacking"),
    )
    QUIET_SECONDS = 15.0

    def __init__(self, what: str) -> None:
        self._what = what
        self._terminal = sys.stdout.isatty()
        self._began = self._drawn = time.monotonic()
        self._state = "starting"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._draw("failed" if kind else "done", end="\n")

    def show(self, line: str) -> None:
        for pattern, text in self.STEPS:
            if found := pattern.match(line):
                self._state = text.format(*found.groups())
        pause = 0.2 if self._terminal else self.QUIET_SECONDS
        if time.monotonic() - self._drawn > pause:
            self._draw(self._state)

    def _draw(self, state: str, end: str = "") -> None:
        self._drawn = time.monotonic()
        minutes, seconds = divmod(int(self._drawn - self._began), 60)
        text = f"  {minutes:2}:{seconds:02}  {self._what}: {state}"
        if self._terminal:
            width = shutil.get_terminal_size().columns - 1
            print(f"\r{text[:width]:<{width}}", end=end, flush=True)
        else:
            print(text, flush=True)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("\nstopped; run it again and it goes on where it was")
