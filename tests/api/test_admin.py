"""``/v1/admin``: which version is served, as an operator sees it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.api.test_problems import check
from tests.conftest import Running, wait_for
from tests.fake_artifact import write_fake_artifact
from tests.versions import Versions

BASE = "/v1/admin/models/storefront"


@pytest.fixture
def two(fake_store: Path, run: Callable[..., Running]) -> Running:
    """Serves version 1 of two; a third one in the store is damaged."""
    for version in ("2", "3"):
        write_fake_artifact(fake_store, version=version)
    (fake_store / "storefront/3/head.safetensors").write_bytes(b"nothing")
    (fake_store / "storefront/active").write_text("1\n")
    return run().wait_until_ready()


def post(service: Running, what: str, **body: object) -> httpx.Response:
    return service.client.post(f"{BASE}/{what}", json=body)


def version(service: Running) -> str:
    return service.classify("hello there").json()["model"]["version"]


def test_activate_and_roll_back(two: Running, fake_store: Path) -> None:
    """Each is one call that answers when it is done, and the store remembers it."""
    answer = post(two, "activate", version="2").json()
    assert (answer["version"], answer["state"], answer["before"]) == ("2", "live", ["1"])
    assert answer["change"]["kept"] is True
    assert version(two) == "2"
    assert (fake_store / "storefront/active").read_text() == "2\n1\n"
    answer = post(two, "rollback").json()
    assert (answer["version"], answer["active"], answer["before"]) == ("1", "1", [])
    assert version(two) == "1"
    assert (fake_store / "storefront/active").read_text() == "1\n"


@pytest.fixture
def copied_in(run: Callable[..., Running], fake_store: Path) -> Running:
    """Version 2 is served; 3 came into the store meanwhile and was never live."""
    write_fake_artifact(fake_store, version="2")
    service = run().wait_until_ready()
    write_fake_artifact(fake_store, version="3")
    return service


def test_after_a_restart_it_goes_back_to_what_was_served(
    copied_in: Running, run: Callable[..., Running], fake_store: Path
) -> None:
    """Not to a version that was never live."""
    assert post(copied_in, "activate", version="1").json()["before"] == ["2"]
    assert (fake_store / "storefront/active").read_text() == "1\n2\n"
    again = run().wait_until_ready()
    assert post(again, "rollback").json()["version"] == "2"


def test_a_version_that_came_meanwhile_is_not_gone_back_from(copied_in: Running) -> None:
    """What is live counts, though a higher one lies in the store."""
    assert post(copied_in, "rollback").json()["version"] == "1"


def test_damaged_version_is_refused_with_the_reason(two: Running, fake_store: Path) -> None:
    """409 that names the file; the version before serves on, and stays so after a restart."""
    response = post(two, "activate", version="3")
    content = check(response, 409, "candidate-refused")
    assert "head.safetensors" in str(content["detail"])
    assert version(two) == "1"
    assert two.client.get(BASE).json()["change"]["state"] == "refused"
    assert (fake_store / "storefront/active").read_text() == "1\n"
    assert two.client.get("/readyz").status_code == 200


def test_reload_takes_up_what_the_store_says(two: Running, fake_store: Path) -> None:
    """After ``shopintent models activate`` of another process."""
    (fake_store / "storefront/active").write_text("2\n")
    assert post(two, "reload").json()["version"] == "2"


def test_unknown_names_and_versions(two: Running) -> None:
    """404 for what is not served or not in the store; 422 for what is no version."""
    check(post(two, "activate", version="9"), 404, "unknown-model")
    check(post(two, "rollback"), 404, "unknown-model")
    check(post(two, "activate", version="../2"), 422, "invalid-request")
    for what in ("activate", "rollback", "reload"):
        response = two.client.post(f"/v1/admin/models/other/{what}", json={"version": "1"})
        check(response, 404, "unknown-model")
    check(two.client.get("/v1/admin/models/other"), 404, "unknown-model")


def test_without_waiting_the_answer_is_202(run: Callable[..., Running], fake_store: Path) -> None:
    """The state is there to be polled; a second change meanwhile is a 409."""
    versions = Versions()
    versions.held["2"] = threading.Event()
    write_fake_artifact(fake_store, version="2")
    (fake_store / "storefront/active").write_text("1\n")
    service = run(versions.load).wait_until_ready()
    response = post(service, "activate?wait=0", version="2")
    assert response.status_code == 202
    assert response.json()["change"]["state"] == "loading"
    check(post(service, "rollback"), 404, "unknown-model")
    check(post(service, "activate", version="2"), 409, "change-under-way")
    versions.held["2"].set()
    wait_for(lambda: service.client.get(BASE).json()["change"]["state"] == "live")
    assert version(service) == "2"


def test_read_only_store_is_served_from_all_the_same(two: Running, fake_store: Path) -> None:
    """The version is live, and the answer says that a restart will not know."""
    (fake_store / "storefront/active").unlink()
    (fake_store / "storefront/active").mkdir()  # even root cannot put a file there
    answer = post(two, "activate", version="2").json()
    assert (answer["version"], answer["change"]["kept"]) == ("2", False)
    assert version(two) == "2"
    answer = post(two, "rollback").json()
    assert (answer["version"], answer["change"]["kept"]) == ("1", False)


def test_shadow_is_told_of_and_ended(two: Running) -> None:
    """It compares, nobody sees it, and it goes when it is told to."""
    response = two.client.put(f"{BASE}/shadow", json={"version": "2", "share": 1})
    assert response.status_code == 202
    wait_for(lambda: two.client.get(BASE).json()["shadow"]["state"] == "live")
    assert version(two) == "1"
    wait_for(lambda: two.client.get(BASE).json()["shadow"]["agreed"] == 1)
    metrics = two.client.get("/metrics").text
    assert (
        'intent_shadow_messages_total{model="storefront",result="agreed",version="2"} 1' in metrics
    )
    assert two.client.delete(f"{BASE}/shadow").json()["shadow"] is None
    check(
        two.client.put(f"{BASE}/shadow", json={"version": "2", "share": 0}), 422, "invalid-request"
    )
    check(two.client.put(f"{BASE}/shadow", json={"version": "9", "share": 1}), 404, "unknown-model")


def test_a_page_cannot_trick_a_browser_into_a_change(two: Running) -> None:
    """What a form can send is refused: no other type than JSON."""
    for what in ("activate", "rollback", "reload"):
        check(
            two.client.post(f"{BASE}/{what}", data={"version": "2"}), 415, "unsupported-media-type"
        )
        check(two.client.post(f"{BASE}/{what}"), 415, "unsupported-media-type")
    assert version(two) == "1"


def test_through_a_proxy_or_by_another_name_it_is_closed(two: Running) -> None:
    """Without keys, admin is for this machine: a forwarded request or a foreign host gets 403."""
    for headers in ({"x-forwarded-for": "203.0.113.7"}, {"host": "shop.example"}):
        check(two.client.get(BASE, headers=headers), 403, "forbidden")
        response = two.client.post(f"{BASE}/activate", json={"version": "2"}, headers=headers)
        check(response, 403, "forbidden")


def test_stopping_does_not_wait_for_a_call_that_waits(
    run: Callable[..., Running], fake_store: Path
) -> None:
    """It is told at once, as are those who ask for another change now."""
    versions = Versions()
    held = versions.held["2"] = threading.Event()
    write_fake_artifact(fake_store, version="2")
    service = run(versions.load).wait_until_ready()
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(service.client.post, f"{BASE}/activate", json={"version": "2"})
        wait_for(lambda: "2" in versions.give_way)
        service.lifecycle.draining = True
        try:
            check(waiting.result(5), 503, "not-ready")
            check(post(service, "reload"), 503, "not-ready")
        finally:
            held.set()
