"""The paper's headline claims line by line, and what an operator may conclude; both from the figures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from study import accelerator
from study.plan import DEFAULT, FORMATS, TURN_TITLES
from study.words import interval, markdown, megabytes, number, ratio, title_of

Figures = Mapping[str, Any]
PAPER_ACCURACY = 0.988
PAPER_THROUGHPUT = 18.0
PAPER_MEMORY = 0.10
"""arXiv 2510.21970 and BDCC 10(5):155: 98.8 to 99% exact; up to 18 times; over 90% less than FP16."""
_DECODINGS = {
    "json": "plain JSON", "grammar": "grammar JSON", "pointers": "choice", "labels": "label scoring",
    "known": "choice with the catalog in memory",
}  # fmt: skip


def contender(title: str) -> str:
    """``served/pointers`` for people."""
    name, task = TURN_TITLES[title]
    return f"{_DECODINGS[task]}, {title_of(name)}"


def table(figures: Figures) -> str:
    """Claim, what the paper says, what is seen here, and whether it holds."""
    rows = [*_accuracy(figures), *_throughput(figures), *_memory(figures)]
    rows += [
        *accelerator.claims(figures),
        *_gptq(figures),
        (
            "As good as GPT-4.1",
            "an online service",
            "not asked: nothing leaves the machine",
            "open",
        ),
    ]
    return markdown(("the paper's claim", "measured on", "seen here", "same?"), rows)


def _accuracy(figures: Figures) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for name, task in (("hf-bf16", "json"), ("Q4_K_M", "json"), ("served", "pointers")):
        found = figures["trials"].get(f"{DEFAULT}/{name}/{task}")
        if found:
            on = f"{_DECODINGS[task]}, {title_of(name)}, {found['exact']['n']} rows held out"
            rows.append((
                "98.8 to 99% exact (action, product, quantity)",
                on,
                interval(found["exact"]),
                _holds(
                    above=found["exact"]["low"] >= PAPER_ACCURACY,
                    within=found["exact"]["high"] >= PAPER_ACCURACY,
                ),
            ))  # fmt: skip
    return rows


def _turns(figures: Figures) -> dict[str, Any]:
    found: dict[str, Any] = figures["trials"].get(f"{DEFAULT}/all/turns", {"contenders": {}})
    contenders: dict[str, Any] = found["contenders"]
    return contenders


def _throughput(figures: Figures) -> list[tuple[str, ...]]:
    """Our 16-bit baseline is bfloat16: what torch computes well on a CPU."""
    rows: list[tuple[str, ...]] = []
    contenders = _turns(figures)
    for title in ("Q4_K_M/json", "served/json", "served/pointers", "served/known"):
        one = contenders.get(title)
        if one is None:
            continue
        for base in ("hf-bf16", "hf-fp32"):
            over = one[f"over_{base}"]
            rows.append((
                "GGUF on a CPU: up to 18 times the throughput of FP16",
                f"{contender(title)}, over plain JSON, {title_of(base)}, in turns",
                f"{ratio(over)} times",
                _holds(
                    above=over["median"] >= PAPER_THROUGHPUT,
                    within=over["greatest"] >= PAPER_THROUGHPUT,
                ),
            ))  # fmt: skip
    return rows


def _memory(figures: Figures) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    contenders = _turns(figures)
    for title in ("Q4_K_M/json", "served/pointers", "vocabulary-full/pointers"):
        one = contenders.get(title)
        for base in ("hf-bf16", "hf-fp32"):
            share = one and one.get(f"memory_over_{base}")
            if one and share:
                rows.append((
                    "GGUF on a CPU: over 90% less RAM than FP16",
                    f"{contender(title)}, whole process, against {title_of(base)}",
                    f"{megabytes(one['memory']['rss_mb'])}, {1 - share:.0%} less",
                    _holds(above=share <= PAPER_MEMORY, within=False),
                ))  # fmt: skip
    return rows


def _gptq(figures: Figures) -> list[tuple[str, ...]]:
    """The CPU's half of the claim on GPTQ."""
    rows: list[tuple[str, ...]] = []
    base = figures["trials"].get(f"{DEFAULT}/hf-bf16/json")
    for name in ("gptq-8", "gptq-4"):
        found = figures["trials"].get(f"{DEFAULT}/{name}/json")
        if base and found:
            share = 1 - found["messages_per_s"] / base["messages_per_s"]
            speed = f"{abs(share):.0%} {'slower' if share > 0 else 'faster'}"
            rows.append((
                "(not in the paper) GPTQ on a CPU",
                f"plain JSON, {title_of(name)}, against HF bf16, one after the other",
                f"{number(found['messages_per_s'])} rows/s, {speed}",
                "-",
            ))  # fmt: skip
    return rows


def _holds(*, above: bool, within: bool) -> str:
    return "yes" if above else "within its spread" if within else "no"


def choice(figures: Figures) -> str:
    """Formats that nothing else beats at label scoring: none is at once as right and faster or smaller."""
    found = {
        one.name: figures["trials"][key]
        for one in FORMATS
        if (key := f"{DEFAULT}/{one.name}/labels") in figures["trials"]
    }
    if not found:
        return markdown(("format",), [])
    rows = [
        (title_of(name), interval(one["accuracy"]), number(one["p50_ms"]),
         megabytes(one["memory"].get("rss_mb")), ", ".join(_best(name, found)) or "-")
        for name, one in found.items()
        if name in pareto(found)
    ]  # fmt: skip
    head = (
        "not beaten in accuracy, p50 and RSS at once",
        "intent accuracy",
        "p50 ms",
        "RSS",
        "best in",
    )
    return markdown(head, rows)


def _merits(one: Figures) -> tuple[float, ...]:
    """The more the better."""
    return (
        float(one["accuracy"]["value"]),
        -float(one["p50_ms"]),
        -float(one["memory"].get("rss_mb", 0.0)),
    )


def pareto(found: Mapping[str, Figures]) -> set[str]:
    """Names that no other beats in one merit without losing in another."""
    merits = {name: _merits(one) for name, one in found.items()}
    return {
        name
        for name, own in merits.items()
        if not any(
            other != own and all(a >= b for a, b in zip(other, own, strict=True))
            for other in merits.values()
        )
    }


def _best(name: str, found: Mapping[str, Figures]) -> list[str]:
    own = _merits(found[name])
    every = [_merits(one) for one in found.values()]
    titles = ("accuracy", "latency", "memory")
    return [t for i, t in enumerate(titles) if own[i] == max(one[i] for one in every)]
