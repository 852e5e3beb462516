"""The study as a whole: build each trial's weights, start its child, keep its figures."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from time import monotonic
from typing import Any

from app.artifacts.manifest import MANIFEST
from app.artifacts.store import Artifact, Store
from app.bench.report import cpu_model
from study import plan
from study.backbone import small_backbone, small_path
from study.contender import Job
from study.machine import conditions, versions
from study.plan import DEFAULT, Sizes, Trial
from study.results import Results, digest_of, key_of
from study.rows import Rows, write_rows
from study.weights import ChildFailed, Workshop, child_environment, run_child, size_mb

HERE = Path(__file__).parent
_COMMON = ("worker", "contender", "machine")
_MODULES: Mapping[plan.Task, tuple[str, ...]] = {
    "labels": ("labels",),
    "noise": ("labels",),
    "depth": ("depth", "labels"),
    "pointers": ("carts",),
    "prefix": ("carts",),
    "json": ("generation", "llama_generation", "torch_generation"),
    "grammar": ("generation", "llama_generation", "torch_generation"),
    "turns": ("turns", "carts", "generation", "llama_generation", "torch_generation", "labels"),
}
"""The code that a task's figures come from."""
_ROWS: Mapping[plan.Task, str] = {"labels": "messages", "depth": "messages", "noise": "noisy"}

Say = Callable[[str], None]


