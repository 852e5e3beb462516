"""What tools/gpu_run.py measured elsewhere: GPTQ and 16 bits on a GPU, as tables beside the CPU's."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from app.errors import InputError
from study.words import markdown, megabytes, number

Figures = Mapping[str, Any]
GPU = "gpu.json"
PLAIN = "gemma bfloat16 plain graphs"
PACKED = {
    "gemma bfloat16 dense graphs": "GPTQ 8 bits, made plain at load",
    "gemma bfloat16 triton graphs": "GPTQ 8 bits, `triton`",
    "gemma bfloat16 marlin graphs": "GPTQ 8 bits, `marlin`",
    "gemma-4bit bfloat16 triton graphs": "4 bits, `triton`",
    "gemma-4bit bfloat16 int4 graphs": "4 bits, `int4`",
    "gemma-4bit bfloat16 exllama_v2 graphs": "4 bits, `exllama_v2`",
    "gemma-4bit float16 exllama_v2 graphs": "4 bits, `exllama_v2`, float16",
}
"""Variants of tools/gpu_plan.py. Those of 4 bits are rounded from 8: for time and memory only."""
LARGE = "llama-1b bfloat16 plain graphs"
APART = " apart"
"""Of a variant that ``transformers`` computed, all but its products; others take few steps of ours."""
_ROWS = (1, 4, 16, 64, 256)
_LENGTH = 24
_SAVED, _SLOWER = 0.41, 1.82


def take_gpu(results: Path, directory: Path) -> None:
    """Keep the results of tools/gpu_run.py in the study. Raises :class:`InputError` for another file."""
    content = json.loads(results.read_text(encoding="utf-8"))
    if "shapes" not in content.get(PLAIN, {}):
        raise InputError(f"{results.name} has no measurement of {PLAIN!r}: is it of gpu_run.py?")
    directory.mkdir(parents=True, exist_ok=True)
    (directory / GPU).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def read_gpu(directory: Path) -> dict[str, Any] | None:
    """What :func:`take_gpu` kept, without the checkpoint's own settings."""
    path = directory / GPU
    if not path.is_file():
        return None
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    found.pop("checkpoint", None)
    return found


def _measured(gpu: Figures, wanted: Mapping[str, str]) -> Iterator[tuple[str, Figures, str]]:
    """Title, figures, and the name of the 16 bits beside which they stand."""
    for end, through in (("", ""), (APART, ", through `transformers`")):
        for key, title in wanted.items():
            if "shapes" in gpu.get(key + end, {}):
                yield title + through, gpu[key + end], PLAIN + end


def _p50(variant: Figures, rows: int) -> float:
    return float(variant["shapes"][f"{rows}x{_LENGTH}"]["p50_ms"])


def table(figures: Figures) -> str:
    """Milliseconds by rows of 24 tokens, weights, and answers like the CPU's."""
    gpu = figures.get("gpu")
    if not gpu:
        return "Not measured yet."
    head = [
        f"{gpu['machine']['device']}, torch {gpu['machine']['torch']}",
        *(f"{rows} rows, ms" for rows in _ROWS),
        "messages/s at most", "one cart, ms", "weights", "load s", "as on a CPU", "as GGUF",
    ]  # fmt: skip
    rows = []
    every = {PLAIN: "bfloat16", **PACKED, LARGE: "Llama 1B shape, bfloat16"}
    for title, variant, _ in _measured(gpu, every):
        most = max(shape["messages_per_s"] for shape in variant["shapes"].values())
        cart = variant.get("served_ms", {}).get("cart")
        rows.append([
            title,
            *(number(_p50(variant, count)) for count in _ROWS),
            number(most),
            number(cart["p50_ms"]) if cart else "-",
            megabytes(variant["weights_mb"]),
            number(variant["load_s"]),
            *(_share(variant.get(f"agreement_with_{other}")) for other in ("cpu", "gguf")),
        ])  # fmt: skip
    return markdown(head, rows)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def claims(figures: Figures) -> Iterator[tuple[str, str, str, str]]:
    """The paper's two claims about GPTQ, for each kernel that answered in time."""
    memory, speed = "GPTQ on a T4 saves 41% of VRAM", "GPTQ on a T4 is 82% slower than FP16"
    gpu = figures.get("gpu")
    if not gpu:
        for claim in (memory, speed):
            yield claim, "a GPU", "see [gpu.md](gpu.md)", "GPU run"
        return
    device = gpu["machine"]["device"]
    packed = [found for found in _measured(gpu, PACKED) if found[2] in gpu]
    for title, variant, plain in packed:
        small, large = variant["weights_mb"], gpu[plain]["weights_mb"]
        saved = 1 - small / large
        yield (
            memory,
            f"{title}, weights, one {device}",
            f"{megabytes(small)} for {megabytes(large)}, {saved:.0%} less",
            "yes" if saved >= _SAVED else "no",
        )
    for title, variant, plain in packed:
        ratios = [_p50(variant, rows) / _p50(gpu[plain], rows) for rows in _ROWS]
        yield (
            speed,
            f"{title} over bfloat16, {_ROWS[0]} to {_ROWS[-1]} messages of {_LENGTH} tokens",
            f"{number(ratios[0])} times for one, {number(min(ratios))} to {number(max(ratios))}",
            "yes" if ratios[0] >= _SLOWER else "no",
        )
