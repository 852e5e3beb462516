"""The default model, served as a user serves it; one process for nearly all of these tests."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from app.artifacts.store import Artifact, Store
from app.errors import ArtifactError
from tests.process import ROOT, Process

STORE = ROOT / "model_store"
NAME = "storefront"
PATIENCE = 240.0
"""Seconds that one answer or one start may take: the machine may be small, and others work on it."""

Answer = dict[str, Any]


class Storefront(Process):
    """The service with the default model. ``client`` gives it time; callers may ask in parallel."""

    client: httpx.Client

    def __enter__(self) -> Self:
        self.client = httpx.Client(
            base_url=self.url,
            timeout=PATIENCE,
            headers={"Request-Timeout-Ms": str(round(PATIENCE * 1e3))},
            limits=httpx.Limits(max_connections=None),
        )
        return super().__enter__()

    def __exit__(self, *error: object) -> None:
        self.client.close()
        super().__exit__(*error)

    def wait_until_ready(self, patience: float = PATIENCE) -> Self:
        return super().wait_until_ready(patience)

    def classify(self, text: str, **more: object) -> Answer:
        """The answer to a message that must be answered."""
        response = self.client.post("/v1/classify", json={"text": text, **more})
        assert response.status_code == 200, response.text
        return response.json()

    def classify_batch(self, texts: list[str], **more: object) -> list[Answer]:
        response = self.client.post("/v1/classify/batch", json={"texts": texts, **more})
        assert response.status_code == 200, response.text
        return response.json()["results"]

    def metric(self, name: str, **labels: str) -> float:
        """A sample's value, summed over the labels that are not given; 0 before there is one."""
        return sum(
            sample.value
            for family in text_string_to_metric_families(self.client.get("/metrics").text)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )


@dataclass(frozen=True)
class Expected:
    """A message of a customer and what it should be taken for."""

    text: str
    intent: str


@pytest.fixture(scope="session")
def artifact() -> Artifact:
    """The published default model with its weights as they were built here."""
    if not (STORE / NAME).is_dir():
        pytest.skip("this copy of the sources has no default model")
    try:
        artifact = Store(STORE).resolve(NAME)
        artifact.weights_path()
    except ArtifactError as error:
        pytest.fail(f"{error}. `shopintent models build` builds the weights.", pytrace=False)
    return artifact


@pytest.fixture(scope="session")
def storefront(
    artifact: Artifact, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Storefront]:
    """Ready, and with the result cache off: every answer is computed."""
    log = tmp_path_factory.mktemp("storefront") / "log"
    settings = {"INTENT_MODELS": NAME, "INTENT_CACHE_BYTES": "0", "INTENT_LOG_LEVEL": "debug"}
    with Storefront(STORE, log, **settings) as process:
        yield process.wait_until_ready()
        assert process.stop(PATIENCE) == 0


@pytest.fixture(scope="session")
def messages() -> list[Expected]:
    """Fifty messages that were written before training and never trained on."""
    path = Path(__file__).with_name("acceptance_messages.jsonl")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [Expected(row["text"], row["intent"]) for row in rows]


@pytest.fixture(scope="session")
def answers(storefront: Storefront, messages: list[Expected]) -> list[Answer]:
    """The fifty answers, asked one after the other."""
    return [storefront.classify(message.text, top_k=100) for message in messages]
