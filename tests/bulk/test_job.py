"""A bulk job from start to end, interrupted in every way that it may be."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from app.bulk.job import Job, Progress, run, run_here
from app.bulk.parts import JobRefused, Parts
from app.bulk.source import Columns, InputUnusable, Source
from app.errors import UnknownModel
from tests.bulk.conftest import TEXTS, write_lines
from tests.conftest import wait_for
from tests.fake_artifact import fake_classifier, write_fake_artifact
from tests.process import SHOPINTENT, environment

NewJob = Callable[..., Job]


def done(job: Job) -> pa.Table:
    """The output of the job, run to its end."""
    run(job, run_here, lambda done, total: lambda rows: None)
    return pq.read_table(job.output)


class Interrupted(Exception):
    """Stands for whatever ends a process."""


def until(parts_written: int) -> Callable[..., None]:
    """A runner that breaks after some parts."""

    def runner(
        job: Job, source: Source, parts: Parts, numbers: Sequence[int], progress: Progress
    ) -> None:
        run_here(job, source, parts, numbers[:parts_written], progress)
        raise Interrupted

    return runner


def test_every_row_has_the_answer_that_the_classifier_gives(new_job: NewJob) -> None:
    """The output is in the input's order, a row each, with the decisions of the very classifier."""
    table = done(new_job(10, top_k=2))
    classifier = fake_classifier()
    texts = [f"{TEXTS[n % len(TEXTS)]} {n}" for n in range(10)]
    expected = [classifier.classify([classifier.prepare(text)])[0] for text in texts]
    assert table.column_names == [
        "row", "id", "intent", "confidence", "in_scope", "ranking", "model", "error",
    ]  # fmt: skip
    for n, (row, answer) in enumerate(zip(table.to_pylist(), expected, strict=True)):
        assert (row["row"], row["id"], row["model"], row["error"]) == (
            n, f"m{n}", "storefront/1", None,
        )  # fmt: skip
        assert (row["intent"], row["in_scope"]) == (answer.intent, answer.in_scope)
        assert row["confidence"] == pytest.approx(answer.confidence, abs=1e-6)
        assert [one["intent"] for one in row["ranking"]] == [s.intent for s in answer.ranking[:2]]


def test_bad_rows_stop_nothing(new_job: NewJob, tmp_path: Path) -> None:
    """Half an emoji in a kept message, and a line nested too deeply: the others have answers."""
    lines = tmp_path / "bad.jsonl"
    good = '{"text": "where is my order"}\n'
    lines.write_text(
        good * 3 + '{"text": "tell me a joke \\ud83d"}\n' + "[" * 100_000 + "\n" + good
    )
    table = done(new_job(lines, columns=Columns(keep=("text",)), part_rows=2))
    assert table["error"].to_pylist() == [None] * 4 + ["no_text", None]
    assert table["intent"][3].as_py() == "out_of_scope"
    assert table["text"][3].as_py() == "tell me a joke \ufffd"


def test_nothing_but_the_output_is_left(new_job: NewJob, tmp_path: Path) -> None:
    """Parts and scratch files are gone when the output stands."""
    done(new_job())
    assert {path.name for path in tmp_path.iterdir()} == {"in.jsonl", "out.parquet", "store"}


def test_messages_are_not_copied_into_the_output(new_job: NewJob) -> None:
    """Customers' words appear in the output only where somebody asks for them."""
    assert TEXTS[0] not in str(done(new_job()).to_pylist())


@pytest.mark.parametrize("parts_written", [0, 1, 2])
def test_interrupted_job_goes_on(new_job: NewJob, parts_written: int) -> None:
    """Saved parts are not computed again, and the result is that of a job in one go."""
    job = new_job(10)
    whole = done(dataclasses.replace(job, output=job.output.with_name("whole.parquet")))
    with pytest.raises(Interrupted):
        run(job, until(parts_written), lambda done, total: lambda rows: None)
    assert not job.output.exists()

    begun: list[tuple[int, int]] = []
    computed: list[int] = []

    def begin(rows: int, total: int) -> Progress:
        begun.append((rows, total))
        return computed.append

    assert run(job, run_here, begin)
    assert begun == [(4 * parts_written, 10)]
    assert sum(computed) == 10 - 4 * parts_written
    assert pq.read_table(job.output).equals(whole)


def test_finished_job_is_not_done_again(new_job: NewJob) -> None:
    """The same command a second time changes nothing."""
    job = new_job()
    done(job)
    before = job.output.stat()
    assert not run(job, run_here, lambda done, total: pytest.fail("nothing is left to do"))
    assert job.output.stat() == before


