"""Markdown tables from the study's figures: :data:`TABLES` names each, and the page says where it goes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from study import accelerator, claims
from study.plan import (
    BATCHES,
    DEFAULT,
    DEPTHS,
    FORMATS,
    NOISE_FORMATS,
    NOISE_LEVELS,
    SMALL,
    SMALL_FORMATS,
    TURN_TITLES,
    VOCABULARIES,
)
from study.words import interval, markdown, megabytes, number, ratio, signed_points, title_of

Figures = Mapping[str, Any]
REFERENCE = "hf-fp32"


def trial(figures: Figures, backbone: str, name: str, task: str) -> dict[str, Any] | None:
    """One trial's figures, or None where it has not been measured."""
    found: dict[str, Any] | None = figures["trials"].get(f"{backbone}/{name}/{task}")
    return found


def measured(
    figures: Figures, task: str, names: Sequence[str], backbone: str = DEFAULT
) -> Iterator[tuple[str, dict[str, Any]]]:
    for name in names:
        found = trial(figures, backbone, name, task)
        if found is not None:
            yield name, found


_ALL = tuple(one.name for one in FORMATS)


def conditions(figures: Figures) -> str:
    given = figures["conditions"]
    versions = ", ".join(f"{k} {v}" for k, v in given["versions"].items() if v)
    counter = ", ".join(given["energy_counter"] or ()) or "none on this machine"
    loads = [t["load_average"] for t in figures["trials"].values() if t["load_average"] is not None]
    span = f"{number(min(loads))} to {number(max(loads))}" if loads else "-"
    model = figures["model"]
    rows = [
        ("model", f"{model['name']}/{model['version']}, weights `{model['digest']}`"),
        ("served weights", f"`{model['quantisation']}`"),
        ("vocabulary", "trimmed" if model["trimmed"] else "whole"),
        ("CPU", f"{given['cpu']}, {given['cpus']} CPUs, {given['threads']} threads a configuration"),
        ("memory", megabytes(given["memory_mb"])),
        ("energy counter", counter),
        ("versions", versions),
        ("Python, system", f"{given['python']}, {given['system']}"),
        ("commit", ", ".join(f"`{one}`" for one in given["commit"]) or "-"),
        ("load average before a trial", span),
        ("rows", ", ".join(f"{k.replace('_', ' ')} {v}" for k, v in figures["sizes"].items())),
        ("trials", f"{len(figures['trials'])}, {number(_minutes(figures))} minutes in all"),
    ]  # fmt: skip
    return markdown(("", ""), rows)


def _minutes(figures: Figures) -> float:
    return float(sum(t["trial_seconds"] or 0 for t in figures["trials"].values())) / 60


def labels(figures: Figures, backbone: str = DEFAULT, names: Sequence[str] = _ALL) -> str:
    """Label scoring: accuracy and calibration."""
    base = trial(figures, backbone, REFERENCE, "labels")
    rows = []
    for name, found in measured(figures, "labels", names, backbone):
        rows.append((
            title_of(name), interval(found["accuracy"]), interval(found["exact"]),
            _agreement(found, base), number(found["ece"]), number(found["auroc"]),
            number(found["mcc"]),
        ))  # fmt: skip
    head = (
        "format",
        "intent accuracy",
        "exact decision",
        "decides as HF fp32",
        "ECE",
        "AUROC",
        "MCC",
    )
    return markdown(head, rows)


def _agreement(found: Figures, base: Figures | None) -> str:
    if base is None:
        return "-"
    pairs = list(zip(found["decisions"], base["decisions"], strict=True))
    return f"{sum(a == b for a, b in pairs) / len(pairs):.1%}"


def label_speed(figures: Figures, backbone: str = DEFAULT, names: Sequence[str] = _ALL) -> str:
    """Label scoring: time and memory."""
    rows = [
        (
            title_of(name), number(found.get("p50_ms")), number(found.get("p99_ms")),
            number(found.get("single_messages_per_s")), number(found["messages_per_s"]),
            number(found.get("prompt_tokens_per_s")), megabytes(found["memory"].get("rss_mb")),
            megabytes(found["file_mb"]), number(found["load_s"]), _energy(found),
        )
        for name, found in measured(figures, "labels", names, backbone)
    ]  # fmt: skip
    head = (
        "format", "p50 ms", "p99 ms", "messages/s, one by one", "messages/s, batched",
        "prompt tokens/s", "RSS", "file", "load s", "J a message",
    )  # fmt: skip
    return markdown(head, rows)


