"""`quantise`: an artifact's merged weights as a GPTQ checkpoint, and what that costs in answers.

The GGUF weights are built from the same base and adapters on the machine that serves them; a GPTQ
checkpoint needs torch and minutes, so it is made here once and laid beside them.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from app.artifacts.base_package import Progress, silent
from app.artifacts.checkpoints import install_checkpoint
from app.artifacts.manifest import write_atomically
from app.artifacts.store import Artifact
from app.backends.base import BackendOptions
from app.backends.gptq import GptqBackend
from app.classification.classifier import Classifier, IntentModel
from app.classification.decision import Evidence, decide
from app.classification.model_files import read_model
from app.classification.prompt import Prompt
from app.domain import OUT_OF_SCOPE
from app.errors import InputError
from training.bases import Base, Tokeniser
from training.examples import Example, read_seeds, take_split
from training.gptq import GptqConfig, quantise
from training.measure import weigh_all
from training.merged import merge_artifact
from training.shop_csv import read_shop_csv
from training.storefront import training_seeds

EVALUATION = "evaluation.json"
SEED = 20
_SEQUENCES, _TOKENS = 64, 2048
"""Messages and tokens of one batch while measuring."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Answers of the quantised weights beside those of the merged ones, 16 bits each, same arithmetic."""

    messages: int
    agreement: float
    """Share of equal decisions, out of scope among them."""
    intent_agreement: float
    """Share of equal best intents, whatever the scope."""
    model_agreement: float
    """Share of equal best labels of the language model alone, before fusion."""
    confidence_shift: float
    """Mean distance between the confidences of the best intents."""
    in_scope_messages: int
    accuracy: float
    merged_accuracy: float
    """In-scope accuracy without threshold; not a number where none of the intents is served."""
    bytes: int
    merged_bytes: int
    """Of the tensors on disk."""


def read_messages(
    calibration: Path | None, dev: Path | None
) -> tuple[list[Example], list[Example]]:
    """Messages to calibrate and to measure on: a shop's own, or the training and dev seeds."""
    return (
        list(read_shop_csv(calibration).examples) if calibration else training_seeds(),
        list(read_shop_csv(dev).examples) if dev else take_split(read_seeds(), "dev"),
    )


def quantise_artifact(
    artifact: Artifact,
    calibration: Sequence[Example],
    dev: Sequence[Example],
    config: GptqConfig,
    threads: int,
    out: Path | None = None,
    progress: Progress = silent,
) -> Comparison:
    """Make, measure and install the GPTQ checkpoint of a published version; replaces an older one.

    An interrupted run leaves the older one as it was. With ``out``, a directory that is not there yet,
    the checkpoint goes to it instead.
    """
    if config.bits not in {4, 8}:
        raise InputError(f"{config.bits} bits: choose 4 or 8")
    if out is not None and out.exists():
        raise InputError(f"{out} is there already")
    artifact.weights_directory.mkdir(exist_ok=True)
    for stale in artifact.weights_directory.glob("quantise-*"):
        shutil.rmtree(stale)
    with TemporaryDirectory(prefix="quantise-", dir=artifact.weights_directory) as work:
        merged, reference = Path(work) / "merged", Path(work) / "bfloat16"
        merge_artifact(artifact, merged, torch.float32, progress)
        merge_artifact(artifact, reference, torch.bfloat16, progress)
        given = artifact.manifest.prompt
        prompt = Prompt(given.prefix, given.suffix)
        tokeniser = Tokeniser(Base(merged, artifact.recipe().base, ""), prompt)
        chosen = random.Random(SEED).sample(
            list(calibration), min(config.messages, len(calibration))
        )
        progress("quantise", 0, 0)
        made = Path(work) / "quantised"
        quantise(merged, tokeniser.prompts([e.text for e in chosen]), config, made, threads)
        comparison = compare(artifact, reference, made, dev, threads, progress)
        write_evaluation(made, config, comparison, len(chosen))
        packages = ("gptqmodel", "torch", "transformers")
        built_with = ", ".join(f"{package} {version(package)}" for package in packages)
        if out is None:
            install_checkpoint(artifact, made, built_with)
        else:
            shutil.move(made, out)
    return comparison


def compare(
    artifact: Artifact,
    merged: Path,
    quantised: Path,
    examples: Sequence[Example],
    threads: int,
    progress: Progress = silent,
) -> Comparison:
    """Both model directories on the same messages, through the serving backend."""
    model = read_model(artifact.directory, artifact.manifest)
    plain, merged_bytes = _weigh(artifact, model, merged, examples, threads, progress)
    packed, size = _weigh(artifact, model, quantised, examples, threads, progress)
    before, after = (decide(e, model.calibration, model.labels) for e in (plain, packed))
    pairs = list(zip(before, after, strict=True))
    served = set(model.labels) - {OUT_OF_SCOPE}
    inside = [i for i, example in enumerate(examples) if example.intent in served]
    hits = [
        [answers[i].ranking[0].intent == examples[i].intent for i in inside]
        for answers in (before, after)
    ]
    return Comparison(
        messages=len(examples),
        agreement=_mean([a.intent == b.intent for a, b in pairs]),
        intent_agreement=_mean([a.ranking[0].intent == b.ranking[0].intent for a, b in pairs]),
        model_agreement=_mean((plain.lm.argmax(axis=1) == packed.lm.argmax(axis=1)).tolist()),
        confidence_shift=_mean(
            [abs(a.ranking[0].confidence - b.ranking[0].confidence) for a, b in pairs]
        ),
        in_scope_messages=len(inside),
        accuracy=_mean(hits[1]),
        merged_accuracy=_mean(hits[0]),
        bytes=size,
        merged_bytes=merged_bytes,
    )


def _weigh(
    artifact: Artifact,
    model: IntentModel,
    checkpoint: Path,
    examples: Sequence[Example],
    threads: int,
    progress: Progress,
) -> tuple[Evidence, int]:
    options = BackendOptions(threads=threads, max_sequences=_SEQUENCES, max_tokens=_TOKENS)
    manifest = artifact.manifest
    backend = GptqBackend(checkpoint, manifest.prompt, manifest.max_message_tokens, options)
    try:
        classifier = Classifier(backend, model)
        evidence = weigh_all(classifier, examples, progress, f"{checkpoint.name} weights")
    finally:
        backend.close()
    return evidence, sum(path.stat().st_size for path in checkpoint.glob("*.safetensors"))


def _mean(values: Sequence[float]) -> float:
    return round(float(np.mean(values)), 5) if values else float("nan")


def write_evaluation(
    directory: Path, config: GptqConfig, comparison: Comparison, calibrated_on: int
) -> None:
    """The comparison as JSON, in the checkpoint that it is about."""
    content = {
        "config": asdict(replace(config, messages=calibrated_on)),
        "against_merged_bfloat16": asdict(comparison),
    }
    text = json.dumps(content, indent=1).replace("NaN", "null")
    write_atomically(directory / EVALUATION, text.encode() + b"\n")
