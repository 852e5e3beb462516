"""What an adapter costs when llama.cpp applies it at run time, against weights that it was merged into.

The question behind docs/decisions/0013: may many shops share one set of weights in memory? Nothing of this
is served.
"""

from __future__ import annotations

import ctypes
import gc
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import gguf
import llama_cpp
import numpy as np
import numpy.typing as npt

from app.artifacts.manifest import PromptSpec
from app.backends.base import BackendOptions, TokenIds
from app.backends.gguf import GgufBackend
from app.backends.gguf_file import GgufFile
from app.backends.llama_context import LlamaModel
from app.errors import InferenceFailed
from training.adapter_files import Adapter

MESSAGE_TOKENS = 24
FIRST_TOKEN = 1000
BATCH = 16
_PROMPT = PromptSpec(prefix="", suffix="\n")


def write_adapter_gguf(path: Path, adapter: Adapter, architecture: str) -> None:
    """Factors, laid out as the GGUF file's tensors are, as llama.cpp's adapter file (float16)."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_string("general.type", "adapter")
    writer.add_string("adapter.type", "lora")
    # llama.cpp scales by alpha over rank; the scale is folded into b already.
    writer.add_float32("adapter.lora.alpha", float(next(iter(adapter.values()))[0].shape[0]))
    for name, (a, b) in adapter.items():
        writer.add_tensor(f"{name}.lora_a", a.astype(np.float16))
        writer.add_tensor(f"{name}.lora_b", b.astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class AdaptedBackend(GgufBackend):
    """The serving backend with an adapter that is added while it computes."""

    adapter: Path | None = None

    def set_adapter(self, path: Path) -> None:
        """Raises :class:`InferenceFailed` when the adapter does not fit the weights."""
        context = self._open_context()
        handle = llama_cpp.llama_adapter_lora_init(self._model.handle, bytes(path))
        if not handle:
            raise InferenceFailed(f"{path.name} is no adapter for these weights")
        adapters = (llama_cpp.llama_adapter_lora_p_ctypes * 1)(handle)
        scales = (ctypes.c_float * 1)(1.0)
        if llama_cpp.llama_set_adapters_lora(context.handle, adapters, 1, scales):
            raise InferenceFailed(f"{path.name} could not be set")
        self._recover(context)  # the prompt's cells were computed without it


@dataclass(frozen=True, slots=True)
class Timing:
    """Milliseconds of a single message and of a batch: least and median wall time, least CPU time."""

    single_least: float
    single_median: float
    single_cpu: float
    batch_least: float
    batch_median: float
    batch_cpu: float


def architecture_of(weights: Path) -> str:
    """llama.cpp's name of the kind of model, which an adapter must bear too."""
    model = LlamaModel(weights, vocabulary_only=True)
    try:
        name = ctypes.create_string_buffer(64)
        llama_cpp.llama_model_meta_val_str(model.handle, b"general.architecture", name, len(name))
        return name.value.decode()
    finally:
        model.close()


def random_adapter(weights: Path, rank: int, layers: Sequence[int]) -> Adapter:
    """Small random factors for every matrix of some layers: speed does not depend on the numbers."""
    rng = np.random.default_rng(rank)
    adapter: Adapter = {}
    for info in GgufFile(weights).tensors.values():
        if not info.name.startswith("blk.") or len(info.shape) != 2:
            continue
        if int(info.name.split(".")[1]) in layers:
            rows, columns = info.shape
            a = rng.standard_normal((rank, columns), np.float32) * np.float32(1e-3)
            adapter[info.name] = (a, rng.standard_normal((rows, rank), np.float32))
    return adapter


def measure_shapes(weights: Path, threads: int, rounds: int) -> dict[str, Timing]:
    """No adapter, and adapters of several ranks on all layers and on the upper third."""
    tensors = GgufFile(weights).tensors
    layers = 1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("blk."))
    upper, every = range(layers * 2 // 3, layers), range(layers)
    shapes = {"rank 8, upper third": (8, upper), "rank 16, upper third": (16, upper)}
    shapes |= {"rank 16, all layers": (16, every), "rank 32, all layers": (32, every)}
    with TemporaryDirectory() as scratch:
        adapters: dict[str, Path | None] = {"none": None}
        for number, (name, (rank, chosen)) in enumerate(shapes.items()):
            adapters[name] = path = Path(scratch) / f"{number}.gguf"
            write_adapter_gguf(
                path, random_adapter(weights, rank, chosen), architecture_of(weights)
            )
        message = list(range(FIRST_TOKEN, FIRST_TOKEN + MESSAGE_TOKENS))
        return measure(weights, adapters, threads=threads, rounds=rounds, message=message)


def measure(
    weights: Path,
    adapters: Mapping[str, Path | None],
    *,
    threads: int,
    rounds: int,
    message: TokenIds,
) -> dict[str, Timing]:
    """Timings by name; ``None`` is the weights alone. Rounds alternate, so that all meet the same noise."""
    options = BackendOptions(threads=threads, max_sequences=BATCH)
    walls: dict[str, list[tuple[float, float]]] = {name: [] for name in adapters}
    batches: dict[str, list[tuple[float, float]]] = {name: [] for name in adapters}
    with ExitStack() as stack:
        backends = {}
        for name, path in adapters.items():
            backends[name] = AdaptedBackend(weights, _PROMPT, 128, options)
            stack.callback(backends[name].close)
            if path is not None:
                backends[name].set_adapter(path)
        gc.disable()
        stack.callback(gc.enable)
        for turn in range(rounds + 2):
            for name, backend in backends.items():
                single, batch = _timed(backend, [message]), _timed(backend, [message] * BATCH)
                if turn >= 2:  # the first passes set up buffers
                    walls[name].append(single)
                    batches[name].append(batch)
    return {name: Timing(*_summary(walls[name]), *_summary(batches[name])) for name in adapters}


def _timed(backend: GgufBackend, messages: Sequence[TokenIds]) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    backend.embed(messages)
    return (time.perf_counter() - wall) * 1e3, (time.process_time() - cpu) * 1e3


def _summary(times: Sequence[tuple[float, float]]) -> Iterator[float]:
    yield min(wall for wall, _ in times)
    yield statistics.median(wall for wall, _ in times)
    yield min(cpu for _, cpu in times)


def states(
    weights: Path, adapter: Path | None, texts: Sequence[str], threads: int
) -> npt.NDArray[np.float32]:
    """Hidden states (n, hidden) of texts, one at a time."""
    backend = AdaptedBackend(weights, _PROMPT, 384, BackendOptions(threads=threads))
    try:
        if adapter is not None:
            backend.set_adapter(adapter)
        return np.concatenate([backend.embed([backend.tokenise(text)]) for text in texts])
    finally:
        backend.close()
