"""Whole small artifacts on true backends: random weights, and a head of their own examples' states."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from app.artifacts.manifest import (
    BaseFile,
    Golden,
    Manifest,
    PromptSpec,
    WeightsRecipe,
    describe_file,
    sha256_of,
    write_manifest,
)
from app.artifacts.store import Artifact
from app.backends.base import Backend, BackendOptions
from app.backends.factory import open_backend
from app.backends.gguf_file import GgufFile
from app.backends.gguf_vocabulary import Vocabulary, write_kept
from app.classification.classifier import Classifier, IntentModel
from app.classification.head import Head, unit
from app.classification.model_files import write_model
from app.domain import OUT_OF_SCOPE
from tests.backends.tiny_gguf import write_lora, write_tiny_gguf
from tests.fake_artifact import EXAMPLES, fake_manifest, fake_model

OPTIONS = BackendOptions(threads=1, max_sequences=4, max_tokens=128, max_prefix_tokens=64)
MAX_MESSAGE_TOKENS = 96


@dataclass(frozen=True, slots=True)
class Case:
    """An artifact in a store, and the kind of backend that it is tried on."""

    store: Path
    name: str
    kind: str


def write_tiny_intents(store: Path, name: str = "tiny", left_out: str = "") -> Artifact:
    """A random Gemma with an adapter; 8 bits in GGUF, so that what tests see is the other side's loss.

    Its weights have no pieces of the vocabulary that hold a byte of ``left_out``.
    """
    directory = store / name / "1"
    directory.mkdir(parents=True)
    base = write_tiny_gguf(store / "base.gguf")
    write_lora(directory / "adapter.safetensors")
    recipe = WeightsRecipe(
        base=BaseFile(path=base.name, sha256=sha256_of(base)),
        adapters=("adapter.safetensors",),
        vocabulary="vocabulary.safetensors" if left_out else None,
        quantisation="Q8_0",
        output="tiny.gguf",
    )
    if left_out:
        pieces = Vocabulary.read(GgufFile(base)).pieces
        kept = [n for n, piece in enumerate(pieces) if not set(left_out.encode()) & set(piece)]
        write_kept(directory / "vocabulary.safetensors", kept, len(pieces))
    manifest = _manifest(name).model_copy(update={"format": "gguf", "weights": recipe})
    from app.backends.gguf_weights import build_weights

    files = tuple(describe_file(directory, path) for path in recipe.inputs)
    artifact = Artifact(directory, manifest.model_copy(update={"files": files}))
    build_weights(artifact)
    return _publish(artifact, recipe.inputs)


def write_checkpoint_intents(store: Path, checkpoint: Path, name: str) -> Artifact:
    """A GPTQ checkpoint that is published whole: no recipe, nothing to build."""
    directory = store / name / "1"
    shutil.copytree(checkpoint, directory / "gptq")
    paths = tuple(f"gptq/{path.name}" for path in sorted(checkpoint.iterdir()))
    manifest = _manifest(name).model_copy(
        update={
            "format": "gptq",
            "files": tuple(describe_file(directory, path) for path in paths),
        }
    )
    return _publish(Artifact(directory, manifest), paths)


def _manifest(name: str) -> Manifest:
    return fake_manifest(name).model_copy(
        update={
            "max_message_tokens": MAX_MESSAGE_TOKENS,
            "prompt": PromptSpec(prefix="where ", suffix="\n"),
        }
    )


def _publish(artifact: Artifact, paths: tuple[str, ...]) -> Artifact:
    directory = artifact.directory
    backend = open_backend(artifact, OPTIONS)
    try:
        model = intent_model(backend)
        paths += write_model(directory, model)
        classifier = Classifier(backend, model)
        texts = [texts[0] for texts in EXAMPLES.values()]
        answers = [classifier.classify([classifier.prepare(text)])[0] for text in texts]
    finally:
        backend.close()
    golden = tuple(
        Golden(text=text, intent=answer.intent, confidence=answer.confidence)
        for text, answer in zip(texts, answers, strict=True)
    )
    manifest = artifact.manifest.model_copy(
        update={
            "hidden_size": backend.info.hidden_size,
            "files": tuple(describe_file(directory, path) for path in paths),
            "golden": golden,
        }
    )
    write_manifest(directory, manifest)
    return Artifact(directory, manifest)


def intent_model(backend: Backend) -> IntentModel:
    """Rows are what sets the mean states of an intent's examples apart from those of the others."""
    states = [
        unit(np.concatenate([backend.embed([backend.tokenise(text)]) for text in texts]))
        for texts in EXAMPLES.values()
    ]
    means = np.stack([group.mean(axis=0) for group in states])
    rows = means - means.mean(axis=0)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    inside = [label != OUT_OF_SCOPE for label in EXAMPLES]
    prototypes = means[inside] / np.linalg.norm(means[inside], axis=1, keepdims=True)
    model = fake_model()
    return replace(
        model,
        head=Head(rows.astype(np.float32), np.zeros(len(rows), np.float32)),
        prototypes=prototypes.astype(np.float32),
    )