@dataclass
class Study:
    """One study: where it keeps its things, and what it measures."""

    directory: Path
    store: Path
    name: str
    sizes: Sizes
    threads: int
    say: Say = field(default=print)

    @cached_property
    def results(self) -> Results:
        return Results(self.directory / "results")

    @cached_property
    def rows(self) -> Rows:
        digest = key_of(Trial("rows", "rows", "labels"), asdict(self.sizes))
        return write_rows(self.directory / f"rows-{digest[:8]}", self.sizes)

    @property
    def log(self) -> Path:
        """What the children and their libraries say."""
        self.directory.mkdir(parents=True, exist_ok=True)
        return self.directory / "study.log"

    @cached_property
    def _default(self) -> Artifact:
        return Store(self.store).resolve(self.name)

    @cached_property
    def _small(self) -> Artifact:
        if not self.small_stands():
            self.say("second backbone: tuning, once")
        return small_backbone(
            self.directory, self.store, self.sizes.small_rows, self.sizes.small_epochs,
            self.threads, self.log,
        )  # fmt: skip

    def artifact(self, backbone: str) -> Artifact:
        """The live version of the default model, or the second backbone, tuned when first asked for."""
        return self._default if backbone == DEFAULT else self._small

    def small_stands(self) -> bool:
        """Whether the second backbone is tuned already: a report does not begin to."""
        path = small_path(self.directory, self.sizes.small_rows, self.sizes.small_epochs)
        return any(path.glob(f"*/{MANIFEST}"))

    def row_set(self, trial: Trial) -> str:
        """The name of the rows that a trial answers."""
        return _ROWS.get(trial.task, "carts")

    def workshop(self, backbone: str) -> Workshop:
        artifact = self.artifact(backbone)
        store = self.store if backbone == DEFAULT else artifact.directory.parent.parent
        place = self.directory / "weights" / f"{backbone}-{artifact.recipe_digest()[:12]}"
        return Workshop(artifact, store, place, self.threads, self.sizes.gptq_messages)

    def facts(self, trial: Trial) -> dict[str, Any]:
        """All that a trial's figures depend on."""
        artifact = self.artifact(trial.backbone)
        sizes = asdict(self.sizes)
        names = [*plan.SIZES_OF[trial.task], *plan.WEIGHTS_SIZES.get(trial.format, ())]
        modules = [*_COMMON, *_MODULES[trial.task]]
        return {
            "weights": artifact.recipe_digest(),
            "files": {e.path: e.sha256 for e in artifact.manifest.files if _counts(e.path)},
            "rows": digest_of([self.rows.path(self.row_set(trial))]),
            "sizes": {name: sizes[name] for name in names},
            "threads": self.threads,
            "cpu": cpu_model(),
            "versions": {k: v for k, v in versions().items() if k != "shopintent"},
            "code": digest_of([HERE / f"{module}.py" for module in modules]),
        }

    def key(self, trial: Trial) -> str:
        return key_of(trial, self.facts(trial))

    def run(self, only: Sequence[str] = ()) -> list[str]:
        """Measure what is not there yet; returns the names of the trials that failed."""
        failed: list[str] = []
        lost: set[str] = set()
        wanted = list(plan.trials(only))
        for number, trial in enumerate(wanted, 1):
            if trial.backbone in lost:
                failed.append(trial.name)
                continue
            started = monotonic()
            try:
                key = self._key_of_standing(trial, lost)
                if self.results.read(trial, key) is not None:
                    continue
                self.say(f"{number}/{len(wanted)} {trial.name}")
                self.measure(trial, key)
            except ChildFailed as error:
                self.say(f"{trial.name} failed: {error}")
                failed.append(trial.name)
            else:
                self.say(f"  {monotonic() - started:.0f} s")
        return failed

    def _key_of_standing(self, trial: Trial, lost: set[str]) -> str:
        """The trial's key; a backbone that cannot be tuned is lost to all its trials."""
        try:
            return self.key(trial)
        except ChildFailed:
            lost.add(trial.backbone)
            raise

    def measure(self, trial: Trial, key: str) -> None:
        """One trial, start to end; its result is written when it is whole."""
        started = monotonic()
        given = conditions(self.threads)
        if trial.task == "turns":
            from study.turns import take_turns

            raw = take_turns(self, trial)
        else:
            job = self.job(trial, key)
            built = monotonic() - started
            raw = json.loads(run_child("study.worker", asdict(job), self.log, self.threads))
            raw |= {"file_mb": size_mb(Path(job.weights)), "build_seconds": round(built, 1)}
        raw["conditions"] = given
        raw["trial_seconds"] = round(monotonic() - started, 1)
        self.results.write(trial, key, raw)

    def job(self, trial: Trial, key: str) -> Job:
        """What the trial's child is told; its weights are built first."""
        workshop = self.workshop(trial.backbone)
        one = plan.format_of(trial.format)
        weights = workshop.build(trial.format, self.log)
        sizes = asdict(self.sizes)
        return Job(
            task=trial.task,
            family=one.family,
            artifact=str(workshop.artifact.directory),
            weights=str(weights),
            precision=one.precision,
            vocabulary=str(workshop.vocabulary()) if trial.task == "grammar" else "",
            rows=str(self.rows.path(self.row_set(trial))),
            train=str(self.rows.path("train")),
            arrays=str(self.results.arrays_path(trial, key)),
            threads=self.threads,
            sizes={
                **({} if trial.task == "noise" else sizes),
                "rows": self._row_count(trial),
            },
        )

    def _row_count(self, trial: Trial) -> int:
        """Rows that this trial answers, from the first."""
        sizes, headline = self.sizes, trial.format in plan.HEADLINE
        if trial.task in {"json", "grammar"}:
            if trial.format.startswith("gptq"):
                return sizes.generated_gptq
            if headline:
                return sizes.generated_headline
            torch = plan.format_of(trial.format).family == "torch"
            return sizes.generated_torch if torch else sizes.generated
        if trial.task == "pointers":
            return sizes.carts_headline if headline else sizes.carts
        return sizes.prefix if trial.task == "prefix" else 10**9


def _counts(path: str) -> bool:
    """Files of an artifact that answers depend on; reports and licences are none."""
    return Path(path).suffix in {".safetensors", ".json"} and "report" not in path


def start_child(job: Job, log: Path) -> subprocess.Popen[str]:
    """A child that waits for its turns."""
    with log.open("a") as stream:
        child = subprocess.Popen(
            [sys.executable, "-m", "study.worker"],
            env=child_environment(job.threads),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stream,
            text=True,
        )
    assert child.stdin is not None
    child.stdin.write(json.dumps(asdict(replace(job, turns=True))) + "\n")
    child.stdin.flush()
    return child
