"""What is shipped: the wheel, its metadata, the locks, the images' ingredients."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from app.artifacts.store import Store

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCKS = sorted((ROOT / "requirements").glob("*.lock"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    return zipfile.ZipFile(next(folder.glob("*.whl")))


def pins(lock: Path) -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9][a-z0-9._-]*)==([^\s\\]+)", lock.read_text(), re.MULTILINE))


def test_wheel_holds_the_service_and_its_page(wheel: zipfile.ZipFile) -> None:
    """Who installs the wheel can serve, the try-it page included."""
    names = set(wheel.namelist())
    assert {"app/cli.py", "app/main.py", "app/api/static/index.html"} <= names


def test_wheel_holds_nothing_else(wheel: zipfile.ZipFile) -> None:
    """Training, tests and models stay out of what is installed."""
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"app"}


def test_wheel_carries_the_licence(wheel: zipfile.ZipFile) -> None:
    """Licence and notice travel with the code."""
    names = [name.rsplit("/", 1)[-1] for name in wheel.namelist()]
    assert {"LICENSE", "NOTICE"} <= set(names)


def test_changelog_tells_of_this_version() -> None:
    """The version being built has its entry."""
    assert f"## {PROJECT['version']} " in (ROOT / "CHANGELOG.md").read_text()


def test_console_script_is_the_command_line() -> None:
    """`shopintent` runs app.cli."""
    entry = importlib.metadata.entry_points(group="console_scripts", name="shopintent")
    assert [point.value for point in entry] == ["app.cli:app"]


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_every_locked_package_is_hashed(lock: Path) -> None:
    """pip refuses any file that is not the one locked."""
    blocks = re.split(r"^(?=[a-z0-9])", lock.read_text(), flags=re.MULTILINE)[1:]
    assert len(blocks) == len(pins(lock)) > 0
    assert all("--hash=sha256:" in block for block in blocks)


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_locks_name_no_host_and_no_folder(lock: Path) -> None:
    """Where packages come from is decided by the machine that installs them."""
    text = lock.read_text()
    assert "://" not in text
    options = re.findall(r"^\s*(--?[\w-]+)", text, re.MULTILINE)
    assert set(options) == {"--hash"}
    assert not re.search(r"(^|\s)/\w+", text)


def test_torch_is_in_no_lock() -> None:
    """Its hash differs from machine to machine; requirements/torch.txt pins its version."""
    assert not [lock.stem for lock in LOCKS if "torch" in pins(lock)]
    assert "torch==2.13.0" in (ROOT / "requirements" / "torch.txt").read_text()
    for extra in ("gpu", "train"):
        assert "torch==2.13.0" in PROJECT["optional-dependencies"][extra]


def test_locks_agree() -> None:
    """No set of packages moves a version that another one has installed."""
    seen: dict[str, set[str]] = {}
    for lock in LOCKS:
        for name, version in pins(lock).items():
            seen.setdefault(name, set()).add(version)
    assert {name: versions for name, versions in seen.items() if len(versions) > 1} == {}


def test_development_set_contains_the_serving_set() -> None:
    """`make run` has nothing to install after `make test`."""
    by_name = {lock.stem: pins(lock) for lock in LOCKS}
    assert by_name["serve-cpu"].items() <= by_name["dev"].items()


def test_direct_dependencies_are_locked() -> None:
    """The locks were made from this pyproject.toml."""
    extras = PROJECT["optional-dependencies"]
    wanted = {
        "serve-cpu": [*PROJECT["dependencies"], *extras["cpu"]],
        "dev": [*PROJECT["dependencies"], *extras["cpu"], *extras["dev"]],
        "train": extras["train"],
        "ray": [*PROJECT["dependencies"], *extras["ray"]],
        "serve-gpu": [*PROJECT["dependencies"], *extras["gpu"]],
    }
    for stem, requirements in wanted.items():
        names = {re.match(r"[\w.-]+", one)[0].lower() for one in requirements}  # type: ignore[index]
        assert names - {"torch"} <= set(pins(ROOT / "requirements" / f"{stem}.lock")), stem


def test_gemma_terms_travel_with_the_models() -> None:
    """The distribution clause of the Gemma Terms of Use is kept."""
    sentence = (
        "Gemma is provided under and subject to the Gemma Terms of Use found at "
        "ai.google.dev/gemma/terms"
    )
    assert sentence in (ROOT / "model_store" / "NOTICE-gemma.md").read_text()
    terms = (ROOT / "model_store" / "GEMMA_TERMS.md").read_text()
    assert "Section 1: DEFINITIONS" in terms
    assert "4.9 No Waiver" in terms


@pytest.mark.parametrize("name", ["Dockerfile.cpu", "Dockerfile.gpu"])
def test_image_is_run_by_nobody_special(name: str) -> None:
    """The last stage has no compiler, is not root, and says whether it is ready."""
    last = (ROOT / name).read_text().rsplit("\nFROM ", 1)[1]
    assert "USER 10001" in last
    assert "/readyz" in last
    assert "HEALTHCHECK" in last
    assert "build-essential" not in last


def test_image_builds_all_that_it_verifies(fake_store: Path) -> None:
    """The weights of every model of the store: any of them may be asked for, and one without fails.
    A folder without a version, as that of bases from elsewhere, is no model.
    """
    found = re.search(
        r"models build \\\n\s+\$\((find [^)]+)\)", (ROOT / "Dockerfile.cpu").read_text()
    )
    assert found is not None
    (fake_store / "bases").mkdir()
    (fake_store / "bases" / "my-base-0123.gguf").touch()
    for store in (ROOT / "model_store", fake_store):
        command = found[1].replace("/srv/model_store", str(store))
        built = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True)
        assert built.stdout.split() == list(Store(store).names())


def test_gpu_image_serves_checkpoints() -> None:
    """It has no llama.cpp, and the manifests of the store name GGUF first."""
    last = (ROOT / "Dockerfile.gpu").read_text().rsplit("\nFROM ", 1)[1]
    assert "INTENT_BACKEND=gptq" in last
