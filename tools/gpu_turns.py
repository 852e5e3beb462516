"""What a GPU itself takes for a pass of 16 bits and of GPTQ: graphs replayed in turns in one process.

    python tools/gpu_turns.py /tmp/gpu --out turns.json
    python tools/gpu_turns.py --out turns.json

/tmp/gpu is as for tools/gpu_run.py, with its ``plain`` directory. Without it random weights in the shape
of Gemma 3 270M are measured, in groups of 128 and of 32, and nothing has to be carried there. Prompts of
24 tokens, and one of 384 as a cart is. Callers see more than this, what the host does (tools/gpu_run.py):
that differs from process to process by more than these two differ.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

# Beside this script:
from gpu_models import write_plain
from gpu_random import Sizes, made, matrices, unpacked

from app.backends.torch_decoder import Decoder, bytes_of, load_decoder

SHAPES = (*((rows, 24) for rows in (1, 2, 3, 4, 6, 8, 16, 32, 64)), (1, 384))
ROUNDS, REPLAYS, WARM_UPS = 7, 60, 20
PLAIN = "bfloat16"


@torch.inference_mode()  # type: ignore[untyped-decorator]
def recorded(decoder: Decoder, ids: torch.Tensor) -> torch.cuda.CUDAGraph:
    """A pass over ``ids``, which must be kept as long as the graph."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            decoder(ids)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        decoder(ids)
    return graph


def microseconds(graph: torch.cuda.CUDAGraph) -> float:
    """Of a replay among many without a pause."""
    began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    for _ in range(WARM_UPS):
        graph.replay()
    began.record()
    for _ in range(REPLAYS):
        graph.replay()
    ended.record()
    torch.cuda.synchronize()
    return float(began.elapsed_time(ended)) * 1e3 / REPLAYS


def packed(work: Path, device: torch.device) -> dict[str, Decoder]:
    """A checkpoint, packed and made plain at load, and its weights and table in 16 bits."""
    if not (work / "plain").is_dir():
        write_plain(work / "gptq", work / "plain")
    return {
        PLAIN: load_decoder(work / "plain", device, torch.bfloat16),
        "gptq": load_decoder(work / "gptq", device, torch.bfloat16, "triton"),
        "gptq plain": load_decoder(work / "gptq", device, torch.bfloat16, "dense"),
    }


def random(device: torch.device) -> dict[str, Decoder]:
    """Random weights: in 16 bits, and packed in groups of 128 and of 32."""
    sizes = Sizes()
    coarse, fine = (matrices(sizes, group, device) for group in (128, 32))
    return {
        PLAIN: made(sizes, {}, unpacked(sizes, coarse), device),
        "gptq": made(sizes, coarse, {}, device),
        "gptq groups of 32": made(sizes, fine, {}, device),
    }


def main() -> None:
    """Measure every shape, and print a line and write a row for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("work", type=Path, nargs="?")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    device = torch.device("cuda")
    decoders = random(device) if given.work is None else packed(given.work, device)
    highest = 60_000 if given.work else Sizes().vocabulary
    modules = {name: getattr(decoder, "module", decoder) for name, decoder in decoders.items()}
    rows = {"MB of weights": {name: bytes_of(module) / 1e6 for name, module in modules.items()}}
    print(rows, flush=True)
    for count, length in SHAPES:
        ids = torch.randint(5, highest, (count, length), device=device)
        graphs = {name: recorded(decoder, ids) for name, decoder in decoders.items()}
        taken: dict[str, list[float]] = {name: [] for name in graphs}
        for _ in range(ROUNDS):
            for name, graph in graphs.items():
                taken[name].append(microseconds(graph))
        row = {name: statistics.median(times) for name, times in taken.items()}
        for name in graphs.keys() - {PLAIN}:
            pairs = zip(taken[name], taken[PLAIN], strict=True)
            row[f"{name} ratio"] = statistics.median(ours / theirs for ours, theirs in pairs)
        rows[f"{count}x{length}"] = {name: round(value, 3) for name, value in row.items()}
        print(f"{count}x{length}", rows[f"{count}x{length}"], flush=True)
        given.out.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
