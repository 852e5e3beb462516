"""Export: a CSV that training takes as it is, and that no spreadsheet runs."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from app.classification.prompt import normalise
from app.cli import app
from app.errors import EmptyText, FeedbackLost
from app.feedback.export import write_csv
from app.feedback.sqlite import SqliteFeedback
from app.feedback.store import Feedback
from training.shop_csv import read_shop_csv


def told(n: int, text: str | None, intent: str = "order_status") -> Feedback:
    return Feedback(f"{n:032x}", float(n), "web", "storefront", "1", "cart_add", 0.5, intent, text)


def served(text: str) -> bool:
    try:
        normalise(text)
    except EmptyText:
        return False
    return len(normalise(text)) <= 2000


@given(st.lists(st.tuples(st.text(min_size=1).filter(served), st.sampled_from(["a", "b"]))))
def test_fit_reads_every_export(tmp_path_factory: pytest.TempPathFactory, rows: list) -> None:
    """Whatever customers wrote, the newest intent of each text is what training sees."""
    target = io.StringIO()
    write_csv((told(n, text, intent) for n, (text, intent) in enumerate(rows)), target)
    newest = {normalise(text).casefold(): intent for text, intent in rows}
    if not newest:
        return
    path = tmp_path_factory.getbasetemp() / "export.csv"
    path.write_text(target.getvalue(), encoding="utf-8", newline="")
    read = {one.text.casefold(): one.intent for one in read_shop_csv(path).examples}
    assert read == newest


def test_no_cell_is_a_formula() -> None:
    """A text that a spreadsheet would run begins with a space."""
    target = io.StringIO()
    evil = ["=HYPERLINK(1)", "+1+1", "-2", "@SUM(A1)"]
    assert write_csv((told(n, text) for n, text in enumerate(evil)), target) == 4
    assert all(line.lstrip('"').startswith(" ") for line in target.getvalue().splitlines()[1:])


def test_command_line_exports_and_deletes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`feedback export` writes what is kept with its text; `feedback delete` takes one away."""
    path = tmp_path / "feedback.sqlite"
    monkeypatch.setenv("INTENT_FEEDBACK_FILE", str(path))
    runner = CliRunner()
    assert runner.invoke(app, ["feedback", "export"]).exit_code == 2
    store = SqliteFeedback(path)
    for row in (told(1, "where is it"), told(2, None), told(3, "put it back", "return_exchange")):
        store.put(row)
    store.close()
    done = runner.invoke(app, ["feedback", "export"])
    assert done.stdout == "text,intent\nwhere is it,order_status\nput it back,return_exchange\n"
    assert runner.invoke(app, ["feedback", "delete", told(1, "").id]).exit_code == 0
    assert runner.invoke(app, ["feedback", "delete", told(1, "").id]).exit_code == 1
    target = tmp_path / "feedback.csv"
    assert runner.invoke(app, ["feedback", "export", "--output", str(target)]).exit_code == 0
    assert target.read_text() == "text,intent\nput it back,return_exchange\n"
    assert runner.invoke(app, ["feedback", "export", "--output", str(target)]).exit_code == 1


def test_what_is_too_old_is_purged(tmp_path: Path) -> None:
    """Retention deletes by the time of receipt."""
    store = SqliteFeedback(tmp_path / "feedback.sqlite")
    for n in range(10):
        store.put(told(n, "x"))
    assert store.purge(before=4.0) == 4
    assert [row.received for row in store.rows()] == [4.0, 5.0, 6.0, 7.0, 8.0, 9.0]
    store.close()


def test_an_unusable_file_is_told(tmp_path: Path) -> None:
    """What is no database, or no place for one, is one of our own errors."""
    bad = tmp_path / "feedback.sqlite"
    bad.write_text("not a database, certainly not one of a version that is known" * 40)
    with pytest.raises(FeedbackLost):
        SqliteFeedback(bad)
    with pytest.raises(FeedbackLost):
        SqliteFeedback(bad / "below")
