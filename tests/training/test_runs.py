"""What a run directory remembers."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.errors import InputError
from training.runs import Run


def do(run: Run, step: str, own: object = None) -> None:
    with run.doing(step, run.key(step, own)):
        pass


def test_a_finished_step_is_found_again(tmp_path: Path):
    """With how long it took and what memory it had."""
    run = Run(tmp_path / "run")
    do(run, "prepare", {"rows": 3})
    assert run.done("prepare", run.key("prepare", {"rows": 3}))
    record = run.require("prepare")
    assert record.seconds >= 0
    assert record.peak_mb > 1
    assert record.device_peak_mb is None


def test_a_step_that_failed_does_not_count(tmp_path: Path):
    """Nor does what it was before: half of its output may be the new one's."""
    run = Run(tmp_path)
    do(run, "prepare")
    with pytest.raises(KeyboardInterrupt), run.doing("prepare", run.key("prepare")):
        raise KeyboardInterrupt
    assert run.record("prepare") is None


def test_what_stands_on_a_changed_step_is_done_again(tmp_path: Path):
    """A new preparation makes old tuning stale, and the same one does not."""
    run = Run(tmp_path)
    do(run, "prepare", "a")
    do(run, "tune")
    assert run.done("tune", run.key("tune"))
    do(run, "prepare", "a")
    assert run.done("tune", run.key("tune"))
    do(run, "prepare", "b")
    assert not run.done("tune", run.key("tune"))


def test_a_step_without_the_one_before_says_what_to_run(tmp_path: Path):
    """The message names the command and the run."""
    with pytest.raises(InputError, match=r"python -m training prepare --run .*empty"):
        Run(tmp_path / "empty").key("tune")
    run = Run(tmp_path)
    do(run, "prepare")
    with pytest.raises(InputError, match="training tune"):
        run.key("calibrate")  # what it needs is the rehearsal, which `tune` makes


def test_a_stale_step_is_refused_with_the_first_to_run(tmp_path: Path):
    """However far back it is; once all are done again in order, nothing is in the way."""
    run = Run(tmp_path)
    order = ("prepare", "rehearse", "tune", "merge", "quantise", "calibrate", "evaluate")
    for step in order:
        do(run, step)
    do(run, "quantise", "Q8_0")
    with pytest.raises(InputError, match=r"out of date: first run `python -m training evaluate"):
        run.key("publish")
    do(run, "evaluate")
    assert run.key("publish")
    do(run, "prepare", "other rows")
    with pytest.raises(InputError, match="training tune"):
        run.key("evaluate")
    do(run, "tune")
    with pytest.raises(InputError, match="training merge"):
        run.key("evaluate")
    for step in order[1:]:
        do(run, step)
    assert run.key("publish")


def test_a_damaged_record_is_none(tmp_path: Path):
    """A file of another version, or none at all, is a step that has not been done."""
    run = Run(tmp_path)
    do(run, "prepare")
    (tmp_path / "steps" / "prepare.json").write_text('{"key": 1}')
    assert run.record("prepare") is None
    (tmp_path / "steps" / "prepare.json").write_text("{")
    assert run.record("prepare") is None


def test_records_come_in_the_order_of_the_recipe(tmp_path: Path):
    """However they were done."""
    run = Run(tmp_path)
    for step in ("prepare", "tune", "rehearse", "calibrate", "merge"):
        do(run, step)
    assert list(run.records()) == ["prepare", "rehearse", "tune", "merge", "calibrate"]
