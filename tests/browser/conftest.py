"""A browser, axe-core, and services on the fake model, with and without keys."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator

import pytest

from tests.api.test_auth import KEYS
from tests.browser.chromium import CHROMIUM, Chromium, Tab, axe_core
from tests.conftest import Running, _settings
from tests.fake_artifact import write_fake_artifact
from tests.fake_cart import fake_cart


@pytest.fixture(scope="session")
def axe() -> str:
    if shutil.which("npm") is None:
        pytest.skip("npm fetches axe-core; `make test-browser` insists on it")
    return axe_core()


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    if CHROMIUM is None:
        pytest.skip("there is no Chromium here; `make test-browser` insists on one")
    with Chromium(tmp_path_factory.mktemp("chromium") / "profile") as browser:
        yield browser


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A ready service whose model reads carts."""
    store = tmp_path_factory.mktemp("shop")
    write_fake_artifact(store, cart=fake_cart())
    with Running(_settings(store)) as running:
        yield running.wait_until_ready()


@pytest.fixture(scope="session")
def guarded(shop: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The same, asking for keys."""
    store = tmp_path_factory.mktemp("guarded")
    write_fake_artifact(store, cart=fake_cart())
    settings = _settings(store).model_copy(update={"keys": KEYS})
    with Running(settings) as running:
        yield running.wait_until_ready()


@pytest.fixture
def tab(chromium: Chromium) -> Iterator[Tab]:
    """A page that must not complain."""
    with chromium.tab() as tab:
        tab.look()
        yield tab
        assert tab.complaints == []


@pytest.fixture
def page(tab: Tab, shop: Running) -> Callable[[str], Tab]:
    """Opens an address of the shop's service."""

    def open_page(path: str = "/") -> Tab:
        return tab.open(f"http://127.0.0.1:{shop.port}{path}")

    return open_page
