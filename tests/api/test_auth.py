"""Nobody enters without a key that is in force and opens what is asked for."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from app.api.auth import PUBLIC, UnsafeExposure, choose_access, is_loopback, network_of
from app.api.keys import Scope, new_key
from app.api.problems import MEDIA_TYPE
from app.main import create_app
from app.settings import Settings
from tests.conftest import Running, wait_for

GUARDED = [
    ("POST", "/v1/classify"),
    ("POST", "/v1/classify/batch"),
    ("POST", "/v1/cart"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/storefront"),
    ("POST", "/v1/feedback"),
    ("DELETE", "/v1/feedback/5f0c1c2e9f5b4c0f8f3a6f3c1d2e4b7a"),
    ("GET", "/v1/admin/models/storefront"),
    ("POST", "/v1/admin/models/storefront/activate"),
    ("POST", "/v1/admin/models/storefront/rollback"),
    ("POST", "/v1/admin/models/storefront/reload"),
    ("PUT", "/v1/admin/models/storefront/shadow"),
    ("DELETE", "/v1/admin/models/storefront/shadow"),
    ("POST", "/model/parse"),
    ("GET", "/v2"),
    ("GET", "/v2/models/storefront"),
    ("GET", "/v2/models/storefront/ready"),
    ("GET", "/v2/models/storefront/versions/1"),
    ("GET", "/v2/models/storefront/versions/1/ready"),
    ("POST", "/v2/models/storefront/infer"),
    ("POST", "/v2/models/storefront/versions/1/infer"),
    ("GET", "/metrics"),
]
CLASSIFY, KEY_CLASSIFY = new_key("web", [Scope.CLASSIFY])
ADMIN, KEY_ADMIN = new_key("ops", [Scope.ADMIN])
ALL, KEY_ALL = new_key("all", list(Scope))
REVOKED, KEY_REVOKED = new_key("gone", list(Scope))
_MADE = {scope: new_key(f"only-{scope.value}", [scope]) for scope in Scope}
SINGLE = {scope: secret for scope, (secret, _) in _MADE.items()}
KEYS = ";".join(
    key.line for key in (KEY_CLASSIFY, KEY_ADMIN, KEY_ALL, *(key for _, key in _MADE.values()))
)

LAST = {"connection": "close"}
"""Behind a request that was refused with its body unread, another on its connection waits for a while."""


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


@pytest.fixture(scope="module")
def guarded(service_with: Callable[..., Running]) -> Running:
    """A service that asks for keys."""
    return service_with(keys=KEYS)


def refused(response: httpx.Response, status: int = 401) -> None:
    """A problem with a challenge, and no word of what lies behind."""
    assert response.status_code == status, response.text
    assert response.headers["www-authenticate"].startswith('Bearer realm="shopintent"')
    if response.request.method != "HEAD":
        assert response.headers["content-type"] == MEDIA_TYPE
        slug = "unauthenticated" if status == 401 else "forbidden"
        assert response.json()["type"] == f"/docs#{slug}"


@pytest.mark.parametrize(("method", "path"), GUARDED)
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": ""},
        {"authorization": "Bearer"},
        bearer(REVOKED),
        bearer(CLASSIFY[:-1]),
        bearer(CLASSIFY + "x"),
        bearer(CLASSIFY.upper()),
        bearer("é" * 20),
        bearer("x" * 8000),
        bearer(KEY_CLASSIFY.digest.hex()),
        bearer(f"sha256:{KEY_CLASSIFY.digest.hex()}"),
        {"authorization": CLASSIFY},
        {"authorization": f"Basic {CLASSIFY}"},
        {"authorization": f"Bearer {CLASSIFY}, Bearer {CLASSIFY}"},
        {"x-api-key": CLASSIFY},
        {"cookie": f"authorization=Bearer {CLASSIFY}"},
        {"proxy-authorization": f"Bearer {CLASSIFY}"},
        {"x-forwarded-for": "127.0.0.1", "host": "localhost"},
        {"x-original-url": "/livez", "x-rewrite-url": "/livez"},
        {"x-http-method-override": "GET"},
    ],
    ids=range(20),
)
def test_without_a_valid_key_every_route_refuses(
    guarded: Running, method: str, path: str, headers: dict[str, str]
) -> None:
    """Missing, empty, wrong, revoked, cut, in another header or scheme: 401, whatever the body."""
    sent = {name: value.encode() for name, value in (headers | LAST).items()}
    refused(guarded.client.request(method, path, headers=sent, json={"text": "hello"}))


@pytest.mark.parametrize(("method", "path"), GUARDED)
@pytest.mark.parametrize(
    "other", ["HEAD", "OPTIONS", "GET", "POST", "PUT", "DELETE", "PATCH", "TRACE"]
)
def test_no_method_gets_past(guarded: Running, method: str, path: str, other: str) -> None:
    """Every method is refused alike without a key."""
    refused(guarded.client.request(other, path))


@pytest.mark.parametrize(
    "path",
    [
        "/v1/classify/", "//v1/classify", "/v1//classify", "/V1/CLASSIFY", "/v1/Classify",
        "/v1/classify;x=1", "/v1/classify%2f", "/%76%31/classify", "/v1/classify%00", "/./v1/classify",
        "/livez/../v1/classify", "/static/../v1/classify", "/docs/../v1/classify", "/livez/",
        "/Livez", "/livez%00", "/livez;/v1/classify", "/v1/classify?path=/livez", "/nothing",
        "/v1/classify#/livez", "/metrics/", "/METRICS", "/v2/health/live/", "/static",
        "/openapi.json/", "/docs/x", "/admin", "/v1/admin/models", "/v1/cart/", "/model/parse/",
        "//model/parse", "/model%2fparse", "/model/parse?token=x", "/webhooks/rest/webhook", "/v2/",
        "/v2/models/storefront/infer/", "/v2//models/storefront/infer", "/v2/health/../models/storefront",
        "/v2/health/ready/../../models/storefront/infer", "/v1/admin/models/storefront/reload/",
    ],
)  # fmt: skip
def test_other_spellings_of_an_address_are_refused(guarded: Running, path: str) -> None:
    """What is not exactly public asks for a key, also where there is nothing."""
    with socket.create_connection(("127.0.0.1", guarded.port), timeout=30) as connection:
        # By hand: clients tidy addresses up.
        connection.sendall(
            b"POST " + path.encode() + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            b'Content-Type: application/json\r\nContent-Length: 17\r\n\r\n{"text": "hello"}'
        )
        answer = connection.makefile("rb").read()
    assert answer.split(b" ")[1] in {b"401", b"400"}
    assert b"intent" not in answer.replace(b"shopintent", b"")


@pytest.mark.parametrize("path", ["/static/../v1/models", "/static/..%2fv1%2fmodels"])
def test_the_folder_of_the_pages_leads_nowhere(guarded: Running, path: str) -> None:
    """The one public folder serves files of its own only."""
    response = guarded.client.get(httpx.URL(guarded.client.base_url, raw_path=path.encode()))
    assert response.status_code in {401, 404}


@pytest.mark.parametrize(
    "head",
    [
        b"Authorization: Bearer wrong\r\nAuthorization: Bearer " + ALL.encode(),
        b"Authorization: Bearer " + ALL.encode() + b"\r\nAuthorization: Bearer wrong",
        b"Authorization: Bearer " + ALL.encode() + b"\r\nauthorization: Bearer " + ALL.encode(),
        b"X: y\r\n Authorization: Bearer " + ALL.encode(),
        b"X: y\rAuthorization: Bearer " + ALL.encode(),
        b"X: y\x00\r\nAuthorization: Bearer " + ALL.encode(),
        b"Authorization\t: Bearer " + ALL.encode(),
        b"Authorization : Bearer " + ALL.encode(),
        b"Authorization: Bearer ",
        b"Authorization: Bearer\t" + ALL.encode(),
        b"Content-Length: 0\r\nTransfer-Encoding: chunked\r\nAuthorization: Bearer " + ALL.encode(),
        b"Transfer-Encoding: xchunked\r\nAuthorization: Bearer " + ALL.encode(),
    ],
    ids=range(12),
)
def test_doubtful_heads_are_refused(guarded: Running, head: bytes) -> None:
    """Two keys, folded lines, bare returns, two lengths: one request is never read in two ways."""
    with socket.create_connection(("127.0.0.1", guarded.port), timeout=30) as connection:
        connection.sendall(
            b"POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            b"Content-Type: application/json\r\n" + head + b"\r\n\r\n"
        )
        answer = connection.makefile("rb").read()
    assert answer.split(b" ")[1] in {b"400", b"401"}, answer


def test_a_smuggled_second_request_needs_its_own_key(guarded: Running) -> None:
    """A key opens the request that it stands in, not the next one on the connection."""
    body = b'{"text": "where is my order"}'
    first = (
        b"POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Authorization: Bearer " + CLASSIFY.encode() + b"\r\nContent-Length: "
        + str(len(body)).encode() + b"\r\n\r\n" + body
    )  # fmt: skip
    second = b"GET /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    with socket.create_connection(("127.0.0.1", guarded.port), timeout=30) as connection:
        connection.sendall(first + second)
        answer = connection.makefile("rb").read()
    assert answer.count(b"HTTP/1.1 200") == 1
    assert answer.count(b"HTTP/1.1 401") == 1


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_a_valid_key_is_let_in(guarded: Running, scheme: str) -> None:
    """With its key, a caller gets answers; the name of the scheme is read in any case."""
    headers = {"authorization": f"{scheme} {CLASSIFY}"}
    answer = guarded.client.post(
        "/v1/classify", json={"text": "where is my order"}, headers=headers
    )
    assert answer.status_code == 200


@pytest.mark.parametrize(("method", "path"), GUARDED)
def test_a_key_opens_its_scopes_only(guarded: Running, method: str, path: str) -> None:
    """A key for other things is 403, with the missing scope in the challenge."""
    operators = path.startswith(("/v1/feedback/", "/v1/admin/"))
    foreign = CLASSIFY if operators else ADMIN
    response = guarded.client.request(method, path, headers=bearer(foreign), json={"text": "hello"})
    refused(response, 403)
    assert 'error="insufficient_scope"' in response.headers["www-authenticate"]


def test_every_operation_is_opened_by_one_scope(guarded: Running) -> None:
    """Whatever is declared, now or later, asks for a key, and one scope and no other opens it."""
    paths = guarded.client.get("/openapi.json").json()["paths"]
    asked = 0
    for path, operations in paths.items():
        address = re.sub(r"\{\w+\}", "x", path)
        for method in operations:
            if path in PUBLIC:
                continue
            asked += 1
            refused(guarded.client.request(method, address, headers=LAST, json={}))
            opened = [
                scope
                for scope, secret in SINGLE.items()
                if guarded.client.request(
                    method, address, headers=bearer(secret) | LAST, json={}
                ).status_code
                != 403
            ]
            assert len(opened) == 1, (method, path, opened)
    assert asked >= 12


def test_public_addresses_are_open_to_look_at(guarded: Running) -> None:
    """Probes and pages need no key; another method on them does."""
    for path in sorted(PUBLIC):
        assert guarded.client.get(path).status_code == 200, path
        refused(guarded.client.post(path))


def test_metrics_are_guarded_unless_set(
    guarded: Running, service_with: Callable[..., Running]
) -> None:
    """Who counts may have a key for it, or the operator opens the address."""
    assert guarded.client.get("/metrics", headers=bearer(ALL)).status_code == 200
    opened = service_with(keys=KEYS, public_metrics=True)
    assert opened.client.get("/metrics").status_code == 200
    refused(opened.client.get("/v1/models"))


def test_the_name_is_counted_and_never_the_key(guarded: Running) -> None:
    """Metrics tell callers apart by the names of their keys."""
    guarded.client.get("/v1/models", headers=bearer(CLASSIFY))
    told = guarded.client.get("/metrics", headers=bearer(ALL)).text
    assert 'intent_client_requests_total{client="web"}' in told
    assert CLASSIFY not in told
    assert KEY_CLASSIFY.digest.hex() not in told


def test_keys_change_while_it_runs(run: Callable[..., Running], tmp_path: Path) -> None:
    """A line added opens, a line removed closes, a broken file changes nothing."""
    path = tmp_path / "keys"
    path.write_text(f"# ours\n{KEY_CLASSIFY.line}\n")
    service = run(keys_file=path).wait_until_ready()

    def status(key: str) -> int:
        return service.client.get("/v1/models", headers=bearer(key)).status_code

    assert (status(CLASSIFY), status(ALL)) == (200, 401)
    path.write_text(f"{KEY_ALL.line}\n{KEY_CLASSIFY.line}  # both for a while\n")
    wait_for(lambda: status(ALL) == 200)
    assert status(CLASSIFY) == 200
    path.write_text(f"{KEY_ALL.line}\n")
    wait_for(lambda: status(CLASSIFY) == 401)
    path.write_text("nonsense\n")
    wait_for(
        lambda: (
            "intent_keys_unreadable 1.0" in service.client.get("/metrics", headers=bearer(ALL)).text
        )
    )
    assert (status(CLASSIFY), status(ALL)) == (401, 200)
    replacement = tmp_path / "keys.new"
    replacement.write_text(KEY_CLASSIFY.line)
    replacement.replace(path)
    wait_for(lambda: status(CLASSIFY) == 200)
    assert status(ALL) == 401


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "192.0.2.7", "shop.example", "", "127.0.0.1.example"]
)
def test_it_does_not_start_open_to_a_network(settings: Settings, host: str) -> None:
    """Beyond loopback there are keys, or the operator has said that there need be none."""
    with pytest.raises(UnsafeExposure, match="shopintent keys new"):
        create_app(settings.model_copy(update={"host": host}))
    create_app(settings.model_copy(update={"host": host, "auth": "off"}))
    create_app(settings.model_copy(update={"host": host, "keys": KEYS}))


def test_asked_for_keys_must_be_there(settings: Settings, tmp_path: Path) -> None:
    """Told to ask for keys, it does not start without; nor with a file that is not there or broken."""
    with pytest.raises(UnsafeExposure):
        choose_access("on", "127.0.0.1", "", None)
    with pytest.raises(UnsafeExposure, match="cannot be read"):
        choose_access("auto", "127.0.0.1", "", tmp_path / "nothing")
    empty = tmp_path / "empty"
    empty.write_text("# none left\n")
    for keys, path in (("", empty), (" ; ", None), ("#", empty)):
        with pytest.raises(UnsafeExposure, match="shopintent keys new"):
            choose_access("on", "127.0.0.1", keys, path)
    assert choose_access("on", "127.0.0.1", KEY_ALL.line, empty).ring
    broken = tmp_path / "keys"
    broken.write_text(f"{KEY_ALL.line}\n{CLASSIFY}\n")
    with pytest.raises(UnsafeExposure, match="line 2") as raised:
        choose_access("auto", "127.0.0.1", "", broken)
    assert CLASSIFY not in str(raised.value)


def test_an_empty_key_file_lets_nobody_in(run: Callable[..., Running], tmp_path: Path) -> None:
    """All keys revoked means all, on loopback too."""
    path = tmp_path / "keys"
    path.write_text("# none left\n")
    service = run(keys_file=path).wait_until_ready()
    refused(service.client.get("/v1/models"))


def test_a_key_file_may_begin_with_the_mark_of_some_editors(
    run: Callable[..., Running], tmp_path: Path
) -> None:
    """A byte-order mark is no part of the first line."""
    path = tmp_path / "keys"
    path.write_text(f"{KEY_ALL.line}\n", encoding="utf-8-sig")
    service = run(keys_file=path).wait_until_ready()
    headers = {"authorization": f"Bearer {ALL}"}
    assert service.client.get("/v1/models", headers=headers).status_code == 200


@pytest.mark.anyio
async def test_without_keys_it_answers_on_loopback_only(settings: Settings) -> None:
    """However the application was put on another address, without keys it answers nothing there."""
    there = httpx.ASGITransport(create_app(settings))
    async with httpx.AsyncClient(transport=there, base_url="http://192.0.2.7") as client:
        refused(await client.get("/v1/models"))
        assert (await client.get("/livez")).status_code == 200
    async with httpx.AsyncClient(transport=there, base_url="http://127.0.0.1") as client:
        assert (await client.get("/v1/models")).status_code != 401


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True), ("127.8.9.1", True), ("::1", True), ("[::1]", True),
        ("localhost", True), ("::ffff:127.0.0.1", True),
        ("0.0.0.0", False), ("::", False), ("10.0.0.1", False), ("::ffff:10.0.0.1", False),
        ("localhost.example", False), ("", False),
    ],
)  # fmt: skip
def test_loopback_is_known(host: str, expected: bool) -> None:
    """Only what is certainly this machine counts."""
    assert is_loopback(host) is expected


@pytest.mark.parametrize(
    ("hosts", "network"),
    [
        (("2001:db8:1:2::1", "2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::/64"),
        (("2001:db8::1", "2001:DB8::ffff", "2001:db8:0:0:9:8:7:6"), "2001:db8::/64"),
        (("2001:db8:0:1::1", "2001:db8::1:1:2:3:4"), "2001:db8:0:1::/64"),
        (("2600:3c00::f03c:91ff:fe24:1", "2600:3c00::f03c:91ff:fe24:2"), "2600:3c00::/64"),
        (("192.0.2.7", "::ffff:192.0.2.7", "::ffff:c000:207"), "192.0.2.7"),
        (("fe80::1%eth0", "fe80::2%eth0"), "fe80::/64"),
        (("",), ""), (("proxy.example",), "proxy.example"), (("a:b:c:d:e:f",), "a:b:c:d:e:f"),
    ],
)  # fmt: skip
def test_a_network_is_one_caller(hosts: tuple[str, ...], network: str) -> None:
    """However an address is written; and what is no address is left alone."""
    assert {network_of(host) for host in hosts} == {network}
