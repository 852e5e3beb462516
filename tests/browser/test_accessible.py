"""axe-core finds nothing on the pages, in light and dark, wide and narrow."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.browser.chromium import Tab
from tests.conftest import Running

pytestmark = pytest.mark.browser

DECIDED = "!document.querySelector('#result').hidden"
STATES = {
    "intent": ("/", "document.querySelector('#status').textContent.includes('knows')"),
    "decision": ("/#text=where is my order", DECIDED),
    "out of scope": ("/#text=what is the capital of france", DECIDED),
    "problem": ("/#text=%07", "!document.querySelector('#problem').hidden"),
    "cart": ("/#tab=cart", "!document.querySelector('#cart-panel').hidden"),
    "changes": (
        "/#tab=cart&text=two green teas please, and take the olive oil out",
        "!document.querySelector('#cart-result').hidden",
    ),
    "reference": ("/docs", "document.querySelectorAll('.operation').length > 10"),
}


@pytest.mark.parametrize("width", [1000, 360], ids=["wide", "narrow"])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("state", STATES)
def test_axe_finds_nothing(
    page: Callable[[str], Tab], axe: str, state: str, dark: bool, width: int
) -> None:
    """No violation of any impact, with every detail unfolded; and nothing runs over to the right."""
    path, ready = STATES[state]
    tab = page(path)
    tab.look(dark=dark, width=width)
    tab.until(ready)
    tab.run("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    assert tab.violations(axe) == []
    assert tab.run("document.documentElement.scrollWidth <= innerWidth")
    ground = tab.run("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(15, 20, 19)") is dark
    if state == "problem":
        tab.complaints.clear()  # the browser notes every 422


def test_axe_would_find_something(page: Callable[[str], Tab], axe: str) -> None:
    """The check can fail: grey on grey, and a field without a name."""
    tab = page("/")
    tab.run("document.querySelector('.lead').style.color = '#ccc'")
    tab.run("document.querySelector('label[for=text]').remove()")
    tab.run("document.querySelector('#text').removeAttribute('placeholder')")
    found = " ".join(tab.violations(axe))
    assert "serious color-contrast" in found
    assert "critical label" in found


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_axe_finds_nothing_where_a_key_is_asked_for(
    tab: Tab, guarded: Running, axe: str, dark: bool
) -> None:
    """The question for the key is as readable as the rest."""
    tab.look(dark=dark)
    tab.open(f"http://127.0.0.1:{guarded.port}/")
    tab.until("!document.querySelector('#key-form').hidden")
    assert tab.violations(axe) == []
    tab.complaints.clear()  # the browser notes every 401
