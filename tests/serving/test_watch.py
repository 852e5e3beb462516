"""The store is looked at: what becomes active there is served after its checks."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from app.artifacts.store import Store
from app.serving import watch
from tests.conftest import Running, wait_for
from tests.fake_artifact import write_fake_artifact


@pytest.fixture
def watching(run: Callable[..., Running]) -> Running:
    return run(watch_seconds=0.02).wait_until_ready()


def version(service: Running) -> str:
    return service.classify("hello there").json()["model"]["version"]


def change(service: Running) -> dict[str, object]:
    return service.client.get("/v1/admin/models/storefront").json()["change"]


def test_published_version_is_taken_up(watching: Running, fake_store: Path) -> None:
    """No call, no restart."""
    assert version(watching) == "1"
    write_fake_artifact(fake_store, version="2")
    wait_for(lambda: version(watching) == "2")
    assert change(watching)["kind"] == "watch"


def test_activated_version_is_taken_up(watching: Running, fake_store: Path) -> None:
    """Also when the command line goes back to an older one."""
    write_fake_artifact(fake_store, version="2")
    wait_for(lambda: version(watching) == "2")
    Store(fake_store).roll_back("storefront")
    wait_for(lambda: version(watching) == "1")


def test_half_copied_version_waits_until_it_is_whole(watching: Running, fake_store: Path) -> None:
    """A copy whose manifest came first is refused while a file is missing, and served once it is there."""
    write_fake_artifact(fake_store / "elsewhere", version="2")
    whole = fake_store / "elsewhere" / "storefront" / "2"
    target = fake_store / "storefront" / "2"
    target.mkdir()
    for name in ("manifest.json", "head.safetensors"):
        shutil.copy(whole / name, target)
    wait_for(lambda: (change(watching) or {}).get("state") == "refused")
    assert "missing" in str(change(watching)["reason"])
    assert version(watching) == "1"
    for path in whole.iterdir():
        shutil.copy(path, target)
    wait_for(lambda: version(watching) == "2")


def test_refused_version_is_not_tried_again_and_again(watching: Running, fake_store: Path) -> None:
    """One attempt for one state of the files."""
    write_fake_artifact(fake_store / "elsewhere", version="2")
    damaged = fake_store / "elsewhere" / "storefront" / "2"
    (damaged / "head.safetensors").write_bytes(b"nothing")
    damaged.replace(fake_store / "storefront" / "2")
    wait_for(lambda: (change(watching) or {}).get("state") == "refused")
    first = change(watching)["began"]
    wait_for(lambda: watching.client.get("/readyz").status_code == 200)
    for _ in range(10):
        assert version(watching) == "1"
    assert change(watching)["began"] == first


def test_a_store_that_cannot_be_read_at_first_is_watched_all_the_same(
    run: Callable[..., Running], fake_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that goes away under the very first look, or a share that hangs, ends nothing for good."""
    looks = 0

    def look(store: Store, name: str) -> watch.Look | None:
        nonlocal looks
        looks += 1
        if looks == 1:
            raise FileNotFoundError(2, "No such file or directory")
        return whole(store, name)

    whole = watch.look
    monkeypatch.setattr(watch, "look", look)
    service = run(watch_seconds=0.02).wait_until_ready()
    wait_for(lambda: looks > 3)
    assert change(service) is None
    write_fake_artifact(fake_store, version="2")
    wait_for(lambda: version(service) == "2")


def test_it_is_off_by_default(service: Running) -> None:
    """What is served changes when somebody says so."""
    assert service.client.get("/v1/admin/models/storefront").json()["change"] is None
