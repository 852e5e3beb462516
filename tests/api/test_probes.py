"""Probes through the life of the service: loading, live, failed."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from app.errors import WeightsNotBuilt
from app.main import model_loader
from app.serving.batcher import Loaded
from app.settings import Settings
from tests.api.test_problems import check
from tests.conftest import PATIENCE, Running, wait_for
from tests.fake_artifact import write_fake_artifact

PROBES = ("/livez", "/startupz", "/readyz", "/health")


def statuses(service: Running) -> list[int]:
    return [service.client.get(path).status_code for path in PROBES]


def test_probes_answer_while_a_model_loads(run: Callable[..., Running], settings: Settings) -> None:
    """During load: live, not started, not ready, work refused with 503; afterwards all is well."""
    go_on = threading.Event()

    def load(name: str) -> Loaded:
        assert go_on.wait(PATIENCE)
        return model_loader(settings)(name)

    service = run(load)
    assert statuses(service) == [200, 503, 503, 503]
    check(service.client.get("/readyz"), 503, "not-ready")
    check(service.classify("hello"), 503, "not-ready")
    assert service.client.get("/v1/models").json()["models"][0]["state"] == "loading"
    assert service.client.get("/v1/models/storefront").json()["version"] is None
    go_on.set()
    wait_for(lambda: statuses(service) == [200, 200, 200, 200])


def test_failed_model_is_told_and_the_others_serve(
    run: Callable[..., Running], fake_store: Path
) -> None:
    """A damaged artifact keeps readiness at 503 with its reason, while the good model answers."""
    write_fake_artifact(fake_store, "broken")
    head = fake_store / "broken/1/head.safetensors"
    head.write_bytes(head.read_bytes()[:-1] + b"?")
    service = run(models=("storefront", "broken"))
    wait_for(lambda: service.client.get("/startupz").status_code == 200)
    content = check(service.client.get("/readyz"), 503, "not-ready")
    assert "broken" in str(content["detail"])
    assert "head.safetensors" in str(content["detail"])
    assert service.classify("where is my order").status_code == 200
    check(service.classify("where is my order", model="broken"), 503, "not-ready")
    states = {m["name"]: m["state"] for m in service.client.get("/v1/models").json()["models"]}
    assert states == {"storefront": "live", "broken": "failed"}


def test_server_stops_with_a_failure_when_no_model_lives(
    run: Callable[..., Running], fake_store: Path
) -> None:
    """With nothing to serve the server ends by itself and keeps the reason."""
    shutil.rmtree(fake_store / "storefront")
    service = run()
    wait_for(lambda: service.lifecycle.failure)
    assert "storefront" in str(service.lifecycle.failure)
    wait_for(lambda: not service._thread.is_alive())


def test_reason_says_what_to_do(run: Callable[..., Running], settings: Settings) -> None:
    """Weights that were never built are told as such, with the command that builds them."""

    def load(name: str) -> Loaded:
        if name == "storefront":
            return model_loader(settings)(name)
        raise WeightsNotBuilt(f"{name}/1 has no weights: run `shopintent models build {name}`")

    service = run(load, models=("storefront", "other"))
    wait_for(lambda: service.client.get("/startupz").status_code == 200)
    assert "shopintent models build other" in service.client.get("/readyz").json()["detail"]


def test_unforeseen_load_failure_keeps_its_words_to_itself(run: Callable[..., Running]) -> None:
    """An exception nobody named becomes a reason without its message."""

    def load(name: str) -> Loaded:
        raise RuntimeError("swordfish")

    service = run(load)
    wait_for(lambda: service.lifecycle.failure)
    assert "RuntimeError" in str(service.lifecycle.failure)
    assert "swordfish" not in str(service.lifecycle.failure)


@pytest.mark.parametrize("kind", ["application/openmetrics-text", "text/plain"])
@pytest.mark.parametrize("version", ["foo", "1.x", "\xb2", "1!9"])
def test_metrics_of_a_version_that_is_none_are_plain(
    service: Running, kind: str, version: str
) -> None:
    """A scraper that asks oddly still gets its numbers, in the format that all can read."""
    accept = f"{kind};version={version}".encode("latin-1")
    response = service.client.get("/metrics", headers={b"accept": accept})
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")


def test_probes_answer_head_as_get(service: Running) -> None:
    """Some balancers ask so: the same status and headers, and no body."""
    for path in (*PROBES, "/v2/health/live", "/v2/health/ready"):
        answer, head = service.client.get(path), service.client.head(path)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-length"] == answer.headers["content-length"]
    service.lifecycle.draining = True
    try:
        assert service.client.head("/livez").status_code == 200
        assert service.client.head("/readyz").status_code == 503
    finally:
        service.lifecycle.draining = False
