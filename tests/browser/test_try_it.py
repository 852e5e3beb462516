"""The try-it page as a person uses it, in a real browser."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import pytest

from tests.api.test_auth import ADMIN, ALL, CLASSIFY, REVOKED
from tests.browser.chromium import Tab
from tests.conftest import Running

pytestmark = pytest.mark.browser

Open = Callable[..., Tab]
KNOWN = "document.querySelector('#status').textContent.includes('knows')"
DECIDED = "!document.querySelector('#result').hidden"
READ = "!document.querySelector('#cart-result').hidden"
FAILED = "!document.querySelector('#problem').hidden"


def shown(tab: Tab, selector: str) -> str:
    return tab.run(f"document.querySelector({selector!r}).innerText")


def test_type_and_enter(page: Open) -> None:
    """The focus stands in the message; Enter shows the decision with all that belongs to it."""
    tab = page()
    tab.until(KNOWN)
    tab.type("where is my order")
    tab.press("Enter")
    tab.until(DECIDED)
    assert shown(tab, "#intent") == "order status"
    assert shown(tab, "#confidence").endswith("%")
    assert shown(tab, "#scope") == "in scope"
    assert tab.run("document.querySelectorAll('#bars li').length") == 4
    widths = "[...document.querySelectorAll('#bars .fill')].map((fill) => fill.offsetWidth)"
    tab.until(f"{widths}[0] > 100")
    assert tab.run(widths) == sorted(tab.run(widths), reverse=True)
    assert "%" in shown(tab, "#threshold")
    facts = shown(tab, "#facts")
    for word in ("queue", "inference", "service", "round trip", "storefront 1, fake"):
        assert word in facts


def test_out_of_scope_is_told_apart(page: Open) -> None:
    """By words, not by colour alone."""
    tab = page()
    tab.until(KNOWN)
    tab.type("what is the capital of france")
    tab.press("Enter")
    tab.until(DECIDED)
    assert shown(tab, "#intent") == "out of scope"
    assert shown(tab, "#scope").startswith("not for this shop")


def test_pick_an_example_and_see_the_latency(page: Open) -> None:
    """Each example is a button; after two answers there is something to see of their times."""
    tab = page()
    tab.until(KNOWN)
    count = tab.run("document.querySelectorAll('#examples button').length")
    assert count >= 5
    for number in range(count):
        tab.run("document.querySelector('#result').hidden = true")
        tab.run(f"document.querySelectorAll('#examples button')[{number}].click()")
        tab.until(DECIDED)
    assert shown(tab, "#latency").startswith(f"The last {count} answers")
    assert tab.run("document.querySelectorAll('#latency-view .beat').length") == count


def test_what_is_typed_is_never_markup(page: Open) -> None:
    """Nor is what comes back: it stands on the page as text."""
    tab = page()
    tab.until(KNOWN)
    attack = "<img src=x onerror=alert(1)><script>alert(2)</script>'\"&"
    tab.type(attack)
    tab.press("Enter")
    tab.until(DECIDED)
    assert tab.run("document.querySelectorAll('img[src=x], main script').length") == 0
    tab.run("document.querySelector('#result details').open = true")
    assert "<img src=x onerror=alert(1)>" in shown(tab, "#request")


def test_a_refusal_is_told_and_goes_away(page: Open) -> None:
    """An answer that is no decision is shown as a problem, with the request's id."""
    tab = page()
    tab.until(KNOWN)
    tab.type("\u0007")
    tab.press("Enter")
    tab.until(FAILED)
    assert shown(tab, "#problem-title") == "The message is empty"
    assert "request" in shown(tab, "#problem-detail")
    tab.complaints.clear()  # the browser notes every 422
    tab.run("document.querySelector('#text').value = ''")
    tab.type("where is my order")
    tab.press("Enter")
    tab.until(DECIDED)
    assert tab.run("document.querySelector('#problem').hidden")


def test_keys_are_enough(page: Open) -> None:
    """Tabs answer to arrows, and every control can be reached and seen to have the focus."""
    tab = page()
    tab.until("!document.querySelector('#tabs').hidden")
    tab.run("document.querySelector('#intent-tab').focus()")
    tab.press("ArrowRight")
    assert tab.run("document.activeElement.id") == "cart-tab"
    assert not tab.run("document.querySelector('#cart-panel').hidden")
    assert tab.run("document.querySelector('#intent-panel').hidden")
    reached = []
    for _ in range(12):
        tab.press("Tab")
        reached.append(tab.run("document.activeElement.id || document.activeElement.tagName"))
        outline = "getComputedStyle(document.activeElement).outlineStyle"
        assert tab.run(outline) != "none" or reached[-1] == "BODY", reached
    assert reached[:3] == ["cart-text", "catalog", "cart-send"]
    tab.press("Tab", shift=True)
    tab.run("document.querySelector('#cart-tab').focus()")
    tab.press("ArrowRight")
    assert tab.run("document.activeElement.id") == "intent-tab"


