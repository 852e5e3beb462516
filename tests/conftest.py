"""Fixtures of the whole suite: a store with a real small artifact, and the service running on it."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import httpx
import pytest

from app.main import create_app
from app.server import DrainingServer
from app.serving.batcher import Load
from app.serving.lifecycle import Lifecycle
from app.settings import Settings
from tests.fake_artifact import write_fake_artifact

PATIENCE = 30.0
"""Seconds that any wait in a test may take: machines are shared, and only a hang is a failure."""

LONG = ("tests/e2e/", "tests/browser/", "tests/training/test_stage_one", "tests/training/test_cart")
"""What takes longest begins first: begun last, it would keep one process waiting for the other."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: not item.nodeid.startswith(LONG))


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def fake_store(tmp_path: Path) -> Path:
    """A store with one published artifact of the format "fake", named storefront."""
    store = tmp_path / "store"
    write_fake_artifact(store)
    return store


@pytest.fixture
def settings(fake_store: Path) -> Settings:
    return _settings(fake_store)


def _settings(store: Path) -> Settings:
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ:
            if name.startswith("INTENT_"):
                patch.delenv(name)
        return Settings(store_dir=store, threads=1, drain_seconds=0)


class Running:
    """The service in a thread of this process, on a real socket."""

    def __init__(self, settings: Settings, load: Load | None = None) -> None:
        self.lifecycle = Lifecycle()
        app = create_app(settings, lifecycle=self.lifecycle, load=load)
        self.server = DrainingServer(
            app,
            self.lifecycle,
            host="127.0.0.1",
            port=0,
            drain_seconds=settings.drain_seconds,
            read_seconds=settings.read_seconds,
        )
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self.server.run, args=([self._socket],))

    def __enter__(self) -> Self:
        self._thread.start()
        wait_for(lambda: self.server.started)
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=PATIENCE)
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self.server.should_exit = True
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()

    def wait_until_ready(self) -> Self:
        wait_for(lambda: self.client.get("/readyz").status_code == 200)
        return self

    def classify(self, text: str, **more: object) -> httpx.Response:
        return self.client.post("/v1/classify", json={"text": text, **more})


@pytest.fixture
def run(settings: Settings) -> Iterator[Callable[..., Running]]:
    """Starts services with changed settings or another loader; stops them after the test."""
    started: list[Running] = []

    def start(load: Load | None = None, **changes: object) -> Running:
        running = Running(settings.model_copy(update=changes), load)
        started.append(running)
        return running.__enter__()

    yield start
    for running in reversed(started):
        running.__exit__()


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A ready service on the fake artifact, shared by the tests that only ask it."""
    store = tmp_path_factory.mktemp("store")
    write_fake_artifact(store)
    with Running(_settings(store)) as running:
        yield running.wait_until_ready()


@pytest.fixture(scope="module")
def service_with(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Running]]:
    """Starts ready services with changed settings that the tests of a module share."""
    store = tmp_path_factory.mktemp("store")
    write_fake_artifact(store)
    with ExitStack() as started:

        def start(**changes: object) -> Running:
            running = Running(_settings(store).model_copy(update=changes))
            return started.enter_context(running).wait_until_ready()

        yield start


def wait_for(condition: Callable[[], object], patience: float = PATIENCE) -> None:
    """Until ``condition()`` is true."""
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.005)
