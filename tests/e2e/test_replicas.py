"""Two replicas behind the shipped nginx configuration: the fake model, real processes."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.load.replicas import Nginx, Replicas, steps, under_load

pytestmark = pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed")


@pytest.fixture
def replicas(fake_store: Path, tmp_path: Path) -> Iterator[Replicas]:
    with Replicas(fake_store, tmp_path) as running:
        yield running


@pytest.fixture
def nginx(replicas: Replicas, tmp_path: Path) -> Iterator[Nginx]:
    with Nginx(tmp_path, replicas.ports) as running:
        yield running


def test_no_request_is_lost(replicas: Replicas, nginx: Nginx) -> None:
    """One replica is stopped, the other killed, each replaced: every caller gets an answer."""
    answers, began = asyncio.run(under_load(nginx.port, 40, 12, steps(replicas)))
    assert set(began) == {"SIGTERM", "SIGKILL", "replaced"}
    assert {answer.status for answer in answers} == {200}
    assert {one["upstream"].split()[-1] for one in nginx.requests()} == {
        f"127.0.0.1:{port}" for port in replicas.ports
    }


def test_replica_that_is_just_back_is_asked(replicas: Replicas, nginx: Nginx) -> None:
    """Where both have failed within a second, the one that lives by now still answers."""

    def ask() -> int:
        return httpx.post(
            f"{nginx.url}/v1/classify", json={"text": "where is my order"}
        ).status_code

    for number, other in ((0, 1), (1, 0)):
        replicas.kill(number)
        assert [ask() for _ in range(4)] == [200] * 4  # each replica has its turn
        replicas.put_back(number)
        replicas.kill(other)
        assert [ask() for _ in range(4)] == [200] * 4
        replicas.put_back(other)


def test_without_a_replica_callers_are_told_in_our_words(replicas: Replicas, nginx: Nginx) -> None:
    """nginx speaks problem+json too, and says when to come again."""
    for number in (0, 1):
        replicas.kill(number)
    response = httpx.post(f"{nginx.url}/v1/classify", json={"text": "where is my order"})
    assert response.status_code == 503
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["retry-after"]
    assert response.json()["status"] == 503


def test_refusals_are_the_services_own(nginx: Nginx) -> None:
    """A body that is too large, a route that is not there: nginx leaves the answer to the service."""
    large = httpx.post(f"{nginx.url}/v1/classify", json={"text": "x" * 1_500_000})
    assert large.status_code == 413
    assert large.headers["content-type"] == "application/problem+json"
    assert httpx.get(f"{nginx.url}/nowhere").headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("path", ["/metrics", "/v1/admin/models"])
def test_what_belongs_to_one_replica_is_not_balanced(nginx: Nginx, path: str) -> None:
    """Numbers and models are each replica's own."""
    assert httpx.get(nginx.url + path).status_code == 404
    assert nginx.requests()[-1]["upstream"] == ""


def test_messages_are_not_logged(nginx: Nginx, tmp_path: Path) -> None:
    """The access log has paths, and no word of a customer's."""
    httpx.post(f"{nginx.url}/v1/classify?text=swordfish", json={"text": "swordfish"})
    assert nginx.requests()[-1]["path"] == "/v1/classify"
    assert "swordfish" not in (tmp_path / "access.log").read_text()