@pytest.mark.parametrize(
    "changes", [{"top_k": 1}, {"part_rows": 3}, {"columns": Columns()}, {"max_text_chars": 9}]
)
def test_parts_of_another_job_are_not_mixed_in(new_job: NewJob, changes: dict[str, object]) -> None:
    """Other options, other parts."""
    job = new_job()
    with pytest.raises(Interrupted):
        run(job, until(1), lambda done, total: lambda rows: None)
    with pytest.raises(JobRefused, match="another job"):
        done(dataclasses.replace(job, **changes))  # type: ignore[arg-type]


def test_changed_input_is_another_job(new_job: NewJob) -> None:
    """Parts of a file that has changed since are not kept."""
    job = new_job()
    with pytest.raises(Interrupted):
        run(job, until(1), lambda done, total: lambda rows: None)
    write_lines(job.input, 11)
    with pytest.raises(JobRefused, match="another job"):
        done(job)


def test_changed_model_is_another_job(new_job: NewJob) -> None:
    """One output is one model's."""
    job = new_job()
    with pytest.raises(Interrupted):
        run(job, until(1), lambda done, total: lambda rows: None)
    write_fake_artifact(job.model.store.root, version="2")
    model = dataclasses.replace(job.model, version="2")
    with pytest.raises(JobRefused, match="another job"):
        done(dataclasses.replace(job, model=model))


def test_foreign_file_is_not_overwritten(new_job: NewJob) -> None:
    """Whatever is at the output's place stays."""
    job = new_job()
    job.output.write_text("precious")
    with pytest.raises(JobRefused, match="exists"):
        done(job)
    assert job.output.read_text() == "precious"


def test_one_process_at_a_time(new_job: NewJob) -> None:
    """A second one is sent away."""
    job = new_job()
    with (
        job.parts(job.open()).opened(),
        pytest.raises(JobRefused, match="another process"),
    ):
        done(job)


def test_unknown_model_leaves_no_output(new_job: NewJob) -> None:
    """The job ends with the store's own error."""
    job = new_job()
    model = dataclasses.replace(job.model, name="nobody")
    with pytest.raises((UnknownModel, FileNotFoundError)):
        done(dataclasses.replace(job, model=model))
    assert not job.output.exists()


@pytest.mark.parametrize("keep", [("row",), ("intent",), ("id", "id")])
def test_kept_columns_do_not_clash(new_job: NewJob, keep: tuple[str, ...]) -> None:
    """A name stands for one column."""
    with pytest.raises(InputUnusable):
        done(new_job(columns=Columns(keep=keep)))


def command(store: Path, job: Job) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            SHOPINTENT,
            "label",
            job.input,
            "--out",
            job.output,
            "--keep",
            "id",
            "--part-rows",
            str(job.part_rows),
        ],
        env=environment(store),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_killed_process_goes_on(new_job: NewJob, fake_store: Path, tmp_path: Path) -> None:
    """SIGKILL in the middle: the same command ends the job, with no row lost or doubled."""
    job = new_job(20_000, part_rows=500)
    folder = tmp_path / "out.parquet.parts"
    process = command(fake_store, job)
    wait_for(lambda: list(folder.glob("part-*.parquet")))
    process.kill()
    assert process.wait() == -signal.SIGKILL
    process.communicate()
    saved = {path: path.stat() for path in folder.glob("part-*.parquet")}
    assert 0 < len(saved) < 40

    said = command(fake_store, job).communicate()[1]
    assert f"{500 * len(saved)} of 20000 rows are labelled already" in said
    rows = pq.read_table(job.output, columns=["row", "id"])
    assert rows["row"].to_pylist() == list(range(20_000))
    assert rows["id"].to_pylist() == [f"m{n}" for n in range(20_000)]


def test_command_line_says_what_could_not_be_labelled(fake_store: Path, tmp_path: Path) -> None:
    """A bad line is counted and named by its reason; its words are not shown."""
    lines = tmp_path / "in.jsonl"
    lines.write_text(json.dumps({"text": "where is my order"}) + "\nswordfish\n")
    done = subprocess.run(
        [SHOPINTENT, "label", lines, "--out", tmp_path / "out.parquet"],
        env=environment(fake_store),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "1 rows could not be labelled: no_text" in done.stderr
    assert "swordfish" not in done.stdout + done.stderr
