"""The page: prose from ``page.md`` and, at every mark, a table from the figures. None is typed by hand."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from app.artifacts.manifest import write_atomically
from study.plots import draw_all
from study.tables import TABLES

PAGE, FOLDER, FIGURES = "study.md", "study", "figures.json"
TEMPLATE = Path(__file__).with_name("page.md")
_MARK = re.compile(r"^<!-- table: ([a-z-]+) -->$", re.MULTILINE)


def write_study(figures: Mapping[str, Any], out: Path) -> Path:
    """Figures as JSON, plots, and the page below ``out``; returns the page's path."""
    folder = out / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(figures, indent=None, sort_keys=True, separators=(",", ":"))
    # A line a trial: a change of one shows as one.
    text = re.sub(r'("(?:default|smollm2)/[^"]+":\{)', r"\n\1", text)
    write_atomically(folder / FIGURES, text.encode() + b"\n")
    draw_all(figures, folder)
    page = out / PAGE
    write_atomically(page, filled(TEMPLATE.read_text(encoding="utf-8"), figures).encode())
    return page


def filled(page: str, figures: Mapping[str, Any]) -> str:
    """The page with a table at every mark. Raises ``KeyError`` for a mark that names none."""
    return _MARK.sub(lambda found: TABLES[found[1]](figures), page)
