"""From a measured model to a published version: report and golden answers written, the manifest last.

Everything is measured on the weights that will be served: quantised, on the backend that serves them.
A crash on the way leaves a directory without a manifest, which no one serves and the next run reuses.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import numpy as np

from app.artifacts.base_package import Progress, silent
from app.artifacts.manifest import (
    MANIFEST,
    Golden,
    Manifest,
    describe_file,
    write_manifest,
)
from app.artifacts.store import Artifact
from app.backends.base import Backend, BackendOptions
from app.backends.factory import open_backend
from app.classification.cascade import Cascade
from app.classification.classifier import Classifier, IntentModel
from app.classification.decision import Calibration
from app.classification.loading import load_classifier
from app.classification.model_files import write_cart, write_model
from app.domain import OUT_OF_SCOPE
from training.calibrate import OUT_SHARE, calibrate
from training.cart.making import MadeCart, write_cart_report
from training.cascade import fit_cascade
from training.drafts import Draft, build_draft, find_prototypes
from training.evaluate import Evaluation, TestSet, evaluate
from training.examples import Example
from training.measure import answers, weigh_all
from training.report import Making, write_report

__all__ = ["Draft", "publish"]

MakeCart: TypeAlias = Callable[[Backend], MadeCart]


def publish(
    draft: Draft,
    store: Path,
    prototypes_from: Sequence[Example],
    held_out: Sequence[Example],
    test_sets: Sequence[TestSet],
    golden: Sequence[str],
    threads: int,
    least_coverage: float = 0.0,
    out_share: float = OUT_SHARE,
    progress: Progress = silent,
    make_cart: MakeCart | None = None,
) -> Artifact:
    """Write the next version of ``draft.name``, calibrated on messages that its model has not seen.

    ``held_out`` fixes fusion, gate and threshold; ``test_sets`` are only reported. ``golden`` messages
    are answered and kept as the check that every load repeats. ``make_cart`` makes the cart part on the
    weights that will serve it.
    """
    directory = next_version(store / draft.name)
    artifact = build_draft(
        draft, directory, directory.name, prototypes_from, store, threads, progress
    )
    backend = open_backend(artifact, BackendOptions(threads=threads), None)
    try:
        model = find_prototypes(draft, backend, prototypes_from, progress)
        calibration, cascade = _calibrate(
            Classifier(backend, model), held_out, least_coverage, out_share, progress
        )
        model = replace(model, calibration=calibration, cascade=cascade)
        classifier = Classifier(backend, model)
        evaluations = evaluate_sets(classifier, test_sets, progress)
        answered = golden_answers(classifier, golden, progress)
        made = None if make_cart is None else make_cart(backend)
    finally:
        backend.close()
    return seal(artifact, model, evaluations, answered, Making(), threads, made)


def evaluate_sets(
    classifier: Classifier, test_sets: Sequence[TestSet], progress: Progress
) -> list[Evaluation]:
    model = classifier.model
    return [
        evaluate(
            test,
            weigh_all(classifier, test.examples, progress, test.name),
            model.labels,
            model.calibration,
            model.cascade,
        )
        for test in test_sets
    ]


def golden_answers(
    classifier: Classifier, texts: Sequence[str], progress: Progress
) -> tuple[Golden, ...]:
    given = answers(classifier, texts, progress, "golden messages")
    return tuple(
        Golden(text=text, intent=answer.intent, confidence=round(answer.confidence, 4))
        for text, answer in zip(texts, given, strict=True)
    )


def seal(
    artifact: Artifact,
    model: IntentModel,
    evaluations: Sequence[Evaluation],
    golden: tuple[Golden, ...],
    making: Making,
    threads: int,
    cart: MadeCart | None = None,
) -> Artifact:
    """Write model and report beside the weights, and the manifest when the whole has been loaded once."""
    directory, manifest = artifact.directory, artifact.manifest
    paths = [*manifest.entries(), *write_model(directory, model)]
    if cart is not None:
        paths += [*write_cart(directory, cart.model), *write_cart_report(directory, cart)]
    paths += write_report(directory, manifest, model.calibration, evaluations, making)
    manifest = manifest.model_copy(
        update={
            "files": tuple(describe_file(directory, path) for path in sorted(set(paths))),
            "golden": golden,
            "cart": None if cart is None else cart.model.spec,
            "evaluation": _headline(evaluations),
        }
    )
    manifest = Manifest.model_validate(manifest.model_dump())
    published = Artifact(directory, manifest)
    load_classifier(published, BackendOptions(threads=threads)).close()
    write_manifest(directory, manifest)
    return published


def next_version(model: Path) -> Path:
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


def _calibrate(
    classifier: Classifier,
    held_out: Sequence[Example],
    least_coverage: float,
    out_share: float,
    progress: Progress,
) -> tuple[Calibration, Cascade]:
    labels = list(classifier.model.labels)
    evidence = weigh_all(classifier, held_out, progress, "held-out set")
    truth = np.array([labels.index(example.intent) for example in held_out])
    out = labels.index(OUT_OF_SCOPE)
    calibration = calibrate(evidence, truth, out, out_share, least_coverage)
    return calibration, fit_cascade(evidence, truth, out, calibration, out_share)


def _headline(evaluations: Sequence[Evaluation]) -> dict[str, float]:
    figures = {}
    for evaluation in evaluations:
        figures[f"{evaluation.name}.accuracy"] = round(evaluation.fused.accuracy.value, 4)
        if not np.isnan(evaluation.fused.auroc):
            figures[f"{evaluation.name}.auroc"] = round(evaluation.fused.auroc, 4)
            figures[f"{evaluation.name}.out_recall"] = round(evaluation.fused.out_recall.value, 4)
    return figures
