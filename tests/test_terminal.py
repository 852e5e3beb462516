from __future__ import annotations

import os
import subprocess
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


@pytest.mark.parametrize(
    "command", ["serve", "classify hello", "bench", "label in.jsonl --out out"]
)
def test_libraries_find_what_they_read_before_anything_loads_them(command: str):
    """A second BLAS thread takes a core from the model: a cart took 63 ms instead of 36."""
    if command.startswith("label"):
        pytest.importorskip("pyarrow")
    look = f"""
import sys
from app import terminal
def look():
    print("loaded:", sorted({{"numpy", "llama_cpp", "torch"}} & set(sys.modules)))
    sys.exit()
terminal.prepare_libraries = look
from app.cli import app
app({command.split()!r})
"""
    found = subprocess.run(
        [sys.executable, "-c", look], capture_output=True, text=True, check=False
    )
    assert found.stdout.strip() == "loaded: []", found.stderr