def carts(figures: Figures) -> str:
    """The three decodings of carts, format by format."""
    rows = []
    for task in ("pointers", "json", "grammar"):
        for name, found in measured(figures, task, _ALL):
            rows.append((
                _decoding(task, name), title_of(name), interval(found["exact"]),
                f"{found['valid']['value']:.0%}", number(found.get("ece")),
                number(found["p50_ms"]), number(found["p99_ms"]), number(found["messages_per_s"]),
                number(found.get("prompt_tokens_per_s")),
                number(found.get("generated_tokens_per_s")),
                megabytes(found["memory"].get("rss_mb")), number(found["load_s"]), _energy(found),
            ))  # fmt: skip
    head = (
        "decoding", "format", "exact match", "valid", "ECE", "p50 ms", "p99 ms", "rows/s",
        "prompt tokens/s", "generated tokens/s", "RSS", "load s", "J a row",
    )  # fmt: skip
    return markdown(head, rows)


def _decoding(task: str, name: str) -> str:
    if name == "ngrams":
        return "n-gram baseline"
    return {"pointers": "choice", "json": "plain JSON", "grammar": "grammar JSON"}[task]


def paired(figures: Figures) -> str:
    """Exact match of the three decodings on the rows that all of a format's answered."""
    rows = []
    for name in _ALL:
        found = {
            task: hit for task in ("pointers", "json", "grammar")
            if (hit := trial(figures, DEFAULT, name, task)) is not None
        }  # fmt: skip
        if "pointers" not in found:
            continue
        count = min(len(one["hits"]) for one in found.values())
        shares = [
            f"{sum(found[task]['hits'][:count]) / count:.1%}" if task in found else "-"
            for task in ("pointers", "json", "grammar")
        ]
        again = number(found["pointers"].get("again_p50_ms"))
        rows.append((title_of(name), str(count), *shares, again))
    head = (
        "format", "rows", "choice", "plain JSON", "grammar JSON",
        "choice, catalog known: p50 ms",
    )  # fmt: skip
    return markdown(head, rows)


def turns(figures: Figures) -> str:
    """Contenders that took turns on the same rows."""
    found = figures["trials"].get(f"{DEFAULT}/all/turns", {"contenders": {}})["contenders"]
    rows = [
        (
            claims.contender(title), number(one["messages_per_s"]), ratio(one["over_hf-fp32"]),
            ratio(one["over_hf-bf16"]), megabytes(one["memory"].get("rss_mb")),
            _percent(one.get("memory_over_hf-fp32")), _percent(one.get("memory_over_hf-bf16")),
        )
        for title, one in ((title, found[title]) for title in TURN_TITLES if title in found)
    ]  # fmt: skip
    head = (
        "decoding and format", "rows/s", "over HF fp32 JSON", "over HF bf16 JSON", "RSS",
        "of HF fp32's", "of HF bf16's",
    )  # fmt: skip
    return markdown(head, rows)


def small(figures: Figures) -> str:
    return labels(figures, SMALL, SMALL_FORMATS)


def small_speed(figures: Figures) -> str:
    return label_speed(figures, SMALL, SMALL_FORMATS)


def fusion(figures: Figures) -> str:
    rows = [
        (name, interval(one["accuracy"]), interval(one["exact"]), number(one["ece"]),
         number(one["auroc"]), number(one["mcc"]))
        for name, one in figures.get("ablations", {}).items()
    ]  # fmt: skip
    return markdown(("decision", "intent accuracy", "exact decision", "ECE", "AUROC", "MCC"), rows)


def batching(figures: Figures) -> str:
    rows = [
        (
            title_of(name),
            *(number(found["batches"][str(size)]["messages_per_s"]) for size in BATCHES),
        )
        for name, found in measured(figures, "labels", _ALL)
        if found.get("batches")
    ]
    return markdown(("messages/s at a batch of", *(str(size) for size in BATCHES)), rows)


