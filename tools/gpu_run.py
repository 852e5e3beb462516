"""Measures the GPTQ backend on a GPU beside 16 bits: speed, memory, load time, agreement.

    python tools/gpu_run.py /tmp/gpu --out results.json

/tmp/gpu is what tools/gpu_pack.py unpacked. Every variant is written down when it is done; run again,
the script goes on with those that are missing (--again forgets them). One that fails is noted with its
error, and the next one is tried. Plain 16-bit weights are the same checkpoint's, unpacked: equal shapes
and equal bytes to the merged model's, so equal times. Beside 8 bits stand the same weights rounded to 4,
for time and memory only: what 4 bits answer is measured where they are made. The last line on the screen
is the comparison. docs/gpu.md has the commands of a whole run.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).parents[1]))

# Beside this script:
from gpu_models import write_four_bits, write_llama, write_plain
from gpu_plan import (
    COMPILED,
    FEW_LENGTHS,
    FEW_ROWS,
    LENGTHS,
    MODELS,
    MOST_CELLS,
    ROWS,
    SERVED,
    Variant,
    comparison,
    variants,
)

from app.artifacts.store import Store
from app.backends.base import BackendOptions, MarkedTokens
from app.backends.gptq import GptqBackend
from app.backends.gptq_checkpoint import Checkpoint
from app.backends.gptq_kernels import KERNELS
from app.backends.torch_decoder import Decoder, load_decoder
from app.backends.torch_gemma import joined
from app.backends.torch_graphs import make_runner
from app.classification.classifier import Classifier
from app.classification.decision import decide
from app.classification.loading import batches
from app.classification.model_files import read_model

REPEATS, PATIENCE = 50, 0.4
"""Timed passes of a shape, and seconds after which fewer do."""
LIMITS = BackendOptions(threads=4, max_sequences=64, max_tokens=8192)
"""Those that docs/gpu.md serves with."""


@dataclass(frozen=True, slots=True)
class Given:
    """Shapes in the place of all those that a service foresees."""

    shapes: tuple[tuple[int, int], ...]

    def all(self) -> Iterator[tuple[int, int]]:
        yield from sorted(self.shapes, key=lambda shape: -shape[0] * shape[1])


def main() -> None:
    """Measure what is missing in the results."""
    given = _arguments()
    results: dict[str, Any] = {}
    if given.out.is_file() and not given.again:
        results = json.loads(given.out.read_text())
    results["machine"] = _machine()
    results["checkpoint"] = Checkpoint(given.work / "gptq").config["quantization_config"]
    models = [m for m in MODELS if m in given.models.split(",")]
    _prepare(given.work, models)
    began = time.monotonic()
    for variant in variants(models, compiled=given.compiled):
        if variant.key in results or (given.only and given.only not in variant.key):
            continue
        if time.monotonic() - began > given.seconds:
            print(f"stopped after {given.seconds:.0f} s; run again for the rest")
            break
        print(variant.key, flush=True)
        results[variant.key] = _guarded(partial(measure, variant, given.work))
        _write(given.out, results)
    if given.kernels:
        results["kernels"] = _guarded(
            lambda: kernel_times(given.work / "gptq", compiled=given.compiled)
        )
        _write(given.out, results)
    print(json.dumps(comparison(results)))


def _guarded(step: Callable[[], Any]) -> Any:
    try:
        return step()
    except Exception as error:  # noqa: BLE001 - a kernel that does not run is a result
        print(f"  failed: {error}"[:300], flush=True)
        return {"error": f"{type(error).__name__}: {error}"[:500]}
    finally:
        gc.collect()
        torch.cuda.empty_cache()


def measure(variant: Variant, work: Path) -> dict[str, Any]:
    """Load, remember the memory, time every shape; answers too, where the model has been trained."""
    directory = work / _directory(variant)
    torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    dtype = getattr(torch, variant.precision)
    decoder = load_decoder(
        directory, torch.device("cuda"), dtype, variant.kernel, joined=variant.joined
    )
    torch.cuda.synchronize()
    loaded = time.perf_counter() - began
    rows, lengths = (ROWS, LENGTHS) if "graphs" in variant.execution else (FEW_ROWS, FEW_LENGTHS)
    shapes = tuple((r, n) for r in rows for n in lengths if r * n <= MOST_CELLS)
    runner = make_runner(decoder, Given(shapes), variant.execution)  # type: ignore[arg-type]
    ready = time.perf_counter() - began
    times = {f"{rows}x{length}": _time(decoder, runner, rows, length) for rows, length in shapes}
    result = {
        "load_s": round(loaded, 2),
        "ready_s": round(ready, 2),
        "weights_mb": round(decoder.weight_bytes / 1e6, 1),
        "allocated_mb": round(torch.cuda.max_memory_allocated() / 1e6, 1),
        "reserved_mb": round(torch.cuda.memory_reserved() / 1e6, 1),
        "shapes": times,
    }
    del runner, decoder
    if variant.model != "llama-1b":
        gc.collect()
        torch.cuda.empty_cache()
        result |= _guarded(lambda: served(variant, directory, work))
    return result


def _time(decoder: Decoder, runner: Any, rows: int, length: int) -> dict[str, float]:
    """From token ids on the CPU to states of the last tokens on the CPU, in ms."""
    generator = torch.Generator().manual_seed(rows * length)
    most = decoder.vocabulary
    ids = [torch.randint(5, most, (rows, length), generator=generator) for _ in range(4)]
    last = torch.full((rows,), length - 1)
    taken: list[float] = []
    with torch.inference_mode():
        for number in range(REPEATS + 5):
            began = time.perf_counter()
            runner(ids[number % 4])[torch.arange(rows), last].float().cpu()
            taken.append(time.perf_counter() - began)
            if sum(taken) > PATIENCE and number > 12:
                break
    timed = np.array(taken[5:]) * 1e3
    p50 = float(np.percentile(timed, 50))
    return {
        "p50_ms": round(p50, 3),
        "p99_ms": round(float(np.percentile(timed, 99)), 3),
        "messages_per_s": round(rows / p50 * 1e3, 1),
    }


def served(variant: Variant, directory: Path, work: Path) -> dict[str, Any]:
    """The backend as the service has it: times of real messages, and answers against the CPU's."""
    content = json.loads((work / "messages.json").read_text())
    artifact = Store(work / "store").resolve(*content["model"].split("/"))
    manifest = artifact.manifest
    backend = GptqBackend(
        directory,
        manifest.prompt,
        manifest.max_message_tokens,
        LIMITS,
        precision=variant.precision,  # type: ignore[arg-type]
        kernel=variant.kernel,
        execution=variant.execution,
        joined=variant.joined,
    )
    try:
        classifier = Classifier(backend, read_model(artifact.directory, manifest))
        messages = [classifier.prepare(text) for text in content["texts"]]
        times = {}
        for rows in SERVED:
            taken = []
            for start in range(0, len(messages) - rows, max(rows // 4, 4)):
                began = time.perf_counter()
                backend.embed([m.tokens for m in messages[start : start + rows]])
                taken.append((time.perf_counter() - began) * 1e3)
            p50, p99 = (float(value) for value in np.percentile(taken[3:], (50, 99)))
            times[str(rows)] = {
                "p50_ms": round(p50, 3),
                "p99_ms": round(p99, 3),
                "messages_per_s": round(rows / p50 * 1e3, 1),
            }
        times["cart"] = _cart_time(backend)
        states = np.concatenate(
            [backend.embed([m.tokens for m in b]) for b in batches(messages, backend.info)]
        )
    finally:
        backend.close()
    if variant.model == "gemma-4bit":
        return {"served_ms": times}  # rounded only: its answers say nothing
    expected = load_file(work / "expected.safetensors")["states"].float().numpy()
    texts = [message.text for message in messages]
    answers = [
        decide(classifier.evidence(s, texts), classifier.model.calibration, manifest.intents)
        for s in (states, expected)
    ]
    agreed = [a.intent == b.intent for a, b in zip(*answers, strict=True)]
    gguf = content.get("gguf_intents")
    alike = [a.intent == b for a, b in zip(answers[0], gguf, strict=True)] if gguf else []
    cosines = (states * expected).sum(1) / (
        np.linalg.norm(states, axis=1) * np.linalg.norm(expected, axis=1)
    )
    return {
        "served_ms": times,
        "agreement_with_cpu": round(float(np.mean(agreed)), 4),
        "agreement_with_gguf": round(float(np.mean(alike)), 4) if alike else None,
        "least_cosine": round(float(cosines.min()), 5),
    }


def _cart_time(backend: GptqBackend) -> dict[str, float]:
    """A message of 16 tokens after a catalog of 30 products of 10 tokens, all of it computed anew."""
    catalog = MarkedTokens(tuple(range(100, 400)), tuple(range(9, 300, 10)))
    message = MarkedTokens(tuple(range(500, 516)), tuple(range(10, 16)))
    taken = []
    for _ in range(60):
        began = time.perf_counter()
        backend.embed_after(catalog, message)
        taken.append((time.perf_counter() - began) * 1e3)
    p50, p99 = np.percentile(taken[10:], (50, 99))
    return {"p50_ms": round(float(p50), 3), "p99_ms": round(float(p99), 3)}


def kernel_times(checkpoint: Path, *, compiled: bool) -> dict[str, Any]:
    """Each kernel on one matrix of each shape, replayed from a graph: microseconds by rows."""
    matrices = joined(Checkpoint(checkpoint).read()[1])
    shapes = {(matrix.rows, matrix.columns): matrix for matrix in matrices.values()}
    device = torch.device("cuda")
    found: dict[str, Any] = {}
    for name, build in KERNELS.items():
        if name == "torch" or (name in COMPILED and not compiled):
            continue
        dtype = torch.float16 if name == "exllama_v2" else torch.bfloat16
        for (rows, columns), matrix in shapes.items():
            try:
                layer = build(matrix, dtype, device)
                times = [_graph_time(layer, m, columns, dtype) for m in (16, 64, 256, 1024, 4096)]
                found[f"{name} {rows}x{columns}"] = times
            except Exception as error:  # noqa: BLE001 - one that does not load is a result
                found[f"{name} {rows}x{columns}"] = str(error)[:200]
                break
    return found


@torch.inference_mode()  # type: ignore[untyped-decorator]
def _graph_time(layer: Any, rows: int, columns: int, dtype: torch.dtype) -> float:
    states = torch.randn(rows, columns, device="cuda", dtype=dtype)
    for _ in range(3):
        layer(states)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(20):
            layer(states)
    graph.replay()
    torch.cuda.synchronize()
    began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    began.record()
    for _ in range(10):
        graph.replay()
    ended.record()
    torch.cuda.synchronize()
    return round(float(began.elapsed_time(ended)) * 1e3 / 200, 2)


def _directory(variant: Variant) -> str:
    packed = variant.kernel is not None
    if variant.model == "gemma-4bit":
        return "gptq-4bit"
    if variant.model == "gemma":
        return "gptq" if packed else "plain"
    return "llama-gptq" if packed else "llama-plain"


def _prepare(work: Path, models: list[str]) -> None:
    """Model directories beside the checkpoint: its weights unpacked, and random ones of Llama's shape."""
    if "gemma" in models and not (work / "plain").is_dir():
        write_plain(work / "gptq", work / "plain")
    if "gemma-4bit" in models and not (work / "gptq-4bit").is_dir():
        write_four_bits(work / "gptq", work / "gptq-4bit")
    if "llama-1b" in models and not (work / "llama-plain").is_dir():
        write_llama(work)
        write_plain(work / "llama-gptq", work / "llama-plain")


def _machine() -> dict[str, Any]:
    import transformers

    properties = torch.cuda.get_device_properties(0)
    return {
        "device": properties.name,
        "memory_gb": round(properties.total_memory / 1e9),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def _write(path: Path, results: dict[str, Any]) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(results, indent=1))
    partial.replace(path)


def _arguments() -> Any:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("work", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--only", help="Variants whose name contains this.")
    parser.add_argument("--seconds", type=float, default=240.0, help="Begin none after so long.")
    parser.add_argument("--compiled", action="store_true", help="Kernels that nvcc compiles too.")
    parser.add_argument("--kernels", action="store_true", help="Each kernel alone, at the end.")
    parser.add_argument("--again", action="store_true", help="Forget earlier results.")
    return parser.parse_args()


if __name__ == "__main__":
    main()
