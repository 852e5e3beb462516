from __future__ import annotations

import os
import sys

import pytest

from app import terminal


@pytest.mark.parametrize(
    ("given", "spins"),
    [
        ({}, "200"),
        ({"OMP_WAIT_POLICY": "PASSIVE"}, "200"),
        ({"OMP_WAIT_POLICY": "active"}, None),
        ({"GOMP_SPINCOUNT": "0"}, "0"),
    ],
)
def test_threads_look_a_few_times_before_they_sleep(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], spins: str | None
):
    """By default and where waiting is passive; what an operator has set is left alone."""
    environment = dict(given)
    monkeypatch.setattr(os, "environ", environment)
    monkeypatch.setattr(terminal, "share_memory_pools", lambda: None)
    interval = sys.getswitchinterval()
    try:
        terminal.prepare_libraries()
    finally:
        sys.setswitchinterval(interval)
    assert environment.get("GOMP_SPINCOUNT") == spins
    assert environment["OMP_WAIT_POLICY"] == given.get("OMP_WAIT_POLICY", "passive")
