"""Where an interrupted training run is found again."""

from __future__ import annotations

from pathlib import Path

from training.run_commands import run_directory


def test_a_run_is_resumed_only_for_the_same_inputs_and_settings(tmp_path: Path):
    """A changed file or knob begins anew: no stale weights under a new name."""
    rows = tmp_path / "rows.csv"
    rows.write_text("text,intent\nhi,greet\n")
    first = run_directory("shop", [rows], "epochs=8")
    assert run_directory("shop", [rows], "epochs=8") == first
    assert run_directory("shop", [rows], "epochs=9") != first
    rows.write_text("text,intent\nhi there,greet\n")
    assert run_directory("shop", [rows], "epochs=8") != first
