"""The pages for people: self-contained and under a strict policy."""

from __future__ import annotations

import re

import pytest

from tests.conftest import Running


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_page_needs_nothing_from_elsewhere(service: Running, path: str) -> None:
    """Everything that a page names is served here, and no address of another host is in it."""
    page = service.client.get(path)
    assert page.headers["content-type"].startswith("text/html")
    names = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert names
    for name in names:
        found = service.client.get(name)
        assert found.status_code == 200, name
        assert "https://" not in found.text
    assert "http" not in page.text.replace("http-equiv", "")


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_policy_allows_no_inline_code(service: Running, path: str) -> None:
    """The content policy is strict and the page keeps to it."""
    page = service.client.get(path)
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert not re.search(r"<script(?![^>]*\ssrc=)|<style|\sstyle=|\son\w+=", page.text)


@pytest.mark.parametrize("path", ["/", "/docs", "/livez", "/v1/nothing"])
def test_security_headers_are_everywhere(service: Running, path: str) -> None:
    """No sniffing, no framing, no referrer; on problems too."""
    headers = service.client.get(path).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "no-referrer"
    assert "server" not in headers


def test_only_shipped_files_are_served(service: Running) -> None:
    """No path leads out of the folder."""
    for name in ("../pages.py", "%2e%2e%2fpages.py", "nothing.js", "index.html%00"):
        assert service.client.get(f"/static/{name}").status_code == 404
    assert service.client.head("/").status_code == 200
