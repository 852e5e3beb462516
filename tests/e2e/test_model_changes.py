"""The served version changes under real load, on the real model."""

from __future__ import annotations

import shutil
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from app.artifacts.manifest import MANIFEST
from app.artifacts.shares import published_shares
from app.artifacts.store import BUILD, WEIGHTS, Artifact
from tests.conftest import wait_for
from tests.e2e.conftest import NAME, PATIENCE, Storefront

pytestmark = pytest.mark.weights

ADMIN = f"/v1/admin/models/{NAME}"


def copy_as(artifact: Artifact, version: str, store: Path) -> Path:
    """The model under another version; unchanged files are links."""
    directory = store / NAME / version
    (directory / WEIGHTS).mkdir(parents=True)
    for entry in artifact.manifest.files:
        (directory / entry.path).symlink_to(artifact.directory / entry.path)
    manifest = artifact.manifest.model_copy(update={"version": version})
    (directory / MANIFEST).write_text(manifest.model_dump_json())
    shutil.copyfile(artifact.weights_directory / BUILD, directory / WEIGHTS / BUILD)
    weights = artifact.weights_path()
    (directory / WEIGHTS / weights.name).symlink_to(weights)
    return directory


@pytest.fixture
def process(artifact: Artifact, tmp_path: Path) -> Iterator[Storefront]:
    """Serves version 1 of three; the weights of the third have lost their second half."""
    store = tmp_path / "store"
    for version in ("1", "2", "3"):
        directory = copy_as(artifact, version, store)
    weights = directory / WEIGHTS / artifact.weights_path().name
    content = weights.read_bytes()
    weights.unlink()
    weights.write_bytes(content[: len(content) // 2])
    (store / NAME / "active").write_text("1\n")
    with Storefront(store, tmp_path / "log", INTENT_CACHE_BYTES="0") as process:
        yield process.wait_until_ready()


def test_no_request_is_lost_while_versions_change(process: Storefront) -> None:
    """Four callers, a good version, a damaged one and the way back: each request has its answer."""
    seen: Counter[str] = Counter()
    stop = threading.Event()

    def ask(caller: int) -> None:
        for turn in range(100_000):
            if stop.is_set():
                return
            answer = process.classify(f"where is order {caller}-{turn}")
            assert answer["intent"] == "order_status"
            seen[answer["model"]["version"]] += 1

    def change(what: str, **body: str) -> int:
        url = f"{ADMIN}/{what}?wait={PATIENCE}"
        status = process.client.post(url, json=body).status_code
        answered = seen.total()
        wait_for(lambda: seen.total() > answered + 8, PATIENCE)
        return status

    with ThreadPoolExecutor(4) as callers:
        asked = [callers.submit(ask, number) for number in range(4)]
        try:
            assert change("activate", version="2") == 200
            assert seen["2"]
            assert change("activate", version="3") == 409
            assert change("rollback") == 200
        finally:
            stop.set()
        for one in asked:
            one.result(PATIENCE)
    assert set(seen) == {"1", "2"}
    told = process.client.get(ADMIN).json()
    assert (told["version"], told["active"], told["change"]["kind"]) == ("1", "1", "rollback")
    assert (
        process.metric("intent_requests_total", route="/v1/classify", status="200") == seen.total()
    )
    assert process.metric("intent_model_changes_total", result="refused") == 1
    assert process.metric("intent_queue_tokens") == 0


def test_drift_has_a_reference_on_the_default_model(artifact: Artifact) -> None:
    """The manifest or the report tells how often each intent is to be expected."""
    shares = published_shares(artifact)
    assert shares is not None
    assert set(shares) == set(artifact.manifest.intents)
    assert sum(shares.values()) == pytest.approx(1)
