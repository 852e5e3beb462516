"""The child: ``python -m study.worker`` reads one job from standard input and measures it.

The first line in is the job; the last line out is the result. With ``turns`` each further line in asks
for some rows, and the line out gives their seconds. Whatever libraries print goes to standard error.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

from study.contender import Contender, Job
from study.machine import forget_peak, memory


def open_contender(job: Job) -> Contender:
    """What the job is about, loaded and warm."""
    if job.family == "ngrams":
        from study.carts import NgramCarts
        from study.labels import NgramLabels

        return NgramCarts(job) if job.task == "pointers" else NgramLabels(job)
    if job.task in {"labels", "noise"}:
        from study.labels import Labels

        return Labels(job)
    if job.task == "depth":
        from study.depth import CutLabels

        return CutLabels(job)
    if job.task in {"pointers", "prefix", "known"}:
        from study.carts import KnownCatalog, Pointers, PrefixCache

        kinds = {"pointers": Pointers, "prefix": PrefixCache, "known": KnownCatalog}
        return kinds[job.task](job)
    return _generator(job)


def _generator(job: Job) -> Contender:
    from study.generation import Decoder, JsonAnswers

    decoder: Decoder
    if job.family == "gguf":
        from study.llama_generation import LlamaDecoder

        decoder = LlamaDecoder(Path(job.weights), job.threads)
    else:
        from study.torch_generation import TorchDecoder

        decoder = TorchDecoder(Path(job.weights), job.precision, Path(job.vocabulary), job.threads)
    return JsonAnswers(job, decoder)


def main() -> None:
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(content: dict[str, Any]) -> None:
        channel.write(json.dumps(content, default=float) + "\n")
        channel.flush()

    job = Job(**json.loads(sys.stdin.readline()))
    rows = json.loads(Path(job.rows).read_bytes())[: job.sizes["rows"]]
    before = memory()
    started = perf_counter()
    contender = open_contender(job)
    result: dict[str, Any] = {
        "load_seconds": perf_counter() - started,
        "memory_before": before,
        "memory_loaded": memory(),
    }
    forget_peak()
    if job.turns:
        say(result)
        for line in sys.stdin:
            asked = json.loads(line)
            chosen = [rows[i % len(rows)] for i in range(asked["start"], asked["stop"])]
            say({"seconds": [contender.answer(row).seconds for row in chosen]})
        result = {}
    else:
        result |= contender.everything(rows)
    say({**result, "memory": memory()})
    contender.close()


if __name__ == "__main__":
    main()