def prefix(figures: Figures) -> str:
    found = trial(figures, DEFAULT, "served", "prefix")
    rows = [] if found is None else [(
        number(found["tokens"]), number(found["new_ms"]), number(found["known_ms"]),
        ratio(found["new_over_known"]),
    )]  # fmt: skip
    head = (
        "tokens of catalog and message",
        "catalog new: p50 ms",
        "known: p50 ms",
        "new over known",
    )
    return markdown(head, rows)


def depth(figures: Figures) -> str:
    rows = [
        (f"{one.name.removeprefix('depth-')}% of the layers", interval(found["accuracy"]),
         number(found["p50_ms"]), number(found["messages_per_s"]), megabytes(found["file_mb"]))
        for one in DEPTHS
        for found in [trial(figures, DEFAULT, one.name, "depth")]
        if found is not None
    ]  # fmt: skip
    base = trial(figures, DEFAULT, "ngrams", "labels")
    if base:
        rows.append((
            title_of("ngrams"), interval(base["accuracy"]), number(base["p50_ms"]),
            number(base["messages_per_s"]), megabytes(base["file_mb"]),
        ))  # fmt: skip
    head = ("Q8_0, new head on its states", "intent accuracy", "p50 ms", "messages/s", "file")
    return markdown(head, rows)


def vocabulary(figures: Figures) -> str:
    names = (*(one.name for one in VOCABULARIES), "ngrams")
    rows = [
        (title_of(name), interval(found["accuracy"]), number(found["p50_ms"]),
         number(found["messages_per_s"]), megabytes(found["memory"].get("rss_mb")),
         megabytes(found["memory"].get("anonymous_mb")), megabytes(found["file_mb"]))
        for name, found in measured(figures, "labels", names)
    ]  # fmt: skip
    head = (
        "served recipe",
        "intent accuracy",
        "p50 ms",
        "messages/s",
        "RSS",
        "of it private",
        "file",
    )
    return markdown(head, rows)


def noise(figures: Figures) -> str:
    rows = []
    for name, found in measured(figures, "noise", NOISE_FORMATS):
        for language in ("all", "en", "hr", "es"):
            cells = [
                interval(found["levels"][str(level)][language])
                if language in found["levels"].get(str(level), {}) else "-"
                for level in NOISE_LEVELS
            ]  # fmt: skip
            rows.append((title_of(name), language, *cells))
    head = ("format", "language", *(f"noise {level}" for level in NOISE_LEVELS))
    return markdown(head, rows)


def groups(figures: Figures) -> str:
    """Points of in-scope accuracy that a format loses against HF fp32, by intent group."""
    base = trial(figures, DEFAULT, REFERENCE, "labels")
    if base is None:
        return markdown(("group",), [])
    names = [
        (name, found) for name, found in measured(figures, "labels", _ALL) if name != REFERENCE
    ]
    rows = [
        (group, str(base["by_group"][group]["n"]), f"{base['by_group'][group]['value']:.1%}",
         *(signed_points(found["by_group"][group]["value"] - base["by_group"][group]["value"])
           for _, found in names))
        for group in base["by_group"]
    ]  # fmt: skip
    rows.append((
        "all", str(base["accuracy"]["n"]), f"{base['accuracy']['value']:.1%}",
        *(signed_points(found["accuracy"]["value"] - base["accuracy"]["value"]) for _, found in names),
    ))  # fmt: skip
    head = ("group", "messages", "HF fp32", *(title_of(name) for name, _ in names))
    return markdown(head, rows)


def _energy(found: Figures) -> str:
    joules = found.get("joules_per_message")
    return "no counter" if joules is None else number(joules)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.0%}"


TABLES: Mapping[str, Callable[[Figures], str]] = {
    "conditions": conditions, "claims": claims.table, "choice": claims.choice, "labels": labels,
    "label-speed": label_speed, "carts": carts, "paired": paired, "turns": turns, "small": small,
    "small-speed": small_speed, "fusion": fusion, "batching": batching, "prefix": prefix,
    "depth": depth, "vocabulary": vocabulary, "noise": noise, "groups": groups,
    "gpu": accelerator.table,
}  # fmt: skip
