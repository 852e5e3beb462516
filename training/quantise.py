"""`quantise`: an artifact's merged weights as a GPTQ checkpoint, and what that costs in answers.

The GGUF weights are built from the same base and adapters on the machine that serves them; a GPTQ
checkpoint needs torch and minutes, so it is made here once and laid beside them.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from app.artifacts.base_package import Progress, silent
from app.artifacts.checkpoints import install_checkpoint
from app.artifacts.manifest import write_atomically
from app.artifacts.store import Artifact
from app.backends.gguf_file import GgufFile
from app.backends.gguf_weights import build_weights, kept_vocabulary
from app.classification.prompt import Prompt
from app.errors import GoldenMismatch, InputError
from training.bases import Base, Tokeniser
from training.cart.encoding import CartEncoder
from training.cart.making import draw_rows
from training.examples import Example, read_seeds, take_split
from training.gptq import GptqConfig, quantise
from training.gptq_cost import SEED, Comparison, compare, gives_goldens
from training.merged import base_file, merge_artifact
from training.repacking import BLOCK, repack
from training.shop_csv import read_shop_csv
from training.storefront import training_seeds

EVALUATION = "evaluation.json"


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

    With ``config.repacked`` it holds the numbers of the version's GGUF weights, which are built first.

    An interrupted run leaves the older one as it was. With ``out``, a directory that is not there yet,
    the checkpoint goes to it instead. Raises :class:`GoldenMismatch` where the service would refuse it.
    """
    if config.bits not in {4, 8}:
        raise InputError(f"{config.bits} bits: choose 4 or 8")
    if config.repacked:
        config = _as_repacked(config)
    if out is not None and out.exists():
        raise InputError(f"{out} is there already")
    artifact.weights_directory.mkdir(exist_ok=True)
    for stale in artifact.weights_directory.glob("quantise-*"):
        shutil.rmtree(stale)
    with TemporaryDirectory(prefix="quantise-", dir=artifact.weights_directory) as work:
        merged, reference = Path(work) / "merged", Path(work) / "bfloat16"
        kept = kept_vocabulary(artifact, GgufFile(base_file(artifact, progress)[0]))
        merge_artifact(artifact, merged, torch.float32, progress, kept)
        merge_artifact(artifact, reference, torch.bfloat16, progress, kept)
        made = Path(work) / "quantised"
        chosen = random.Random(SEED).sample(
            list(calibration), min(config.messages, len(calibration))
        )
        if config.repacked:
            repack(build_weights(artifact, progress), merged, config, made)
        else:
            prompts = _prompts(artifact, merged, chosen, config)
            progress("quantise", 0, 0)
            quantise(merged, prompts, config, made, threads)
        if out is None:
            _check_goldens(artifact, made, config, threads)
        comparison = compare(artifact, reference, made, dev, threads, progress)
        write_evaluation(made, config, comparison, len(chosen))
        packages = ("gguf" if config.repacked else "gptqmodel", "torch", "transformers")
        built_with = ", ".join(f"{package} {version(package)}" for package in packages)
        if out is None:
            install_checkpoint(artifact, made, built_with)
        else:
            shutil.move(made, out)
    return comparison


def _as_repacked(config: GptqConfig) -> GptqConfig:
    """What repacking comes to. Raises :class:`InputError` where something else was asked for."""
    asked = config.bits, config.group_size or BLOCK, config.desc_act, config.plain
    if asked != (8, BLOCK, False, ()):
        raise InputError(
            "GGUF's numbers are repacked as they are: "
            f"in 8 bits, groups of {BLOCK}, all matrices, in order"
        )
    return replace(config, group_size=BLOCK, messages=0, carts=0)


def _prompts(
    artifact: Artifact, merged: Path, chosen: Sequence[Example], config: GptqConfig
) -> list[tuple[int, ...]]:
    """Token ids of the messages, and of carts where the model reads them."""
    given = artifact.manifest.prompt
    prompt = Prompt(given.prefix, given.suffix)
    tokeniser = Tokeniser(Base(merged, artifact.recipe().base, ""), prompt)
    prompts = tokeniser.prompts([example.text for example in chosen])
    if artifact.manifest.cart is not None:
        prompts += _cart_prompts(tokeniser, config.carts)
    return prompts


def _cart_prompts(tokeniser: Tokeniser, count: int) -> list[tuple[int, ...]]:
    """The weights read carts too: catalogs with a message."""
    encoder = CartEncoder(tokeniser.plain, tokeniser.beginning, tokeniser.end)
    return [encoder.encode(row).tokens for row in draw_rows("train", count, SEED)]


def _check_goldens(artifact: Artifact, made: Path, config: GptqConfig, threads: int) -> None:
    try:
        gives_goldens(artifact, made, threads)
    except GoldenMismatch as error:
        raise GoldenMismatch(
            f"{error}: the service would refuse {config.bits}-bit weights like these, so they are not "
            "installed; try 8 bits, or --out to look at them"
        ) from error


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
