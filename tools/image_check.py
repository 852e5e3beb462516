"""Build Dockerfile.cpu without a Docker engine and try the image: `make image-check`.

Needs Debian's debootstrap and buildah, and root. debootstrap makes a small Debian with Python, which
buildah files under the name that the Dockerfile asks for; then buildah builds on it, as Docker would,
and the file system that comes out is run as its own user on a read-only root. What stands between this
and a real registry image: the base is Debian's own Python 3.11, not Docker's build of it.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TAG = "localhost/shopintent:check"
LABELS = ("title", "description", "version", "revision", "base.name", "licenses")
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
LENT = ("index-url", "extra-index-url", "trusted-host", "find-links", "timeout")
"""Keys of pip's configuration that the build may see."""
COMPILERS = re.compile(r"(c\+\+|cc|g\+\+|gcc|clang|ld|as|make|cmake|ninja|cpp)(-[\d.]+)?")
PATIENCE = 180.0
"""Seconds that the service may take to be ready."""


def main() -> None:
    """Build, look inside, run; ends with status 1 at the first thing that is not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--work", type=Path, default=Path("/var/tmp/shopintent-image-check"),  # noqa: S108
        help="where base, layers and file system lie",
    )  # fmt: skip
    parser.add_argument(
        "--keep", action="store_true", help="keep the image, for another look with --reuse"
    )
    parser.add_argument("--reuse", action="store_true", help="try the image that is kept")
    parser.add_argument("--cpu-level", default="x86-64-v3", help="build argument CPU_LEVEL")
    chosen = parser.parse_args()
    missing = [name for name in ("debootstrap", "buildah", "setpriv") if not shutil.which(name)]
    if missing or os.geteuid() != 0:
        sys.exit(f"this check needs root and: {', '.join(missing) or 'root'} (apt install)")
    check = ImageCheck(chosen.work, chosen.cpu_level)
    try:
        if not chosen.reuse:
            check.base()
            check.build()
        check.inside()
        check.serve()
    finally:
        check.tidy(keep=chosen.keep)
    print("the image is as it should be")


class ImageCheck:
    """The steps, in order. Layers and the base lie in ``work``, not in the machine's own storage."""

    def __init__(self, work: Path, cpu_level: str) -> None:
        self.work = work
        self.cpu_level = cpu_level
        self._lent: list[str] = []
        self.dockerfile = (ROOT / "Dockerfile.cpu").read_text()
        work.mkdir(parents=True, exist_ok=True)

    # ------------------------------------------------------------------------------------ build

    def base(self) -> None:
        """File a small Debian under the name of the Dockerfile's base image."""
        found = re.search(r"^ARG PYTHON_IMAGE=(\S+)$", self.dockerfile, re.MULTILINE)
        assert found, "Dockerfile.cpu names no PYTHON_IMAGE"
        suite = found[1].rsplit("-", 1)[-1]
        archive = self.work / f"{suite}.tar"
        if not archive.exists():
            self._bootstrap(suite, archive)
        container = self._buildah("from", "scratch").strip()
        self._buildah("add", "--quiet", container, str(archive))
        self._buildah("config", "--cmd", "python3", container)
        self._buildah("commit", "--quiet", "--rm", container, found[1])

    def _bootstrap(self, suite: str, archive: Path) -> None:
        tree = self.work / "debian"
        shutil.rmtree(tree, ignore_errors=True)
        say(f"making a base of Debian {suite}")
        include = "--include=python3,ca-certificates"
        run("debootstrap", "--variant=minbase", include, suite, str(tree))
        for litter in ("var/cache/apt/archives", "var/lib/apt/lists"):
            shutil.rmtree(tree / litter)
            (tree / litter / "partial").mkdir(parents=True)
        (tree / "usr/local/bin/python").symlink_to("/usr/bin/python3")
        partial = archive.with_suffix(".partial")
        run(
            "tar",
            "--create",
            "--file",
            str(partial),
            "--directory",
            str(tree),
            "--one-file-system",
            ".",
        )
        partial.rename(archive)
        shutil.rmtree(tree)

    def build(self) -> None:
        """``buildah bud``, with pip's configuration of this machine lent as secrets."""
        say("building Dockerfile.cpu (llama.cpp is compiled: minutes)")
        secrets = [f"--secret=id={name},src={path}" for name, path in self._secrets().items()]
        self._buildah(
            "bud", "--isolation", "chroot", "--pull-never", "--format", "docker",
            "--build-arg", f"CPU_LEVEL={self.cpu_level}", "--build-arg", f"REVISION={revision()}",
            *secrets, "--file", "Dockerfile.cpu", "--tag", TAG, ".", show=True,
        )  # fmt: skip

    def _secrets(self) -> dict[str, Path]:
        """What the Dockerfile's steps may see of this machine: where pip looks, whom it trusts."""
        asked = subprocess.run(
            [sys.executable, "-m", "pip", "config", "list"],
            capture_output=True,
            text=True,
            check=True,
        )
        found = dict(re.findall(r"^(?:global|:env:)\.([\w-]+)='(.*)'$", asked.stdout, re.MULTILINE))
        certificates = Path(found.get("cert", os.environ.get("SSL_CERT_FILE", CERTIFICATES)))
        lent = {key: found[key] for key in LENT if key in found}
        # Folders of this machine are not there inside.
        lent = {key: value for key, value in lent.items() if not value.startswith(("/", "file:"))}
        if certificates.exists():
            lent["cert"] = CERTIFICATES
        written = self.work / "pip.conf"
        written.touch(mode=0o600)
        written.write_text("\n".join(["[global]", *(f"{k} = {v}" for k, v in lent.items()), ""]))
        self._lent = [value for key, value in lent.items() if key != "cert" and "/" in value]
        return {"pip": written} | ({"ca": certificates} if certificates.exists() else {})

    # ----------------------------------------------------------------------------------- inside

    def inside(self) -> None:
        """What the image says of itself, and what lies in it."""
        config = self.config()
        ensure(config["User"] == "10001", "runs as user 10001")
        given = config["Labels"]
        wanted = [f"org.opencontainers.image.{name}" for name in LABELS]
        ensure(all(given.get(name) for name in wanted), f"has the OCI labels {', '.join(LABELS)}")
        ensure(
            "/readyz" in " ".join(config["Healthcheck"]["Test"]), "has a health check on /readyz"
        )
        with self.mounted() as root:
            self._look_into(root)

    def _look_into(self, root: Path) -> None:
        programs = [
            path.name
            for folder in ("bin", "usr/bin", "usr/local/bin", "opt/shopintent/bin", "usr/sbin")
            for path in (root / folder).glob("*")
        ]
        compilers = sorted(name for name in programs if COMPILERS.fullmatch(name))
        ensure(not compilers, f"holds no compiler or build tool {compilers or ''}")
        libraries = next((root / "opt/shopintent/lib").glob("python3*/site-packages"))
        tools = [t for t in ("pip", "setuptools", "hatchling") if (libraries / t).exists()]
        ensure(not tools, f"holds no installer beside the service {tools or ''}")
        told = self._buildah("inspect", "--type", "image", TAG)
        kept = (root / "etc/pip.conf").exists() or any(one in told for one in self._lent)
        ensure(not kept, "kept nothing of pip's configuration")
        lent = subprocess.run(
            ["find", str(root), "-xdev", "-type", "f", "-perm", "/6000"], capture_output=True,
            text=True, check=True,
        ).stdout.split()  # fmt: skip
        ensure(not lent, "has no program that lends another user's rights")
        bom = json.loads((root / "srv/sbom/shopintent.cdx.json").read_text())
        kinds = [one["bom-ref"].split("/")[0] for one in bom["components"]]
        counts = {kind: kinds.count(kind) for kind in sorted(set(kinds))}
        ensure(
            {"pkg:deb", "pkg:pypi", "model"} <= set(counts),
            f"carries its bill of materials {counts}",
        )
        size = subprocess.run(["du", "-sm", str(root)], capture_output=True, text=True, check=True)
        say(f"   size: {size.stdout.split()[0]} MB unpacked")

    def config(self) -> dict[str, Any]:
        """The image's own configuration."""
        found: dict[str, Any] = json.loads(self._buildah("inspect", "--type", "image", TAG))
        config: dict[str, Any] = found["Docker"]["config"]
        return config

    # ------------------------------------------------------------------------------------ serve

    def serve(self) -> None:
        """Run the image's own command as its own user, the root read-only and /tmp in memory."""
        config = self.config()
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        environment = dict(one.split("=", 1) for one in config["Env"])
        environment |= {"INTENT_PORT": str(port), "INTENT_AUTH": "off", "INTENT_HOST": "127.0.0.1"}
        with self.mounted() as root, self.read_only(root) as inner:
            began = time.monotonic()
            service = self._enter(
                inner, config, environment, [*config["Entrypoint"], *config["Cmd"]]
            )
            try:
                wait_until_ready(f"http://127.0.0.1:{port}", service)
                say(f"   ready after {time.monotonic() - began:.1f} s")
                self._ask(port)
                health = self._enter(inner, config, environment, config["Healthcheck"]["Test"][1:])
                ensure(health.wait(30) == 0, "its health check passes")
                uids = re.search(r"^Uid:(.*)$", _status_of(service.pid), re.MULTILINE)
                ensure(uids is not None and set(uids[1].split()) == {"10001"}, "is nobody special")
                service.send_signal(signal.SIGTERM)
                ensure(service.wait(90) == 0, "ends with status 0 on SIGTERM")
                health = self._enter(
                    inner,
                    config,
                    environment,
                    config["Healthcheck"]["Test"][1:],
                    subprocess.DEVNULL,
                )
                ensure(health.wait(30) != 0, "its health check fails when it is gone")
            finally:
                if service.poll() is None:
                    service.kill()
                    service.wait()

    def _ask(self, port: int) -> None:
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/v1/classify",
            data=json.dumps({"text": "put two of the blue mugs in my basket"}).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as response:
            answer = json.load(response)
        ensure(answer["intent"] == "cart_add", f"answers /v1/classify: {answer['intent']}")

    @staticmethod
    def _enter(
        root: Path,
        config: dict[str, Any],
        environment: dict[str, str],
        command: Sequence[str],
        errors: int | None = None,
    ) -> subprocess.Popen[bytes]:
        """A command inside, without rights, in the image's working directory."""
        inner = ["env", "-i", *(f"{k}={v}" for k, v in environment.items()), *command]
        user = config["User"]
        entered = [
            "setpriv", "--reuid", user, "--regid", user, "--clear-groups", "--no-new-privs",
            "--inh-caps=-all", "--bounding-set=-all", "env", f"--chdir={config['WorkingDir']}", *inner,
        ]  # fmt: skip
        return subprocess.Popen(
            ["chroot", str(root), *entered], stdout=subprocess.DEVNULL, stderr=errors
        )

    @contextmanager
    def mounted(self) -> Iterator[Path]:
        """The image's file system."""
        container = self._buildah("from", "--pull-never", TAG).strip()
        try:
            yield Path(self._buildah("mount", container).strip())
        finally:
            self._buildah("rm", container)

    @contextmanager
    def read_only(self, root: Path) -> Iterator[Path]:
        """The same where nothing but /tmp can be written, as with ``docker run --read-only``."""
        inner = self.work / "root"
        inner.mkdir(exist_ok=True)
        mounts = [
            ("--bind", str(root), str(inner)),
            ("-o", "remount,bind,ro,nosuid,nodev", str(inner)),
            ("-t", "tmpfs", "-o", "size=64m,mode=1777", "tmpfs", str(inner / "tmp")),
            ("-t", "proc", "-o", "ro", "proc", str(inner / "proc")),
            ("--bind", "/dev", str(inner / "dev")),
        ]
        try:
            for arguments in mounts:
                run("mount", *arguments)
            yield inner
        finally:
            subprocess.run(["umount", "--recursive", "--lazy", str(inner)], check=False)

    # ------------------------------------------------------------------------------------------

    def tidy(self, *, keep: bool) -> None:
        """Give the disk back; the base stays."""
        (self.work / "pip.conf").unlink(missing_ok=True)
        if keep:
            self._buildah("rm", "--all")
        else:
            for folder in ("storage", "runroot"):
                shutil.rmtree(self.work / folder, ignore_errors=True)

    def _buildah(self, *arguments: str, show: bool = False) -> str:
        storage = ["--storage-driver", "vfs", "--root", str(self.work / "storage")]
        command = ["buildah", *storage, "--runroot", str(self.work / "runroot"), *arguments]
        if show:
            subprocess.run(command, cwd=ROOT, check=True)
            return ""
        return subprocess.run(
            command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
        ).stdout


def wait_until_ready(address: str, service: subprocess.Popen[bytes]) -> None:
    """Until /readyz says 200."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if service.poll() is not None:
            sys.exit(f"the service ended with status {service.returncode}")
        try:
            with urllib.request.urlopen(f"{address}/readyz", timeout=5):
                return
        except OSError:  # not there yet, or 503
            time.sleep(0.2)
    sys.exit("the service was not ready in time")


def _status_of(pid: int) -> str:
    return Path(f"/proc/{pid}/status").read_text()


def revision() -> str:
    """The commit that is checked out."""
    asked = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return asked.stdout.strip() or "unknown"


def run(*command: str) -> None:
    """A command whose output nobody needs; raises when it fails."""
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def ensure(holds: bool, what: str) -> None:
    """Say that it holds, or end."""
    if not holds:
        sys.exit(f"✗ the image should be so: {what}")
    say(f"✓ {what.strip()}")


def say(what: str) -> None:
    """A line on standard output, at once."""
    print(what, flush=True)


if __name__ == "__main__":
    main()
