from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from app.backends.torch_shapes import Pass, Shapes, step

SHAPES = Shapes(max_rows=16, longest=390, cells=2048)
LENGTHS = st.lists(st.integers(1, 390), min_size=1, max_size=16)


def test_steps_are_few_and_near():
    """1, 2, 3, 4, 6, 8, 12 ...: never below what is asked, at most a third above."""
    assert [step(value) for value in range(1, 14)] == [1, 2, 3, 4, 6, 6, 8, 8, 12, 12, 12, 12, 16]
    assert all(value <= step(value) <= value * 1.5 for value in range(1, 5000))


@given(LENGTHS)
def test_every_message_has_its_place(lengths: list[int]):
    """Each message is computed once, in a row that is long enough, within the bound."""
    passes = SHAPES.plan(lengths)
    assert sorted(place for each in passes for place in each.places) == list(range(len(lengths)))
    for each in passes:
        assert len(each.places) <= each.rows
        assert all(lengths[place] <= each.length for place in each.places)
        assert each.rows == 1 or each.rows * each.length <= SHAPES.cells


@given(LENGTHS)
def test_what_is_planned_has_been_foreseen(lengths: list[int]):
    """A GPU has recorded every shape that a batch within the limits leads to, halves of it too."""
    foreseen = set(SHAPES.all())
    for each in SHAPES.plan(lengths):
        assert (each.rows, each.length) in foreseen
        if len(each.places) > 1:
            assert {(half.rows, half.length) for half in each.halves()} <= foreseen


def test_the_shapes_are_few():
    """Each is recorded at load: seconds, not minutes."""
    assert len(set(SHAPES.all())) == len(list(SHAPES.all())) < 100
    largest = next(SHAPES.all())
    assert largest[0] * largest[1] == max(rows * length for rows, length in SHAPES.all())


def test_longer_than_foreseen_is_planned_alone():
    """A long catalog is computed too, in a pass of its own."""
    assert SHAPES.plan([3000, 3000]) == [Pass((0,), 1, 3072), Pass((1,), 1, 3072)]


def test_rows_need_not_be_a_step():
    """The greatest batch is computed at its own size."""
    shapes = Shapes(max_rows=5, longest=16, cells=80)
    assert shapes.plan([4] * 5) == [Pass((0, 1, 2, 3, 4), 5, 16)]
    assert (5, 16) in set(shapes.all())
