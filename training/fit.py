"""`fit`: a shop's own CSV to a published, calibrated, evaluated version, as seven steps over one run.

The shop starts from the storefront backbone: weights that already read messages as wishes. Only the
upper layers are tuned, so each message passes the lower ones once. A rehearsal on held-out messages
and held-out intents fixes fusion, scope gate and threshold; the published model then learns from all.

Every step reads what the steps before it left in the run directory, and does nothing where its own
outcome stands already.
"""

from __future__ import annotations

import random
import re
import shutil
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch

from app.artifacts.base_package import Progress
from app.artifacts.manifest import Label, sha256_of
from app.artifacts.store import Artifact
from app.backends.base import BackendOptions
from app.backends.factory import open_backend
from app.classification.classifier import Classifier
from app.classification.head import Head
from app.classification.model_files import read_model, write_model
from app.domain import OUT_OF_SCOPE
from app.errors import InputError
from training.adapter_files import Adapter
from training.backbones import STOREFRONT, Backbone, find_backbone, upper_third
from training.bases import load_decoder
from training.drafts import Draft, build_draft, find_prototypes
from training.evaluate import TestSet
from training.examples import Example, labels_of
from training.measure import Comparison, compare, embed_all
from training.merged import merge as write_merged
from training.publish import evaluate_sets, golden_answers, next_version, seal
from training.recipe import FEW_MESSAGES, Recipe
from training.report import Making
from training.run_files import (
    ARTIFACT,
    FINAL,
    MERGED,
    REHEARSAL,
    SPEC,
    Spec,
    calibrated,
    published,
    read_evaluation,
    read_rows,
    read_spec,
    read_tests,
    staged,
    tuned_model,
    write_calibration,
    write_evaluation,
    write_published,
    write_rows,
    write_staged,
    write_tests,
)
from training.runs import Run
from training.shop import FOLDS, Rehearsal, Shop, stock_negatives
from training.shop_csv import ShopRows, read_shop_csv, require_trainable
from training.tuning import Tuned, hidden_states

COMPARED = 400
"""Messages on which the built weights are compared with the merged ones."""
_NOT_PUBLISHED = shutil.ignore_patterns("draft.json", "*.lock", "*.partial")
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


def fit(run: Run, threads: int, progress: Progress) -> Artifact:
    """All that follows :func:`prepare`, in order."""
    tune(run, progress)
    merge(run, progress)
    quantise(run, threads, progress)
    calibrate(run, progress)
    evaluate(run, threads, progress)
    return publish(run, threads, progress)


def read_inputs(
    train: Path, dev: Path | None, tests: Sequence[Path]
) -> tuple[ShopRows, tuple[Example, ...], list[TestSet]]:
    """All files read and checked before any long work."""
    rows = read_shop_csv(train)
    require_trainable(rows, train)
    known = frozenset(example.intent for example in rows.examples)
    held = read_shop_csv(dev, known).examples if dev else ()
    if dev and len({e.intent for e in held} - {OUT_OF_SCOPE}) < 2:
        raise InputError(f"{dev.name}: a dev file needs messages of at least two intents")
    reported = [
        TestSet(path.stem, read_shop_csv(path, known, repeated_count=True).examples)
        for path in tests
    ]
    if held:
        reported.insert(0, TestSet("dev", held))
    twice = [name for name, count in Counter(one.name for one in reported).items() if count > 1]
    if twice:
        raise InputError(f"two files would be reported as {twice[0]!r}: rename one of them")
    return rows, held, reported


def prepare(
    run: Run,
    *,
    train: Path,
    dev: Path | None,
    tests: Sequence[Path],
    name: str,
    store: Path,
    languages: tuple[str, ...],
    recipe: Recipe,
    progress: Progress,
) -> tuple[str, ...]:
    """Check the rows and the base, and lay out what the run is made from; returns warnings."""
    if not _NAME.fullmatch(name):
        raise InputError(
            f"the name {name[:64]!r} cannot be used: small letters, digits, '.', '_' and '-', "
            "a letter or digit first"
        )
    rows, held, reported = read_inputs(train, dev, tests)
    backbone = find_backbone(recipe.base, store, progress)
    config = backbone.base.config()
    first = upper_third(config) if recipe.first_layer is None else recipe.first_layer
    recipe = replace(recipe, tuning=replace(recipe.tuning, first_layer=first))
    if recipe.tune == "auto":
        intents = len({e.intent for e in rows.examples} - {OUT_OF_SCOPE})
        few = sum(e.intent != OUT_OF_SCOPE for e in rows.examples) <= FEW_MESSAGES * intents
        understands = recipe.base == STOREFRONT  # other bases know no shop yet
        recipe = replace(recipe, tune="never" if few and understands else "always")
    spec = Spec(
        name=name,
        store=str(store),
        languages=languages,
        recipe=recipe,
        backbone=backbone.digest,
        train=train.name,
        inputs={place: sha256_of(path) for place, path in _inputs(train, dev, tests)},
    )
    key = run.key("prepare", spec.as_dict())
    if run.done("prepare", key):
        return rows.warnings
    with run.doing("prepare", key):
        labels = labels_of(rows.examples)
        negatives = stock_negatives(rows.examples, labels, languages, recipe.tuning.seed)
        shutil.rmtree(run / "prepare", ignore_errors=True)
        write_rows(run, "train", rows.examples)
        write_rows(run, "held", held)
        write_rows(run, "negatives", negatives)
        write_tests(run, reported)
        run.write(SPEC, spec.as_dict())
    return rows.warnings


