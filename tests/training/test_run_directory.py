"""Where an interrupted training run is found again."""

from __future__ import annotations

from pathlib import Path

import pytest

from training.__main__ import main
from training.run_commands import run_directory


def test_a_run_is_resumed_only_for_the_same_inputs_and_settings(tmp_path: Path):
    """A changed file or knob begins anew: no stale weights under a new name."""
    rows = tmp_path / "rows.csv"
    rows.write_text("text,intent\nhi,greet\n")
    first = run_directory("shop", [rows], "epochs=8")
    assert run_directory("shop", [rows], "epochs=8") == first
    assert run_directory("shop", [rows], "epochs=9") != first
    rows.write_text("text,intent\nhi there,greet\n")
    assert run_directory("shop", [rows], "epochs=8") != first


@pytest.mark.train
def test_brackets_in_a_file_are_told_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """An error quotes intents; they are no markup of the terminal."""
    path = tmp_path / "shop.csv"
    path.write_text("text,intent\nhi,[/refund]\nhi,[bold]\n", encoding="utf-8")
    given = ["prepare", "--run", str(tmp_path / "run"), "--train", str(path), "--name", "a"]
    monkeypatch.setattr("sys.argv", ["training", *given])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    told = capsys.readouterr().err
    assert "'[/refund]'" in told
    assert "'[bold]'" in told


@pytest.mark.train
@pytest.mark.parametrize("device", ["gpu", "cuda:99"])
def test_a_device_that_is_not_there_is_told_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], device: str
):
    """A sentence, and no run is laid out."""
    path = tmp_path / "shop.csv"
    rows = "".join(f"{number} {intent},{intent}\n" for number in range(5) for intent in "ab")
    path.write_text(f"text,intent\n{rows}", encoding="utf-8")
    run = tmp_path / "run"
    given = ["prepare", "--run", str(run), "--train", str(path), "--name", "a", "--device", device]
    monkeypatch.setattr("sys.argv", ["training", *given, "--store", str(tmp_path)])
    monkeypatch.setattr("training.fit.prepare", lambda *_, **__: pytest.fail("laid out"))
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert f"the device '{device}' cannot be used here" in capsys.readouterr().err


@pytest.mark.train
def test_two_files_of_one_name_cannot_both_be_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """The figures of the one would stand for both."""
    rows = "".join(f"{number} {intent},{intent}\n" for number in range(9) for intent in "ab")
    for place in ("train.csv", "may/shop.csv", "june/shop.csv"):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).write_text(f"text,intent\n{rows}", encoding="utf-8")
    given = ["prepare", "--run", str(tmp_path / "run"), "--train", str(tmp_path / "train.csv")]
    tests = [f"--test={tmp_path}/{month}/shop.csv" for month in ("may", "june")]
    monkeypatch.setattr("sys.argv", ["training", *given, "--name", "a", *tests])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert "two files would be reported as 'shop'" in capsys.readouterr().err


@pytest.mark.train
def test_a_run_that_is_a_file_is_told_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """One line that can be copied, not a traceback."""
    run = tmp_path / "run"
    run.touch()
    monkeypatch.setattr("sys.argv", ["training", "evaluate", "--run", str(run)])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert str(run) in line
