"""Prometheus itself scrapes a loaded service, and what dashboard and rules ask for is there."""

from __future__ import annotations

import math
import shutil
import threading
from collections.abc import Iterator
from itertools import count

import httpx
import pytest

from tests.conftest import PATIENCE, wait_for
from tests.fake_artifact import EXAMPLES, write_fake_artifact
from tests.fake_cart import SHOP, fake_cart
from tests.load.prometheus import Prometheus, dashboard_queries
from tests.process import Process

pytestmark = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="prometheus is not installed"
)

ADMIN = "/v1/admin/models/storefront"
TEXTS = [text for texts in EXAMPLES.values() for text in texts]


class Load:
    """Customers, some of whom send nonsense, until the end of the block."""

    def __init__(self, url: str) -> None:
        self.client = httpx.Client(base_url=url, timeout=PATIENCE)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> httpx.Client:
        self._thread.start()
        return self.client

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.client.close()

    def _run(self) -> None:
        for turn in count():
            if self._stop.wait(0.01):
                return
            self.client.post("/v1/classify", json={"text": TEXTS[turn % len(TEXTS)]})
            if turn % 5 == 0:
                self._cart_and_feedback(turn)
            if turn % 20 == 0:
                self.client.post("/v1/classify", json={"text": " "})
                self.client.post("/v1/classify/batch", json={"texts": TEXTS * 16})

    def _cart_and_feedback(self, turn: int) -> None:
        text = ("two green teas please", "take them out again")[turn % 2]
        self.client.post("/v1/cart", json={"text": text, "catalog": SHOP})
        decision = self.client.post("/v1/classify", json={"text": f"track parcel {turn}"}).json()
        given = {"id": decision["id"], "intent": ("order_status", "cart_add")[turn % 2]}
        self.client.post("/v1/feedback", json=given)


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Some seconds of load have been scraped, with changes of version and a shadow among them."""
    folder = tmp_path_factory.mktemp("prometheus")
    for version in ("1", "2", "3"):
        write_fake_artifact(folder / "store", version=version, cart=fake_cart())
    (folder / "store/storefront/3/head.safetensors").write_bytes(b"")
    (folder / "store/storefront/active").write_text("1\n")
    with (
        Process(
            folder / "store", folder / "log", INTENT_FEEDBACK_FILE=str(folder / "feedback")
        ) as service,
        Prometheus(folder, service.wait_until_ready().port, folder / "prometheus.log") as scraping,
        Load(service.url) as client,
    ):
        for version, status in (("2", 200), ("3", 409)):
            done = client.post(f"{ADMIN}/activate", json={"version": version})
            assert done.status_code == status
        shadow = client.put(f"{ADMIN}/shadow", json={"version": "1", "share": 1})
        assert shadow.status_code == 202
        drift = 'intent_drift_psi{reference="first"} >= 0'
        wait_for(lambda: scraping.ask(drift), 4 * PATIENCE)
        # Rates of what began last need two scrapes.
        wait_for(lambda: scraping.ask("rate(intent_shadow_messages_total[10s]) > 0"), PATIENCE)
        wait_for(lambda: scraping.ask("rate(intent_feedback_total[10s]) > 0"), PATIENCE)
        yield scraping


def test_every_panel_has_data(prometheus: Prometheus) -> None:
    """Each expression of the dashboard returns at least one number."""
    empty = []
    for query in dashboard_queries("10s"):
        values = [float(one["value"][1]) for one in prometheus.ask(query.expression)]
        if all(math.isnan(value) for value in values):
            empty.append((query.panel, query.expression))
    assert not empty


def test_every_rule_is_evaluated(prometheus: Prometheus) -> None:
    """No rule fails, each recorded series is there, and a healthy service under load wakes nobody."""

    def settled() -> bool:
        return all(rule["health"] == "ok" for rule in prometheus.rules())

    wait_for(lambda: prometheus.rules() and settled())
    rules = prometheus.rules()
    assert len(rules) >= 14
    for rule in rules:
        if rule["type"] == "recording":
            wait_for(lambda name=rule["name"]: prometheus.ask(name))
    firing = {rule["name"] for rule in rules if rule["type"] == "alerting" and rule["alerts"]}
    assert firing <= {"IntentModelLoadFailed"}, "only the damaged candidate may be told of"
    assert "IntentModelLoadFailed" in firing
