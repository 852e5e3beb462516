"""Numbers as the tables write them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_TITLES = {
    "hf-fp32": "HF fp32",
    "hf-bf16": "HF bf16",
    "gptq-8": "GPTQ 8 bits",
    "gptq-4": "GPTQ 4 bits",
    "served": "as served",
    "ngrams": "n-grams",
    "vocabulary-full": "as served, whole vocabulary",
    "vocabulary-trimmed": "as served, trimmed vocabulary",
}


def title_of(name: str) -> str:
    """A format's name for people."""
    return _TITLES.get(name, f"GGUF {name}")


def number(value: float | None) -> str:
    """Three significant digits, never in powers of ten."""
    if value is None:
        return "-"
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{float(f'{value:.3g}'):g}"


def interval(given: Mapping[str, Any]) -> str:
    """A share and its 95% Wilson interval."""
    if given["value"] is None:
        return "-"
    return f"{given['value']:.1%} ({given['low']:.1%} to {given['high']:.1%})"


def ratio(given: Mapping[str, float]) -> str:
    """Median and extremes of a ratio of rounds."""
    least, greatest = number(given["least"]), number(given["greatest"])
    return f"{number(given['median'])} ({least} to {greatest})"


def megabytes(value: float | None) -> str:
    return "-" if value is None else f"{number(value)} MB"


def signed_points(difference: float) -> str:
    """A difference of shares, in points."""
    return f"{difference * 100:+.1f}"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; says so where nothing has been measured."""
    if not rows:
        return "Not measured yet."
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
