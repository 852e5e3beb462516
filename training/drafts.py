"""A tuned model on its way to an artifact: its parts written, its weights built, its prototypes found."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt

from app.artifacts.base_package import Progress
from app.artifacts.manifest import Label, Manifest, PromptSpec, WeightsRecipe, describe_file
from app.artifacts.store import Artifact
from app.backends.base import Backend
from app.backends.gguf_importance import measure_importance, write_importance
from app.backends.gguf_layers import Layers
from app.backends.gguf_quantise import PRECISE, Quantisation
from app.backends.gguf_weights import build_weights
from app.classification.classifier import Classifier, IntentModel
from app.classification.decision import Calibration
from app.classification.head import Head
from app.classification.loading import batches
from app.classification.ngrams import NgramModel
from app.classification.prompt import Prompt, normalise
from training.adapter_files import IMPORTANCE, Adapter, write_adapter
from training.bases import MAX_MESSAGE_TOKENS, Base
from training.examples import Example
from training.layouts import adapter_to_gguf
from training.measure import prototypes_of

VOCABULARY = "vocabulary.safetensors"
IMPORTANCE_TEXTS = 300
_WIDE = 128
"""Of an adapter: a wider one is kept in 4 bits a number, for git holds it (0032)."""
UNCALIBRATED = Calibration(0.5, 0.5, (0.0,) * 8, 0.0, (0.0,) * 8, (1.0,) * 8, 0.5)


@dataclass(frozen=True, slots=True)
class Draft:
    """A tuned model and what is known of it, before it has been measured."""

    name: str
    labels: tuple[Label, ...]
    head: Head
    ngrams: Callable[[Backend], NgramModel]
    """Makes the other half; from the built weights it may learn (:mod:`training.ngram_teaching`)."""
    adapters: Sequence[Adapter]
    """In the order of their tuning, laid out as ``transformers`` does."""
    base: Base
    prompt: Prompt
    quantisation: str
    languages: tuple[str, ...]
    trained_on: tuple[str, ...]
    importance: Mapping[str, npt.NDArray[np.float32]] | None = None
    """Mean squared inputs by tensor, where they are known; measured otherwise."""
    notices: Sequence[Path] = field(default_factory=tuple)
    vocabulary: Path | None = None
    """Which pieces of the base's vocabulary the weights keep (:mod:`training.vocabulary`); else all."""
    layers: tuple[int, ...] | None = None
    """Which layers of the base the weights keep, by their numbers in the base; else all."""

    @property
    def intents(self) -> tuple[str, ...]:
        return tuple(label.intent for label in self.labels)


def build_draft(
    draft: Draft,
    directory: Path,
    version: str,
    examples: Sequence[Example],
    store: Path,
    threads: int,
    progress: Progress,
) -> Artifact:
    """Write the parts that weights are made from into ``directory``, and build the weights there.

    ``examples`` are what importance is measured on. The manifest is only in memory yet.
    """
    paths = _write_parts(directory, draft)
    texts = [normalise(example.text) for example in examples[:IMPORTANCE_TEXTS]]

    def manifest(quantisation: str) -> Manifest:
        return _manifest(replace(draft, quantisation=quantisation), directory, version, paths)

    if Quantisation.parse(draft.quantisation).default not in PRECISE:
        importance = draft.importance
        if importance is None:
            precise = Artifact(directory, manifest("F16"))
            weights = build_weights(precise, progress, store)
            progress("measure importance", 0, len(texts))
            measured = measure_importance(weights, precise.manifest.prompt, texts, threads=threads)
            layers = Layers(draft.layers)
            importance = {layers.in_base(name): columns for name, columns in measured.items()}
            shutil.rmtree(weights.parent)
        write_importance(directory / IMPORTANCE, dict(importance))
        paths += (IMPORTANCE,)
    artifact = Artifact(directory, manifest(draft.quantisation))
    build_weights(artifact, progress, store)
    return artifact


def find_prototypes(
    draft: Draft, backend: Backend, examples: Sequence[Example], progress: Progress
) -> IntentModel:
    """The draft's model with the mean states of its intents, as the serving backend computes them."""
    rough = IntentModel(
        draft.intents,
        draft.head,
        draft.ngrams(backend),
        np.zeros((1, backend.info.hidden_size), np.float32),
        UNCALIBRATED,
    )
    classifier = Classifier(backend, rough)
    states: list[npt.NDArray[np.float32]] = []
    intents: list[str] = []
    messages = [classifier.prepare(example.text) for example in examples]
    for batch in batches(messages, backend.info):
        states.append(backend.embed([message.tokens for message in batch]))
        intents += [
            example.intent for example in examples[len(intents) : len(intents) + len(batch)]
        ]
        progress("find prototypes", len(intents), len(messages))
    return replace(rough, prototypes=prototypes_of(np.concatenate(states), intents, draft.intents))


def _write_parts(directory: Path, draft: Draft) -> tuple[str, ...]:
    paths = []
    config = draft.base.config()
    for number, adapter in enumerate(draft.adapters, start=1):
        paths.append(f"adapter-{number}.safetensors")
        wide = max(len(a) for a, _ in adapter.values()) > _WIDE
        bits = 4 if wide else 8
        write_adapter(directory / paths[-1], adapter_to_gguf(adapter, config), bits=bits)
    for notice in dict.fromkeys([*draft.notices, *draft.base.notices]):
        paths.append(notice.name)
        shutil.copyfile(notice, directory / notice.name)
    if draft.vocabulary is not None:
        paths.append(VOCABULARY)
        shutil.copyfile(draft.vocabulary, directory / VOCABULARY)
    return tuple(paths)


def _manifest(draft: Draft, directory: Path, version: str, paths: Sequence[str]) -> Manifest:
    return Manifest(
        name=draft.name,
        version=version,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        format="gguf",
        languages=draft.languages,
        labels=draft.labels,
        prompt=PromptSpec(prefix=draft.prompt.prefix, suffix=draft.prompt.suffix),
        max_message_tokens=MAX_MESSAGE_TOKENS,
        hidden_size=draft.head.rows.shape[1],
        weights=WeightsRecipe(
            base=draft.base.origin,
            adapters=tuple(path for path in paths if path.startswith("adapter-")),
            quantisation=draft.quantisation,
            output=f"model-{draft.quantisation.split()[0].lower()}.gguf",
            importance=IMPORTANCE if IMPORTANCE in paths else None,
            vocabulary=VOCABULARY if VOCABULARY in paths else None,
            layers=draft.layers,
        ),
        files=tuple(describe_file(directory, path) for path in paths),
        golden=(),
        evaluation={},
        trained_on=draft.trained_on,
        licence=draft.base.licence,
        notices=tuple(path for path in paths if not path.endswith(".safetensors")),
    )
