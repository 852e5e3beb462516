"""Resuming: what is measured stays measured, and a kill costs one trial."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from study import plan
from study.plan import QUICK, Trial
from study.results import Results, digest_of, key_of
from study.rows import Rows
from study.run import Study
from study.weights import ChildFailed

TRIAL = Trial("default", "Q4_0", "labels")


def test_a_result_comes_back(tmp_path: Path) -> None:
    """What was written is read again, numpy's numbers among it."""
    results = Results(tmp_path)
    results.write(TRIAL, "key", {"seconds": [0.5], "count": np.float32(2)})
    assert results.read(TRIAL, "key") == {"seconds": [0.5], "count": 2.0}


def test_half_a_result_is_none(tmp_path: Path) -> None:
    """A file that a kill left half written does not count."""
    results = Results(tmp_path)
    results.path(TRIAL, "key").write_text('{"seconds": [0.')
    assert results.read(TRIAL, "key") is None
    assert results.read(TRIAL, "other") is None


def test_the_key_tells_every_fact_apart() -> None:
    """Another trial or another fact is another key, the order of facts is not."""
    key = key_of(TRIAL, {"threads": 2, "cpu": "a"})
    assert key == key_of(TRIAL, {"cpu": "a", "threads": 2})
    assert key != key_of(TRIAL, {"threads": 1, "cpu": "a"})
    assert key != key_of(replace(TRIAL, task="json"), {"threads": 2, "cpu": "a"})


def test_the_digest_follows_the_contents(tmp_path: Path) -> None:
    """Code that has changed is another fact."""
    path = tmp_path / "code.py"
    path.write_text("one")
    before = digest_of([path])
    path.write_text("two")
    assert digest_of([path]) != before


class Counted(Study):
    """A study that measures nothing, and remembers what it was asked for."""

    asked: list[str]
    broken: str = ""
    code: str = "1"

    def facts(self, trial: Trial) -> dict[str, Any]:
        return {"code": self.code}

    def measure(self, trial: Trial, key: str) -> None:
        if trial.name == self.broken:
            raise ChildFailed("no memory left")
        self.asked.append(trial.name)
        self.results.write(trial, key, {"seconds": []})


@pytest.fixture
def study(tmp_path: Path) -> Counted:
    made = Counted(tmp_path, tmp_path, "storefront", QUICK, 1, say=lambda _: None)
    made.asked = []
    return made


def test_what_stands_is_not_measured_again(study: Counted) -> None:
    """The second run of a finished study asks for nothing."""
    assert study.run() == []
    assert study.asked == [trial.name for trial in plan.trials()]
    study.asked.clear()
    assert study.run() == []
    assert study.asked == []


def test_a_failure_costs_one_trial(study: Counted) -> None:
    """A child that fails is told, the others are measured, and the next run tries it again."""
    study.broken = "default/Q4_0/labels"
    assert study.run(["labels"]) == ["default/Q4_0/labels"]
    study.asked.clear()
    study.broken = ""
    assert study.run(["labels"]) == []
    assert study.asked == ["default/Q4_0/labels"]


def test_a_kill_costs_one_trial(study: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in the third trial leaves two results, and the next run begins with the third."""
    wanted = [trial.name for trial in plan.trials(["json"])]

    def killed(trial: Trial, key: str) -> None:
        if trial.name == wanted[2]:
            raise KeyboardInterrupt
        Counted.measure(study, trial, key)

    monkeypatch.setattr(study, "measure", killed)
    with pytest.raises(KeyboardInterrupt):
        study.run(["json"])
    monkeypatch.undo()
    study.asked.clear()
    study.run(["json"])
    assert study.asked == wanted[2:]


def test_changed_code_is_measured_anew(study: Counted) -> None:
    """An older result has another name, and does not count."""
    study.run(["turns"])
    study.code = "2"
    study.asked.clear()
    study.run(["turns"])
    assert study.asked == ["default/all/turns"]


def test_rows_come_back(tmp_path: Path) -> None:
    """Rows are what they were, accents and all."""
    rows = Rows(tmp_path / "rows")
    rows.write("messages", [{"text": "želim vratiti"}])
    assert rows.read("messages") == [{"text": "želim vratiti"}]
