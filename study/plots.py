"""Plots of the study's figures, as PNG. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from study.claims import pareto
from study.plan import DEFAULT, FORMATS
from study.words import number, title_of

Figures = Mapping[str, Any]
_COLOURS = {"torch": "tab:red", "gguf": "tab:blue", "ngrams": "tab:green"}
_FAMILY = {one.name: one.family for one in FORMATS}


def draw_all(figures: Figures, directory: Path) -> list[Path]:
    """Every plot that there are figures for."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import colormaps
    from matplotlib import pyplot as plt

    directory.mkdir(parents=True, exist_ok=True)
    found = {
        one.name: figures["trials"][key]
        for one in FORMATS
        if (key := f"{DEFAULT}/{one.name}/labels") in figures["trials"]
    }
    if not found:
        return []
    written = []
    for name, draw in PLOTS.items():
        figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
        colours = colormaps["tab20"]  # more lines than the usual ten
        axes.set_prop_cycle(color=[colours(number) for number in range(colours.N)])
        draw(axes, found, figures)
        conditions = figures["conditions"]
        figure.suptitle(f"{conditions['cpu']}, {conditions['threads']} threads", fontsize=9)
        path = directory / f"{name}.png"
        # Without a date and versions inside, equal figures give an equal file.
        figure.savefig(path, dpi=110, metadata={"Software": None})
        plt.close(figure)
        written.append(path)
    return written


def _pareto(axes: Any, found: Mapping[str, Figures], _figures: Figures) -> None:
    from matplotlib import colormaps

    front = pareto(found)
    colours = colormaps["tab20"]
    for place, (name, one) in enumerate(found.items()):
        accuracy = one["accuracy"]
        percent = accuracy["value"] * 100
        if (
            _FAMILY[name] == "ngrams"
        ):  # hundreds of times faster: it would press the others together
            label = f"{title_of(name)}: {number(one['p50_ms'])} ms"
            axes.axhline(percent, color="grey", linestyle=":", label=label)
            continue
        axes.errorbar(
            one["p50_ms"], percent, fmt="o" if name in front else "x", label=title_of(name),
            yerr=[[percent - accuracy["low"] * 100], [accuracy["high"] * 100 - percent]],
            color=colours(place / 20), elinewidth=0.4,
        )  # fmt: skip
    axes.set(
        xscale="log", xlabel="p50 of one message, ms", ylabel="intent accuracy, %",
        title="Label scoring: o is not beaten in accuracy, p50 and RSS at once",
    )  # fmt: skip
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _batches(axes: Any, found: Mapping[str, Figures], _figures: Figures) -> None:
    for name, one in found.items():
        if not one.get("batches"):
            continue
        sizes = sorted(map(int, one["batches"]))
        axes.plot(
            sizes, [one["batches"][str(size)]["ms"] for size in sizes], marker=".",
            label=title_of(name), linestyle="--" if _FAMILY[name] == "torch" else "-",
        )  # fmt: skip
    axes.set(
        xscale="log", yscale="log", xlabel="messages in one batch", ylabel="ms for the whole batch",
        title="Latency by batch",
    )  # fmt: skip
    axes.set_xticks([1, 2, 4, 8, 16, 32], ["1", "2", "4", "8", "16", "32"])
    axes.legend(fontsize=7, ncols=2)


def _memory(axes: Any, found: Mapping[str, Figures], _figures: Figures) -> None:
    names = list(found)
    loaded = [found[name]["memory"].get("rss_mb", 0) for name in names]
    files = [found[name]["file_mb"] or 0 for name in names]
    places = range(len(names))
    colours = [_COLOURS[_FAMILY[name]] for name in names]
    axes.barh([p + 0.2 for p in places], loaded, height=0.4, color=colours, label="process, RSS")
    axes.barh(
        [p - 0.2 for p in places], files, height=0.4, color=colours, alpha=0.4, label="on disk"
    )
    axes.set_yticks(list(places), [title_of(name) for name in names], fontsize=8)
    axes.invert_yaxis()
    axes.set(xlabel="MB (10^6 bytes)", title="Memory while scoring labels, and size on disk")
    axes.legend()


def _calibration(axes: Any, found: Mapping[str, Figures], _figures: Figures) -> None:
    axes.plot([0, 1], [0, 1], color="grey", linewidth=0.8)
    for name, one in found.items():
        bins = [each for each in one["reliability"] if each["n"] >= 5]
        axes.plot(
            [each["confidence"] for each in bins], [each["accuracy"] for each in bins],
            marker=".", linewidth=1, label=f"{title_of(name)}: ECE {one['ece']:.3f}",
            linestyle="--" if _FAMILY[name] == "torch" else "-",
        )  # fmt: skip
    axes.set(
        xlabel="confidence", ylabel="accuracy", title="Calibration, in-scope messages, ten bins"
    )
    axes.legend(fontsize=7)


PLOTS: Mapping[str, Callable[[Any, Mapping[str, Figures], Figures], None]] = {
    "pareto": _pareto, "batches": _batches, "memory": _memory, "calibration": _calibration,
}  # fmt: skip
