"""What is measured: formats, tasks, sizes. Nothing here imports a model library."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Literal

Family = Literal["torch", "gguf", "ngrams"]
Task = Literal[
    "labels", "pointers", "known", "json", "grammar", "noise", "prefix", "depth", "turns"
]

DEFAULT, SMALL = "default", "smollm2"
"""The two backbones: the live version of the default model, and SmolLM2-135M tuned here."""


@dataclass(frozen=True, slots=True)
class Format:
    """One way to store the same weights."""

    name: str
    family: Family
    bits: float | None = None
    """Nominal bits of a matrix weight, for ordering; None where it is none of them."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """What torch computes in."""


FORMATS = (
    Format("hf-fp32", "torch", 32),
    Format("hf-bf16", "torch", 16, "bfloat16"),
    Format("F16", "gguf", 16),
    Format("BF16", "gguf", 16),
    Format("Q8_0", "gguf", 8),
    Format("Q6_K", "gguf", 6),
    Format("Q5_K_M", "gguf", 5),
    Format("Q4_K_M", "gguf", 4),
    Format("Q4_0", "gguf", 4),
    Format("IQ4_NL", "gguf", 4),
    Format("Q3_K_M", "gguf", 3),
    Format("Q2_K", "gguf", 2),
    Format("served", "gguf", 4),
    Format("gptq-8", "torch", 8),
    Format("gptq-4", "torch", 4),
    Format("ngrams", "ngrams"),
)
"""``served`` is the artifact's own recipe; the GGUF names are llama.cpp's own mixes."""
VOCABULARIES = (Format("vocabulary-full", "gguf", 4), Format("vocabulary-trimmed", "gguf", 4))
"""The served recipe with every piece of the base's vocabulary, and with those that training chose."""
DEPTHS = tuple(Format(f"depth-{share}", "gguf", 8) for share in (33, 50, 67, 83, 100))
"""Q8_0 cut to that percentage of its layers."""
SOURCE = Format("F32", "gguf", 32)
"""What the GGUF formats are quantised from; not measured."""
_BY_NAME = {one.name: one for one in (*FORMATS, *VOCABULARIES, *DEPTHS, SOURCE)}
NOISE_FORMATS = ("hf-fp32", "Q8_0", "served", "Q4_0", "Q2_K", "ngrams")
SMALL_FORMATS = (
    "hf-fp32",
    "hf-bf16",
    "F16",
    "Q8_0",
    "Q4_K_M",
    "Q4_0",
    "served",
    "gptq-8",
    "ngrams",
)
NOISE_LEVELS = (0, 1, 2, 4)
"""How often :func:`training.noise.noisy` is applied to a message."""
BATCHES = (1, 2, 4, 8, 16, 32)
TURNS: tuple[tuple[str, Task], ...] = (
    ("hf-fp32", "json"),
    ("hf-bf16", "json"),
    ("F16", "json"),
    ("Q4_K_M", "json"),
    ("served", "json"),
    ("served", "grammar"),
    ("served", "pointers"),
    ("served", "known"),
    ("vocabulary-full", "pointers"),
    ("served", "labels"),
)
"""What takes turns on the same rows, so that its ratios hold on a machine whose speed drifts."""
HEADLINE = ("hf-bf16", "Q4_K_M", "served")
"""Formats that claims are about, measured on more rows."""
TURN_TITLES = {f"{form}/{task}": (form, task) for form, task in TURNS}


def format_of(name: str) -> Format:
    return _BY_NAME[name]


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured."""

    messages: int = 400
    """Own test messages, every label and language by its share."""
    singles: int = 60
    """Of them, timed one by one."""
    batch_rounds: int = 3
    carts: int = 100
    """Held-out cart rows for the pointers."""
    carts_headline: int = 240
    """The same for the formats that claims are about."""
    generated: int = 24
    """Of them, answered in JSON through llama.cpp."""
    generated_headline: int = 48
    """The same for the formats that claims are about."""
    generated_torch: int = 16
    """Of them, answered in JSON through torch, which is slower."""
    generated_gptq: int = 6
    """The same with GPTQ's kernels for CPUs, which are slower still."""
    noisy: int = 120
    """Messages at each level of noise."""
    prefix: int = 30
    depth_rows: int = 500
    """Training messages that a cut model's new head is fitted on."""
    turns: int = 5
    turn_rows: int = 4
    """Rows of one turn; the same for every contender."""
    gptq_messages: int = 256
    small_rows: int = 8
    """Training messages of each intent and language group for the second backbone."""
    small_epochs: float = 3.0


QUICK = Sizes(
    messages=48, singles=6, batch_rounds=1, carts=6, carts_headline=8, generated=2,
    generated_headline=3, generated_torch=2, generated_gptq=1, noisy=16, prefix=4, depth_rows=96,
    turns=2, turn_rows=1, gptq_messages=32, small_rows=1, small_epochs=0.5,
)  # fmt: skip

_GENERATED = ("generated", "generated_headline", "generated_torch", "generated_gptq")
SIZES_OF: dict[Task, tuple[str, ...]] = {
    "labels": ("messages", "singles", "batch_rounds"),
    "pointers": ("carts", "carts_headline"),
    "json": _GENERATED,
    "grammar": _GENERATED,
    "noise": ("noisy",),
    "prefix": ("prefix",),
    "depth": ("messages", "singles", "depth_rows"),
    "turns": ("turns", "turn_rows"),
}
"""The sizes that a task's result depends on."""
WEIGHTS_SIZES = {"gptq-8": ("gptq_messages",), "gptq-4": ("gptq_messages",)}
SMALL_SIZES = ("small_rows", "small_epochs")


@dataclass(frozen=True, slots=True)
class Trial:
    """One configuration: what a child process measures and one result file keeps."""

    backbone: str
    format: str
    task: Task

    @property
    def name(self) -> str:
        return f"{self.backbone}/{self.format}/{self.task}"


def trials(only: Sequence[str] = ()) -> Iterator[Trial]:
    """All of them, or those whose name one of the patterns matches (``*/Q4_0/*``, ``json``)."""
    for trial in _everything():
        if not only or any(_matches(trial.name, pattern) for pattern in only):
            yield trial


def _matches(name: str, pattern: str) -> bool:
    return fnmatch(name, pattern) or pattern in name.split("/")


def _everything() -> Iterator[Trial]:
    for one in FORMATS:
        yield Trial(DEFAULT, one.name, "labels")
    for one in FORMATS:
        yield Trial(DEFAULT, one.name, "pointers")
    for task in ("json", "grammar"):
        for one in FORMATS:
            if one.family != "ngrams":
                yield Trial(DEFAULT, one.name, task)
    yield Trial(DEFAULT, "all", "turns")
    for name in NOISE_FORMATS:
        yield Trial(DEFAULT, name, "noise")
    yield Trial(DEFAULT, "served", "prefix")
    for one in VOCABULARIES:
        yield Trial(DEFAULT, one.name, "labels")
    for one in DEPTHS:
        yield Trial(DEFAULT, one.name, "depth")
    for name in SMALL_FORMATS:
        yield Trial(SMALL, name, "labels")
