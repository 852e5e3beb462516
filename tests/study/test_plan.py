"""What is measured, and how a part of it is chosen."""

from __future__ import annotations

from dataclasses import fields

from study.plan import FORMATS, SIZES_OF, TURNS, WEIGHTS_SIZES, Sizes, format_of, trials


def test_every_trial_has_a_name_of_its_own() -> None:
    """A result file is named by its trial, so no two may share one."""
    names = [trial.name for trial in trials()]
    assert len(names) == len(set(names))


def test_the_issue_s_formats_and_decodings_are_there() -> None:
    """Every format is asked for label scoring, choice, plain and grammar JSON."""
    names = {trial.name for trial in trials()}
    for one in FORMATS:
        tasks = {"labels", "pointers"} | (
            {"json", "grammar"} - {one.family} if one.name != "ngrams" else set()
        )
        assert {f"default/{one.name}/{task}" for task in tasks} <= names


def test_only_takes_patterns_and_parts() -> None:
    """`--only` knows a whole name, a pattern, a format, a task or a backbone."""
    assert [t.name for t in trials(["default/Q4_0/json"])] == ["default/Q4_0/json"]
    assert {t.format for t in trials(["default/Q4_0/*"])} == {"Q4_0"}
    assert {t.task for t in trials(["turns"])} == {"turns"}
    assert {t.backbone for t in trials(["smollm2"])} == {"smollm2"}
    assert not list(trials(["nothing"]))


def test_every_task_depends_on_known_sizes() -> None:
    """A size that is misspelt would let a result outlive its change."""
    known = {field.name for field in fields(Sizes)}
    assert {trial.task for trial in trials()} == set(SIZES_OF)  # "known" takes turns only
    assert {
        size for sizes in (*SIZES_OF.values(), *WEIGHTS_SIZES.values()) for size in sizes
    } <= known


def test_contenders_of_turns_are_known_formats() -> None:
    """Turns are taken by formats that exist."""
    assert all(format_of(name).name == name for name, _ in TURNS)
