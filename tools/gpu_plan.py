"""What a run on a GPU measures, the most telling first, and what its figures say beside 16 bits."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

Execution: TypeAlias = Literal["eager", "compile", "graphs", "compiled graphs"]
"""As :data:`app.backends.torch_graphs.Execution`, without importing torch."""

ROWS, LENGTHS = (1, 4, 16, 64, 256), (8, 24, 64, 256)
FEW_ROWS, FEW_LENGTHS = (1, 16, 256), (24,)
"""Of runs without graphs, which wait for the CPU and need longer to measure."""
MOST_CELLS = 1 << 15
SERVED = (1, 4, 16, 64)
"""Batches of real messages."""
MODELS = ("gemma", "gemma-4bit", "llama-1b")
COMPILED = ("marlin", "exllama_v2")
"""Compiled with nvcc when first used, which takes minutes: only with --compiled."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to run one model."""

    model: str
    precision: str
    kernel: str | None
    execution: Execution
    joined: bool = True
    """Few steps between the matrices, or those of ``transformers``."""

    @property
    def key(self) -> str:
        apart = "" if self.joined else " apart"
        return f"{self.model} {self.precision} {self.kernel or 'plain'} {self.execution}{apart}"


def variants(models: Sequence[str], *, compiled: bool = False) -> list[Variant]:
    """What the comparison needs comes first: time on such a machine is short."""
    ours, half = ("triton", "int4"), "float16"
    found = [Variant("gemma", "bfloat16", k, "graphs") for k in (None, "dense", *ours)]
    found += [Variant(m, "bfloat16", k, "graphs") for m in MODELS[1:] for k in (None, *ours)]
    found += [Variant("gemma", "bfloat16", k, "graphs", joined=False) for k in (None, "triton")]
    if compiled:
        found += [Variant(m, half, k, "graphs") for m in MODELS for k in COMPILED]
        found += [Variant(m, "bfloat16", k, "graphs") for m in MODELS for k in COMPILED]
    found += [Variant(m, half, None, "graphs") for m in MODELS]
    others: tuple[Execution, ...] = ("eager", "compiled graphs", "compile")
    found += [Variant("gemma", "bfloat16", k, e) for e in others for k in (None, "triton")]
    # Unpacked, the one of 4 bits has the times of the other.
    return [v for v in found if v.model in models and (v.model, v.kernel) != ("gemma-4bit", None)]


def comparison(results: dict[str, Any]) -> dict[str, Any]:
    """What is asked of a GPU, of each model and GPTQ kernel against plain bfloat16.

    By names like "gemma triton", and "gemma marlin float16" where the type is another than bfloat16.

    Kernels are kept apart: the fastest is not the one that takes the least memory.
    """
    done: dict[tuple[str, ...], list[dict[str, Any]]] = defaultdict(list)
    for key, value in results.items():
        if "shapes" in value:
            done[tuple(key.split()[:3])].append(value)
    table: dict[str, Any] = {}
    for (model, precision, kernel), packed in done.items():
        # The one of 4 bits is a rounded copy of the other.
        base = "gemma" if model == "gemma-4bit" else model
        plain = done.get((base, "bfloat16", "plain"))
        if plain and kernel != "plain":
            half = "" if precision == "bfloat16" else f" {precision}"
            table[f"{model} {kernel}{half}"] = _against(plain, packed)
    return table


def _against(plain: list[dict[str, Any]], packed: list[dict[str, Any]]) -> dict[str, Any]:
    """``plain`` and ``packed`` are what ``gpu_run.py`` measured of each variant."""

    def best(of: list[dict[str, Any]], shape: str) -> float:
        return min(float(v["shapes"][shape]["p50_ms"]) for v in of if shape in v["shapes"])

    shapes = [
        shape
        for shape in next(iter(plain))["shapes"]
        if any(shape in variant["shapes"] for variant in packed)
    ]
    least, most = (min(float(v["weights_mb"]) for v in of) for of in (packed, plain))
    found: dict[str, Any] = {
        "p50_over_bf16": {s: round(best(packed, s) / best(plain, s), 3) for s in shapes},
        "weights_saved": round(1 - least / most, 3),
        "most_messages_per_s": max(
            s["messages_per_s"] for v in packed for s in v["shapes"].values()
        ),
    }
    served_ = [v for v in packed if "served_ms" in v]
    baseline = [v for v in plain if "served_ms" in v]
    if served_:
        found["served_p50_ms"], found["served_over_bf16"] = {}, {}
        for rows in map(str, SERVED):
            ours = min(float(v["served_ms"][rows]["p50_ms"]) for v in served_)
            found["served_p50_ms"][rows] = ours
            if baseline:
                theirs = min(float(v["served_ms"][rows]["p50_ms"]) for v in baseline)
                found["served_over_bf16"][rows] = round(ours / theirs, 3)
        for name in ("agreement_with_cpu", "agreement_with_gguf"):
            found[name] = min((v[name] for v in served_ if v.get(name) is not None), default=None)
    return found