def test_the_catalog_can_be_changed(page: Open) -> None:
    """The answer names products of the catalog as it stands on the page."""
    tab = page("/#tab=cart")
    tab.until("!document.querySelector('#cart-panel').hidden")
    assert shown(tab, "#catalog-count") == "13 products"
    tab.run(
        "document.querySelector('#catalog').select(); document.querySelector('#catalog').focus()"
    )
    tab.type("Green Tea 20 bags\nOlive Oil 500 ml\n")
    assert shown(tab, "#catalog-count") == "2 products"
    tab.run("document.querySelector('#cart-text').focus()")
    tab.type("two green teas please")
    tab.press("Enter")
    tab.until(READ)
    assert "products read\n2 of 2" in shown(tab, "#cart-facts").replace(" \n", "\n")
    changes = tab.run(
        "[...document.querySelectorAll('#changes .name')].map((one) => one.textContent)"
    )
    assert set(changes) <= {"Green Tea 20 bags", "Olive Oil 500 ml"}


def test_a_key_is_asked_for_and_kept_in_the_page_only(tab: Tab, guarded: Running) -> None:
    """A wrong one is told, a right one opens; reloading forgets it, and no store of the browser has it."""
    address = f"http://127.0.0.1:{guarded.port}/"
    asks = "!document.querySelector('#key-form').hidden"
    tab.open(address).until(asks)
    assert tab.run("document.activeElement.id") == "key"
    for key, told in ((REVOKED, "not know that key"), (ADMIN, "scope classify")):
        tab.run("document.querySelector('#key').value = ''")
        tab.run("document.querySelector('#key').focus()")
        tab.type(key)
        tab.press("Enter")
        tab.until(asks)
        tab.until(f"document.querySelector('#key-note').textContent.includes({told!r})")
        tab.until("document.querySelector('#status').textContent === 'The service asks for a key.'")
    tab.run("document.querySelector('#key').value = ''; document.querySelector('#key').focus()")
    tab.type(CLASSIFY)
    tab.press("Enter")
    tab.until(KNOWN)
    tab.complaints.clear()  # the browser notes every 401
    tab.run("document.querySelector('#text').focus()")
    tab.type("where is my order")
    tab.press("Enter")
    tab.until(DECIDED)
    assert tab.run("localStorage.length + sessionStorage.length + document.cookie.length") == 0
    assert CLASSIFY not in tab.run("location.href")
    tab.run("document.querySelector('#result details').open = true")
    assert CLASSIFY not in shown(tab, "#request")
    assert "$SHOPINTENT_KEY" in shown(tab, "#request")
    tab.open(address).until(asks)
    tab.complaints.clear()


def test_every_example_of_the_reference_can_be_sent(tab: Tab, guarded: Running) -> None:
    """Copied into a shell as it stands, with a key beside it, none is malformed."""
    tab.open(f"http://127.0.0.1:{guarded.port}/docs")
    tab.until("document.querySelectorAll('.operation').length > 10")
    examples = tab.run("[...document.querySelectorAll('pre')].map((pre) => pre.textContent)")
    commands = [example for example in examples if example.startswith("curl ")]
    assert len(commands) == tab.run("document.querySelectorAll('.operation').length")
    for command in commands:
        done = subprocess.run(
            ["bash", "-c", f"{command} -s -o /dev/null -w '%{{http_code}}'"],
            env={"SHOPINTENT_KEY": ALL, "PATH": "/usr/local/bin:/usr/bin:/bin"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        # 404: no such decision to tell anything about, or no feedback here; 409: no version before.
        assert done.stdout in {"200", "202", "204", "404", "409"}, (command, done.stdout)


def test_the_reference_has_an_index(page: Open) -> None:
    """Each operation is listed at the top, and its link leads to it; so do links to problems."""
    tab = page("/docs#queue-full")
    tab.until("document.querySelectorAll('.operation').length > 10")
    links = tab.run("[...document.querySelectorAll('#index a')].map((a) => a.hash.slice(1))")
    assert len(links) == tab.run("document.querySelectorAll('.operation').length")
    assert all(tab.run(f"Boolean(document.getElementById({one!r}))") for one in links)
    tab.until("scrollY > 1000")


def test_nothing_comes_from_elsewhere(page: Open, shop: Running) -> None:
    """Not a font, not a script: the pages work without a line to the world."""
    tab = page()
    tab.until(KNOWN)
    page("/docs").until("document.querySelectorAll('.operation').length > 10")
    own = f"http://127.0.0.1:{shop.port}/"
    assert len(tab.asked) > 6
    assert all(url.startswith(own) for url in tab.asked), tab.asked
