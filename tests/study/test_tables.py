"""The page: tables from figures, and nothing typed by hand."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from study.claims import pareto, table
from study.figures import rounded
from study.tables import TABLES
from study.words import interval, markdown, number, ratio, signed_points
from study.write import TEMPLATE, filled

MARKS = re.findall(r"^<!-- table: ([a-z-]+) -->$", TEMPLATE.read_text(), re.MULTILINE)
EMPTY = {"contenders": {}}


def test_every_table_has_its_place() -> None:
    """The page names each table once, and names none that there is not."""
    assert sorted(MARKS) == sorted(TABLES)


def test_the_page_is_filled(figures: dict[str, Any]) -> None:
    """No mark is left, and figures stand where marks stood."""
    page = filled(TEMPLATE.read_text(), figures)
    assert "<!-- table" not in page
    assert "| HF fp32 | 90.0% (85.0% to 95.0%) |" in page


def test_prose_holds_no_measured_figure() -> None:
    """What is measured stands in tables: the page's own text has no decimals, percentages or units but
    for the definition of intervals and the sources' numbers.
    """
    text = TEMPLATE.read_text()
    for known in ("95% Wilson", "arXiv 2510.21970", "Apache-2.0"):
        text = text.replace(known, "")
    assert not re.search(r"\d[.,]\d|\d ?(%|ms\b|MB\b|times\b|/s\b)", text)


@pytest.mark.parametrize("name", TABLES)
def test_a_table_of_nothing_says_so(name: str, figures: dict[str, Any]) -> None:
    """Before anything is measured every table can be written, with lines of equal width."""
    for trials in ({}, figures["trials"]):
        text = TABLES[name]({**figures, "trials": trials})
        lines = text.splitlines()
        assert text == "Not measured yet." or len({line.count(" | ") for line in lines}) == 1


def test_points_lost_are_against_the_unquantised(figures: dict[str, Any]) -> None:
    """A format that is right less often loses points in its group."""
    assert "| orders | 40 | 90.0% | -20.0 | -2.0 |" in TABLES["groups"](figures)


def test_claims_are_judged_by_their_figures(figures: dict[str, Any]) -> None:
    """Twenty times the throughput at 9% of the memory holds; the same at one time and 30% does not."""
    verdicts = [line.split(" | ")[-1].strip(" |") for line in table(figures).splitlines()]
    assert verdicts.count("yes") == 3  # over both baselines; and memory against fp32 only
    slow = figures["trials"]["default/all/turns"]["contenders"]["served/pointers"]
    for base in ("hf-fp32", "hf-bf16"):
        slow[f"over_{base}"] = {"median": 1.0, "least": 0.9, "greatest": 1.1}
        slow[f"memory_over_{base}"] = 0.3
    assert "| yes |" not in table(figures)


def test_who_is_beaten_everywhere_is_not_on_the_front(figures: dict[str, Any]) -> None:
    """Less right, slower and larger than another: no reason to choose it."""
    found = {
        name: figures["trials"][f"default/{name}/labels"] for name in ("hf-fp32", "served", "Q2_K")
    }
    assert pareto(found) == {"hf-fp32", "served"}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0.012345, "0.0123"),
        (1234.5, "1,234"),
        (12.345, "12.3"),
        (0, "0"),
        (99.96, "100"),
    ],
)
def test_numbers_have_three_digits(value: float | None, text: str) -> None:
    """Enough to compare, not more than was measured."""
    assert number(value) == text


def test_words() -> None:
    """Shares with their interval, ratios with their extremes, differences in points."""
    assert interval({"value": 0.5, "low": 0.4, "high": 0.61}) == "50.0% (40.0% to 61.0%)"
    assert interval({"value": None, "low": 0.0, "high": 1.0}) == "-"
    assert ratio({"median": 18.23, "least": 17.0, "greatest": 20.0}) == "18.2 (17 to 20)"
    assert signed_points(-0.0123) == "-1.2"
    assert markdown(("a",), []) == "Not measured yet."


def test_figures_are_plain_json() -> None:
    """Four digits, no NaN, no tuples, no paths."""
    given = {"a": (1 / 3, float("nan")), 2: Path("x"), "flag": True}
    assert rounded(given) == {"a": [0.3333, None], "2": "x", "flag": True}
    json.dumps(rounded(given), allow_nan=False)
