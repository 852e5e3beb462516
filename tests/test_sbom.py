"""The image's bill of materials."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parent.parent / "tools" / "sbom.py"


def printed(store: Path) -> bytes:
    return subprocess.run(
        [sys.executable, SCRIPT, "--store", store], capture_output=True, check=True
    ).stdout


@pytest.fixture
def bill(fake_store: Path) -> dict[str, Any]:
    build = fake_store / "storefront" / "1" / "weights" / "build.json"
    build.parent.mkdir()
    build.write_text(json.dumps({"sha256": "ab" * 32}))
    found: dict[str, Any] = json.loads(printed(fake_store))
    return found


def component(bill: dict[str, Any], name: str) -> dict[str, Any]:
    return next(one for one in bill["components"] if one["name"] == name)


def test_names_every_python_package_once(bill: dict[str, Any]) -> None:
    """Whoever looks for a vulnerable version finds it, by its package URL."""
    references = [one["bom-ref"] for one in bill["components"]]
    assert len(set(references)) == len(references)
    version = importlib.metadata.version("numpy")
    numpy = component(bill, "numpy")
    assert numpy["purl"] == f"pkg:pypi/numpy@{version}"
    assert numpy["licenses"]


def test_names_models_with_the_digest_of_their_weights(bill: dict[str, Any]) -> None:
    """What answers is known by its content, not only by its name."""
    model = component(bill, "storefront")
    assert (model["type"], model["version"]) == ("machine-learning-model", "1")
    assert model["hashes"] == [{"alg": "SHA-256", "content": "ab" * 32}]


def test_same_contents_give_the_same_bytes(fake_store: Path) -> None:
    """An image that is built again has the same bill."""
    assert printed(fake_store) == printed(fake_store)


@pytest.mark.skipif(not Path("/usr/bin/dpkg-query").exists(), reason="a machine without dpkg")
@pytest.mark.parametrize("vendor", ["debian", "ubuntu"])
def test_system_packages_are_those_of_the_system(
    vendor: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The CPU image is Debian and the GPU image Ubuntu; each patches its own versions."""
    monkeypatch.setattr(platform, "freedesktop_os_release", lambda: {"ID": vendor})
    packages = runpy.run_path(str(SCRIPT))["debian_packages"]()
    assert next(packages)["purl"].startswith(f"pkg:deb/{vendor}/")