def _inputs(train: Path, dev: Path | None, tests: Sequence[Path]) -> list[tuple[str, Path]]:
    """The files by what they are for and their names, which alone may be the same."""
    given = [("train", train), *([("dev", dev)] if dev else [])]
    given += [(f"test-{number}", path) for number, path in enumerate(tests, start=1)]
    return [(f"{part}/{path.name}", path) for part, path in given]


def tune(run: Run, progress: Progress) -> None:
    """The rehearsal's adapter and head, and those of the version itself."""
    spec = read_spec(run)
    device = spec.recipe.tuning.device
    rows, negatives = read_rows(run, "train"), read_rows(run, "negatives")
    rehearse_key, tune_key = run.key("rehearse"), run.key("tune")
    if run.done("rehearse", rehearse_key) and run.done("tune", tune_key):
        return
    shop = Shop(_backbone(spec, progress), labels_of(rows), spec.recipe, progress)
    if not run.done("rehearse", rehearse_key):
        with run.doing("rehearse", rehearse_key, device):
            _rehearsal(run, shop, spec).tune(run / REHEARSAL)
    if not run.done("tune", tune_key):
        with run.doing("tune", tune_key, device):
            shop.tuned(rows, run / FINAL, "tune", negatives)


def merge(run: Run, progress: Progress) -> None:
    """Base and adapters as one model in bfloat16, which ``transformers`` loads."""
    spec, key = read_spec(run), run.key("merge")
    if run.done("merge", key) and (run / MERGED).is_dir():
        return
    with run.doing("merge", key):
        backbone = _backbone(spec, progress)
        shutil.rmtree(run / MERGED, ignore_errors=True)
        adapters = _adapters(backbone, tuned_model(run))
        write_merged(backbone.base.directory, adapters, run / MERGED, progress)


def quantise(run: Run, threads: int, progress: Progress, quantisation: str | None = None) -> None:
    """The weights that are served, and the prototypes as they see them. ``quantisation``: another type."""
    spec = read_spec(run)
    chosen = quantisation or spec.recipe.quantisation
    key = run.key("quantise", chosen)
    directory = run / ARTIFACT
    if run.done("quantise", key) and directory.is_dir():
        return
    with run.doing("quantise", key):
        backbone = _backbone(spec, progress)
        rows = read_rows(run, "train")
        inside = [e for e in rows if e.intent != OUT_OF_SCOPE]
        draft = _draft(run, spec, backbone, chosen or backbone.quantisation, progress)
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir()
        artifact = build_draft(draft, directory, "1", inside, Path(spec.store), threads, progress)
        backend = open_backend(artifact, BackendOptions(threads=threads))
        try:
            write_model(directory, find_prototypes(draft, backend, inside, progress))
        finally:
            backend.close()
        write_staged(run, artifact)


def calibrate(run: Run, progress: Progress) -> None:
    """Fusion, scope gate and threshold from what the rehearsal's models say of unseen messages."""
    spec, key = read_spec(run), run.key("calibrate")
    if run.done("calibrate", key):
        return
    with run.doing("calibrate", key, spec.recipe.tuning.device):
        progress("calibrate", 0, 0)
        shop = Shop(
            _backbone(spec, progress), labels_of(read_rows(run, "train")), spec.recipe, progress
        )
        write_calibration(run, *_rehearsal(run, shop, spec).calibrate(run / REHEARSAL))


