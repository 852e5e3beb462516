"""Print the bill of materials of this file system as CycloneDX 1.6: `python sbom.py --store DIR`.

Run inside an image while it is built: it lists the Python packages of the interpreter that runs it, the
Debian packages, and the models with the digests of their weights. Standard library only. The same image
gives the same bytes: there is no time and no random number in it.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import uuid
from collections.abc import Iterator
from importlib.metadata import Distribution, distributions, version
from pathlib import Path
from typing import Any
from urllib.parse import quote

Component = dict[str, Any]

_NAMESPACE = uuid.UUID("6f2f3c0e-4b0e-5d0a-9d55-3a2a1f0c8f11")


def main() -> None:
    """Write the document to standard output."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", type=Path, help="a model store")
    store = parser.parse_args().store
    components = [*python_packages(), *debian_packages(), *(models(store) if store else ())]
    json.dump(document(components), sys.stdout, indent=1)
    print()


def document(components: list[Component]) -> dict[str, Any]:
    """The whole, its components in a fixed order."""
    ordered = sorted(components, key=lambda one: one["bom-ref"])
    name = uuid.uuid5(_NAMESPACE, json.dumps(ordered, sort_keys=True))
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{name}",
        "version": 1,
        "metadata": {
            "component": {
                "type": "container",
                "bom-ref": "image",
                "name": "shopintent",
                "version": version("shopintent"),
            }
        },
        "components": ordered,
    }


def python_packages() -> Iterator[Component]:
    """Every distribution on this interpreter's path."""
    seen: set[str] = set()
    for distribution in distributions():
        name = distribution.metadata["Name"].lower().replace("_", "-")
        if name not in seen:
            seen.add(name)
            yield _library(
                name, distribution.version, f"pkg:pypi/{name}@{quote(distribution.version)}",
                _licence(distribution),
            )  # fmt: skip


def _licence(distribution: Distribution) -> list[dict[str, Any]]:
    """What the package says of itself: an SPDX expression where there is one, else words."""
    metadata = distribution.metadata
    for expression in metadata.get_all("License-Expression") or ():
        return [{"expression": expression}]
    for classifier in metadata.get_all("Classifier") or ():
        if classifier.startswith("License ::"):
            return [{"license": {"name": classifier.rsplit(" :: ", 1)[-1]}}]
    words = "".join(metadata.get_all("License") or ()).strip()
    return [{"license": {"name": words}}] if words and "\n" not in words else []


def debian_packages() -> Iterator[Component]:
    """What dpkg has installed; nothing where there is no dpkg."""
    wanted = "${Package}\t${Version}\t${Architecture}\t${db:Status-Abbrev}\n"
    try:
        answer = subprocess.run(
            ["/usr/bin/dpkg-query", "--show", f"--showformat={wanted}"],
            check=True,
            capture_output=True,
            text=True,
        )
    except FileNotFoundError:
        return
    # The GPU image is Ubuntu: whoever looks for a vulnerable version looks in its vendor's list.
    vendor = platform.freedesktop_os_release().get("ID", "debian")
    for line in answer.stdout.splitlines():
        name, release, architecture, status = line.split("\t")
        if status.startswith("ii"):
            purl = f"pkg:deb/{vendor}/{quote(name)}@{quote(release)}?arch={architecture}"
            yield _library(name, release, purl, [])


def models(store: Path) -> Iterator[Component]:
    """Every published version in the store, with the digest of its manifest's files and weights."""
    for path in sorted(store.glob("*/*/manifest.json")):
        manifest = json.loads(path.read_text())
        build = path.parent / "weights" / "build.json"
        digest = json.loads(build.read_text())["sha256"] if build.is_file() else None
        yield {
            "type": "machine-learning-model",
            "bom-ref": f"model/{manifest['name']}/{manifest['version']}",
            "name": manifest["name"],
            "version": manifest["version"],
            "licenses": [{"license": {"name": manifest["licence"]}}],
            **({"hashes": [{"alg": "SHA-256", "content": digest}]} if digest else {}),
        }


def _library(name: str, release: str, purl: str, licences: list[dict[str, Any]]) -> Component:
    found: Component = {
        "type": "library",
        "bom-ref": purl,
        "name": name,
        "version": release,
        "purl": purl,
    }
    return {**found, "licenses": licences} if licences else found


if __name__ == "__main__":
    main()
