"""How a decoder is run: step by step, or each shape recorded once as a CUDA graph and replayed.

A small model's pass is a thousand short steps; launching them one by one takes longer than computing
them. A graph launches them all at once. ``compile`` lets torch fuse steps before they are recorded.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import torch

from app.backends.torch_decoder import Decoder
from app.backends.torch_shapes import Shapes

logger = logging.getLogger(__name__)

Execution = Literal["eager", "compile", "graphs", "compiled graphs"]
Runner: TypeAlias = Callable[[torch.Tensor], torch.Tensor]
"""Token ids (rows, length) on the CPU -> states (rows, length, hidden) on the device.

The states are to be read before the next call.
"""

_WARM_UPS = 3


def make_runner(decoder: Decoder, shapes: Shapes, execution: Execution | None) -> Runner:
    """The runner asked for; by default graphs on a GPU and plain steps on a CPU."""
    execution = execution or ("graphs" if decoder.device.type == "cuda" else "eager")
    forward: Runner = decoder
    if execution in {"compile", "compiled graphs"}:
        forward = replace(decoder, module=torch.compile(decoder.module, dynamic=True))
    if execution in {"graphs", "compiled graphs"}:
        return Recorded(forward, decoder, shapes)
    return Direct(forward, decoder.device)


@dataclass(frozen=True, slots=True)
class Direct:
    """Runs every call anew."""

    forward: Runner
    device: torch.device

    def __call__(self, ids: torch.Tensor) -> torch.Tensor:
        return self.forward(ids.to(self.device))


class Recorded:
    """Replays recorded shapes, and runs step by step what was not foreseen.

    All graphs share one memory pool, one place for token ids and one for states: only one runs at a
    time, and its states are copied to their place before the pool is used again.
    """

    def __init__(self, forward: Runner, decoder: Decoder, shapes: Shapes) -> None:
        self._forward = forward
        self._device = decoder.device
        wanted = list(shapes.all())
        cells = max(rows * length for rows, length in wanted)
        self._ids = torch.zeros(cells, dtype=torch.long, device=self._device)
        self._states = torch.zeros(
            cells, decoder.hidden_size, dtype=decoder.dtype, device=self._device
        )
        self._graphs: dict[tuple[int, int], torch.cuda.CUDAGraph] = {}
        self._pool = torch.cuda.graph_pool_handle()
        began = time.perf_counter()
        for shape in wanted:
            try:
                self._graphs[shape] = self._record(*shape)
            except torch.OutOfMemoryError:
                torch.cuda.empty_cache()
                logger.warning("the shape %d x %d does not fit into memory: not recorded", *shape)
        logger.info("%d shapes recorded in %.1f s", len(wanted), time.perf_counter() - began)

    @property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        return tuple(self._graphs)

    @torch.inference_mode()
    def _record(self, rows: int, length: int) -> torch.cuda.CUDAGraph:
        ids, states = self._views(rows, length)
        stream = torch.cuda.Stream(self._device)
        stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UPS):
                self._forward(ids)
        torch.cuda.current_stream(self._device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # Of this thread's errors only: another version may be serving while this one is loaded.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            states.copy_(self._forward(ids))
        return graph

    def _views(self, rows: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        cells = rows * length
        ids = self._ids[:cells].view(rows, length)
        return ids, self._states[:cells].view(rows, length, -1)

    def __call__(self, ids: torch.Tensor) -> torch.Tensor:
        rows, length = ids.shape
        graph = self._graphs.get((rows, length))
        if graph is None:
            return self._forward(ids.to(self._device))
        place, states = self._views(rows, length)
        place.copy_(ids)
        graph.replay()
        return states