def evaluate(run: Run, threads: int, progress: Progress) -> None:
    """The built weights on the test sets, and beside the merged ones on the same messages."""
    spec, key = read_spec(run), run.key("evaluate")
    if run.done("evaluate", key):
        return
    with run.doing("evaluate", key):
        artifact = staged(run)
        model = calibrated(run, read_model(artifact.directory, artifact.manifest))
        backend = open_backend(artifact, BackendOptions(threads=threads))
        try:
            classifier = Classifier(backend, model)
            tests = read_tests(run)
            found = evaluate_sets(classifier, tests, progress)
            golden = golden_answers(classifier, _golden(run, spec), progress)
            compared = _compare(run, spec, classifier, tests, progress)
        finally:
            backend.close()
        write_evaluation(run, found, golden, compared)


def publish(run: Run, threads: int, progress: Progress) -> Artifact:
    """The next version in the store; the same run is published once, as long as the store keeps it."""
    spec = read_spec(run)
    store, key = Path(spec.store), run.key("publish", spec.name)
    if run.done("publish", key):
        with suppress(InputError):  # it has been taken out of the store since
            return published(run)
    with run.doing("publish", key):
        progress("publish", 0, 0)
        made = staged(run)
        model = calibrated(run, read_model(made.directory, made.manifest))
        sets, golden, compared = read_evaluation(run)
        directory = next_version(store / spec.name)
        shutil.copytree(made.directory, directory, dirs_exist_ok=True, ignore=_NOT_PUBLISHED)
        manifest = made.manifest.model_copy(update={"version": directory.name})
        making = Making(run.records(), compared, spec.recipe)
        artifact = seal(Artifact(directory, manifest), model, sets, golden, making, threads)
        write_published(run, artifact)
    return artifact


def _backbone(spec: Spec, progress: Progress) -> Backbone:
    backbone = find_backbone(spec.recipe.base, Path(spec.store), progress)
    if backbone.digest != spec.backbone:
        raise InputError(f"the base {spec.recipe.base!r} has changed since `prepare`: run it again")
    return backbone


def _adapters(backbone: Backbone, tuned: Tuned) -> list[Adapter]:
    """The base's, and the shop's own where it has one."""
    return [*backbone.adapters, *([tuned.adapter] if tuned.adapter else [])]


def _rehearsal(run: Run, shop: Shop, spec: Spec) -> Rehearsal:
    return Rehearsal(
        shop,
        read_rows(run, "train"),
        read_rows(run, "held"),
        read_rows(run, "negatives"),
        spec.recipe.tuning.seed,
        FOLDS if spec.recipe.frozen else 1,
    )


def _draft(
    run: Run, spec: Spec, backbone: Backbone, quantisation: str, progress: Progress
) -> Draft:
    rows = [*read_rows(run, "train"), *read_rows(run, "negatives")]
    tuned, labels = tuned_model(run), labels_of(read_rows(run, "train"))
    return Draft(
        name=spec.name,
        labels=tuple(Label(intent=label) for label in labels),
        head=Head(*tuned.heads[0]),
        ngrams=lambda _: Shop(backbone, labels, spec.recipe, progress).ngrams(rows),
        adapters=_adapters(backbone, tuned),
        base=backbone.base,
        prompt=backbone.prompt,
        quantisation=quantisation,
        importance=backbone.importance,
        languages=spec.languages,
        trained_on=(spec.train, "storefront stock of negatives (this project)"),
        notices=backbone.notices,
    )


def _compare(
    run: Run, spec: Spec, classifier: Classifier, tests: Sequence[TestSet], progress: Progress
) -> Comparison:
    """On test messages where there are any, else on the training rows, which both know equally well."""
    given = [example for test in tests for example in test.examples]
    rows = "test and dev messages" if given else "training messages"
    given = given or list(read_rows(run, "train"))
    chosen = random.Random(spec.recipe.tuning.seed).sample(given, min(COMPARED, len(given)))
    built = embed_all(classifier, chosen, progress, "quantised weights")
    progress("measure merged weights", 0, len(chosen))
    backbone = _backbone(spec, progress)
    prompts = Shop(backbone, (), spec.recipe, progress).tokeniser.prompts([e.text for e in chosen])
    device = spec.recipe.tuning.device
    model = load_decoder(run / MERGED, device, dtype=torch.bfloat16)
    merged = hidden_states(model, prompts, device)
    return compare(classifier, built, merged, chosen, classifier.model.calibration, rows)


def _golden(run: Run, spec: Spec) -> list[str]:
    """A few training messages, one an intent, whose answers every load must reproduce."""
    by_intent = {example.intent: example.text for example in read_rows(run, "train")}
    seed = spec.recipe.tuning.seed
    intents = random.Random(seed).sample(sorted(by_intent), min(6, len(by_intent)))
    return [by_intent[intent] for intent in intents]
