"""The named outputs of a run: written by one step, read by the later ones."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from app.artifacts.manifest import MANIFEST, Golden, Manifest, sha256_of
from app.artifacts.store import Artifact, Store
from app.classification.cascade import Cascade
from app.classification.classifier import IntentModel
from app.classification.decision import Calibration
from app.errors import ArtifactError, InputError, UnknownModel
from training.evaluate import Evaluation, TestSet
from training.examples import Example, read_labelled
from training.measure import Comparison
from training.recipe import Recipe, recipe_of
from training.runs import Run
from training.tuned_files import read_tuned
from training.tuning import Tuned

SPEC = "run.json"
REHEARSAL, FINAL, MERGED, ARTIFACT = "rehearsal", "final", "merged", "artifact"
_PUBLISHED = "published.json"
_DRAFT = "artifact/draft.json"
_CALIBRATION = "calibration/calibration.json"
_CASCADE = "calibration/cascade.json"
_COMPARISON = "evaluation/comparison.json"
_GOLDEN = "evaluation/golden.json"
_REHEARSED, _SETS = "calibration/rehearsal.json", "evaluation/sets.json"


@dataclass(frozen=True, slots=True)
class Spec:
    """What a run was prepared from. Paths are in ``store`` only; the rows lie in the run itself."""

    name: str
    store: str
    languages: tuple[str, ...]
    recipe: Recipe
    backbone: str
    """The digest that the base's weights had."""
    train: str
    inputs: Mapping[str, str]
    """sha256 by what a file is for and its name, such as ``train/messages.csv``."""

    def as_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "store": self.store,
            "languages": list(self.languages),
            "recipe": self.recipe.as_dict(),
            "backbone": self.backbone,
            "train": self.train,
            "inputs": dict(self.inputs),
        }


def read_spec(run: Run) -> Spec:
    """Raises :class:`app.errors.InputError` where nothing has been prepared."""
    run.require("prepare")
    content = run.read(SPEC)
    try:
        recipe = recipe_of(content.pop("recipe"), SPEC)
        return Spec(**content | {"recipe": recipe, "languages": tuple(content["languages"])})
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{run / SPEC} is of another version: prepare again") from error


def write_rows(run: Run, name: str, examples: Sequence[Example]) -> None:
    path = run / "prepare" / f"{name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = ({"text": e.text, "intent": e.intent, "language": e.language} for e in examples)
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text(lines, encoding="utf-8")


def read_rows(run: Run, name: str) -> tuple[Example, ...]:
    """Messages that ``prepare`` has laid down."""
    try:
        return tuple(read_labelled(run / "prepare" / f"{name}.jsonl", "shop"))
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{run / 'prepare'}: {name} cannot be read: prepare again") from error


def write_tests(run: Run, tests: Sequence[TestSet]) -> None:
    for number, test in enumerate(tests, start=1):
        write_rows(run, f"tests/{number}-{test.name}", test.examples)


def read_tests(run: Run) -> list[TestSet]:
    """Sets to report on, in the order in which they were given."""
    paths = (run / "prepare" / "tests").glob("*.jsonl")
    found = sorted(paths, key=lambda path: int(path.name.partition("-")[0]))
    return [
        TestSet(path.stem.partition("-")[2], read_rows(run, f"tests/{path.stem}")) for path in found
    ]


def tuned_model(run: Run) -> Tuned:
    """Adapter and head of the version itself."""
    run.require("tune")
    tuned = read_tuned(run / FINAL)
    if tuned is None:
        raise InputError(f"{run / FINAL} has gone: run `python -m training tune` again")
    return tuned


def write_staged(run: Run, artifact: Artifact) -> None:
    run.write(_DRAFT, artifact.manifest.model_dump(mode="json"))


def staged(run: Run) -> Artifact:
    """The artifact with its built weights, before it has been calibrated and published."""
    run.require("quantise")
    return Artifact(run / ARTIFACT, Manifest.model_validate(run.read(_DRAFT)))


def write_calibration(
    run: Run, calibration: Calibration, cascade: Cascade, rehearsed: Evaluation
) -> None:
    _write(run, _REHEARSED, [rehearsed])
    _write(run, _CASCADE, cascade)
    _write(run, _CALIBRATION, calibration)


def calibrated(run: Run, model: IntentModel) -> IntentModel:
    """``model`` with what ``calibrate`` has found."""
    run.require("calibrate")
    return replace(
        model,
        calibration=_read(run, _CALIBRATION, Calibration),
        cascade=_read(run, _CASCADE, Cascade),
    )


def write_evaluation(
    run: Run, sets: Sequence[Evaluation], golden: Sequence[Golden], compared: Comparison
) -> None:
    """The sets after the rehearsal's, which ``calibrate`` has measured."""
    _write(run, _SETS, [*_read(run, _REHEARSED, list[Evaluation]), *sets])
    _write(run, _GOLDEN, list(golden))
    _write(run, _COMPARISON, compared)


def read_evaluation(run: Run) -> tuple[list[Evaluation], tuple[Golden, ...], Comparison]:
    run.require("evaluate")
    return (
        _read(run, _SETS, list[Evaluation]),
        _read(run, _GOLDEN, tuple[Golden, ...]),
        _read(run, _COMPARISON, Comparison),
    )


def write_published(run: Run, artifact: Artifact) -> None:
    manifest = artifact.manifest
    digest = sha256_of(artifact.directory / MANIFEST)
    run.write(
        _PUBLISHED,
        {"name": manifest.name, "version": manifest.version, "manifest_sha256": digest},
    )


def published(run: Run) -> Artifact:
    """The version that the run has put into the store.

    Raises :class:`app.errors.InputError` where it has put none there, or the store does not hold it any
    more: another run may have published under its number since.
    """
    run.require("publish")
    spec, noted = read_spec(run), run.read(_PUBLISHED)
    try:
        found = Store(Path(spec.store)).resolve(noted["name"], noted["version"])
        if sha256_of(found.directory / MANIFEST) == noted["manifest_sha256"]:
            return found
    except (ArtifactError, UnknownModel, KeyError, TypeError):
        pass
    raise InputError(
        f"{run.directory}: what it published is not in the store any more: first run "
        f"`python -m training publish --run {run.directory}`"
    )


def _write(run: Run, name: str, content: Any) -> None:
    run.write(name, TypeAdapter(type(content)).dump_python(content))


def _read(run: Run, name: str, kind: Any) -> Any:
    try:
        return TypeAdapter(kind).validate_python(run.read(name))
    except ValidationError as error:
        raise InputError(f"{run / name} is of another version: run its step again") from error
