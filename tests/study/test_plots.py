"""Plots are drawn from the figures alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.train
pytest.importorskip("matplotlib")

from study.plots import PLOTS, draw_all  # noqa: E402
from study.write import write_study  # noqa: E402


def test_every_plot_is_drawn(figures: dict[str, Any], tmp_path: Path) -> None:
    """One PNG each, where there are figures; none where there are none."""
    drawn = draw_all(figures, tmp_path)
    assert {path.stem for path in drawn} == set(PLOTS)
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in drawn)
    assert draw_all({**figures, "trials": {}}, tmp_path) == []


def test_page_figures_and_plots_are_written(figures: dict[str, Any], tmp_path: Path) -> None:
    """The page's own links lead to what was written, and the JSON holds the figures."""
    page = write_study(figures, tmp_path)
    assert json.loads((tmp_path / "study" / "figures.json").read_bytes()) == figures
    for plot in PLOTS:
        assert f"(study/{plot}.png)" in page.read_text()
        assert (tmp_path / "study" / f"{plot}.png").is_file()
