"""From tuned weights to a published version: build, calibrate, evaluate, and the manifest last.

Everything is measured on the weights that will be served: quantised, on the backend that serves them.
A crash on the way leaves a directory without a manifest, which no one serves and the next run reuses.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt

from app.artifacts.base_package import Progress, silent
from app.artifacts.manifest import (
    MANIFEST,
    Golden,
    Label,
    Manifest,
    PromptSpec,
    WeightsRecipe,
    describe_file,
    write_manifest,
)
from app.artifacts.store import Artifact
from app.backends.base import Backend, BackendOptions
from app.backends.factory import open_backend
from app.backends.gguf_importance import measure_importance, write_importance
from app.backends.gguf_quantise import PRECISE, Quantisation
from app.backends.gguf_weights import build_weights
from app.classification.classifier import Classifier, IntentModel
from app.classification.decision import Calibration, Evidence, decide
from app.classification.head import Head, unit
from app.classification.loading import batches, load_classifier
from app.classification.model_files import write_model
from app.classification.ngrams import NgramModel
from app.classification.prompt import Prompt, normalise
from app.domain import OUT_OF_SCOPE
from training.adapter_files import Adapter, write_adapter
from training.bases import MAX_MESSAGE_TOKENS, Base
from training.calibrate import OUT_SHARE, calibrate
from training.evaluate import Evaluation, TestSet, evaluate
from training.examples import Example
from training.report import write_report

IMPORTANCE = "importance.safetensors"
IMPORTANCE_TEXTS = 300
UNCALIBRATED = Calibration(0.5, 0.5, (0.0,) * 8, 0.0, (0.0,) * 8, (1.0,) * 8, 0.5)


@dataclass(frozen=True, slots=True)
class Draft:
    """A tuned model and what is known of it, before it has been measured."""

    name: str
    labels: tuple[Label, ...]
    head: Head
    ngrams: NgramModel
    adapters: Sequence[Adapter]
    base: Base
    prompt: Prompt
    quantisation: str
    languages: tuple[str, ...]
    trained_on: tuple[str, ...]
    importance: Mapping[str, npt.NDArray[np.float32]] | None = None
    """Mean squared inputs by tensor, where they are known; measured otherwise."""
    notices: Sequence[Path] = field(default_factory=tuple)

    @property
    def intents(self) -> tuple[str, ...]:
        return tuple(label.intent for label in self.labels)


def publish(
    draft: Draft,
    store: Path,
    prototypes_from: Sequence[Example],
    held_out: Sequence[Example] | Calibration,
    test_sets: Sequence[TestSet],
    golden: Sequence[str],
    threads: int,
    least_coverage: float = 0.0,
    out_share: float = OUT_SHARE,
    rehearsed: Sequence[Evaluation] = (),
    progress: Progress = silent,
) -> Artifact:
    """Write the next version of ``draft.name``.

    ``held_out`` fixes fusion, gate and threshold (or brings a calibration fitted on folds);
    ``test_sets`` are only reported, after what a rehearsal has measured already. ``golden`` messages are
    answered and kept as the check that every load repeats.
    """
    directory = _next_version(store / draft.name)
    paths = _write_parts(directory, draft)
    texts = [normalise(example.text) for example in prototypes_from[:IMPORTANCE_TEXTS]]
    paths += _write_importance(directory, draft, paths, texts, threads, progress)
    manifest = _manifest(draft, directory, paths)
    artifact = Artifact(directory, manifest)
    build_weights(artifact, progress)
    backend = open_backend(artifact, BackendOptions(threads=threads), None)
    try:
        classifier = Classifier(backend, _model(draft, backend, prototypes_from, progress))
        calibration = (
            held_out
            if isinstance(held_out, Calibration)
            else _calibrate(classifier, held_out, least_coverage, out_share, progress)
        )
        model = replace(classifier.model, calibration=calibration)
        classifier = Classifier(backend, model)
        evaluations = [
            *rehearsed,
            *(
                evaluate(
                    test,
                    weigh_all(classifier, test.examples, progress, test.name),
                    model.labels,
                    calibration,
                )
                for test in test_sets
            ),
        ]
        answers = decide(
            weigh_all(classifier, [Example(t, OUT_OF_SCOPE) for t in golden], progress, "golden"),
            calibration,
            model.labels,
        )
    finally:
        backend.close()
    paths += write_model(directory, model)
    paths += write_report(directory, manifest, calibration, evaluations)
    manifest = manifest.model_copy(
        update={
            "files": tuple(describe_file(directory, path) for path in sorted(set(paths))),
            "golden": tuple(
                Golden(text=text, intent=answer.intent, confidence=round(answer.confidence, 4))
                for text, answer in zip(golden, answers, strict=True)
            ),
            "evaluation": _headline(evaluations),
        }
    )
    published = Artifact(directory, manifest)
    load_classifier(published, BackendOptions(threads=threads)).close()
    write_manifest(directory, manifest)
    return published


def _write_importance(
    directory: Path,
    draft: Draft,
    paths: Sequence[str],
    texts: Sequence[str],
    threads: int,
    progress: Progress,
) -> tuple[str, ...]:
    """What the quantiser weighs errors by, measured on unquantised weights; none for 8 bits and more."""
    if Quantisation.parse(draft.quantisation).default in PRECISE:
        return ()
    importance = draft.importance
    if importance is None:
        precise = _manifest(replace(draft, quantisation="F16"), directory, paths)
        weights = build_weights(Artifact(directory, precise), progress)
        progress("measure importance", 0, len(texts))
        importance = measure_importance(weights, precise.prompt, texts, threads=threads)
        shutil.rmtree(weights.parent)
    write_importance(directory / IMPORTANCE, dict(importance))
    return (IMPORTANCE,)


def weigh_all(
    classifier: Classifier, examples: Sequence[Example], progress: Progress, step: str
) -> Evidence:
    """Evidence on many messages, in order, through the serving backend."""
    parts: list[Evidence] = []
    done = 0
    order = sorted(range(len(examples)), key=lambda i: len(examples[i].text))
    messages = [classifier.prepare(examples[i].text) for i in order]
    for batch in batches(messages, classifier.backend.info):
        parts.append(classifier.weigh(batch))
        done += len(batch)
        progress(f"measure {step}", done, len(messages))
    back = np.argsort(order)
    return Evidence(
        lm=np.concatenate([part.lm for part in parts])[back],
        ngram=np.concatenate([part.ngram for part in parts])[back],
        prototype_cosine=np.concatenate([part.prototype_cosine for part in parts])[back],
        known_share=np.concatenate([part.known_share for part in parts])[back],
    )


def prototypes_of(
    states: npt.NDArray[np.float32], intents: Sequence[str], labels: Sequence[str]
) -> npt.NDArray[np.float32]:
    """Mean directions (in-scope labels with examples, hidden), of unit length."""
    directions = unit(states) / np.float32(np.sqrt(states.shape[1]))
    rows = []
    for label in labels:
        members = directions[np.array([intent == label for intent in intents])]
        if label != OUT_OF_SCOPE and len(members):
            mean = members.mean(axis=0)
            rows.append(mean / np.linalg.norm(mean))
    return np.stack(rows).astype(np.float32)


def _model(
    draft: Draft, backend: Backend, examples: Sequence[Example], progress: Progress
) -> IntentModel:
    rough = IntentModel(
        draft.intents,
        draft.head,
        draft.ngrams,
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


def _calibrate(
    classifier: Classifier,
    held_out: Sequence[Example],
    least_coverage: float,
    out_share: float,
    progress: Progress,
) -> Calibration:
    labels = list(classifier.model.labels)
    return calibrate(
        weigh_all(classifier, held_out, progress, "held-out set"),
        np.array([labels.index(example.intent) for example in held_out]),
        labels.index(OUT_OF_SCOPE),
        out_share=out_share,
        least_coverage=least_coverage,
    )


def _next_version(model: Path) -> Path:
    """The directory of the version after the last published one, emptied of an aborted try."""
    model.mkdir(parents=True, exist_ok=True)
    published = [
        int(path.parent.name) for path in model.glob(f"*/{MANIFEST}") if path.parent.name.isdigit()
    ]
    directory = model / str(max(published, default=0) + 1)
    if directory.exists():
        shutil.rmtree(directory)
    directory.mkdir()
    return directory


def _write_parts(directory: Path, draft: Draft) -> tuple[str, ...]:
    paths = []
    for number, adapter in enumerate(draft.adapters, start=1):
        paths.append(f"adapter-{number}.safetensors")
        write_adapter(directory / paths[-1], adapter)
    for notice in draft.notices:
        paths.append(notice.name)
        shutil.copyfile(notice, directory / notice.name)
    return tuple(paths)


def _manifest(draft: Draft, directory: Path, paths: Sequence[str]) -> Manifest:
    return Manifest(
        name=draft.name,
        version=directory.name,
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
        ),
        files=tuple(describe_file(directory, path) for path in paths),
        golden=(),
        evaluation={},
        trained_on=draft.trained_on,
        licence=draft.base.licence,
        notices=tuple(notice.name for notice in draft.notices),
    )


def _headline(evaluations: Sequence[Evaluation]) -> dict[str, float]:
    figures = {}
    for evaluation in evaluations:
        figures[f"{evaluation.name}.accuracy"] = round(evaluation.fused.accuracy.value, 4)
        if not np.isnan(evaluation.fused.auroc):
            figures[f"{evaluation.name}.auroc"] = round(evaluation.fused.auroc, 4)
            figures[f"{evaluation.name}.out_recall"] = round(evaluation.fused.out_recall.value, 4)
    return figures
