"""What travels to a lent GPU and back arrives as it left."""

from __future__ import annotations

import pickle
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

pytestmark = [pytest.mark.train, pytest.mark.usefixtures("one_thread")]
torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

import away_files  # noqa: E402  # torch may be missing
import away_rows  # noqa: E402
import train_away  # noqa: E402  # torch may be missing

from tests.training.test_averaging import cart  # noqa: E402
from training.cart.encoding import EncodedCart  # noqa: E402
from training.cart.packing import CartGroup  # noqa: E402
from training.joint import Message, Pool  # noqa: E402
from training.stage_one import Lessons  # noqa: E402
from training.tuned_files import read_cart_heads, read_tuned  # noqa: E402
from training.tuning import Tuned  # noqa: E402

NAME = "blk.0.ffn_up.weight"


def test_lessons_are_read_as_they_were_written(tmp_path: Path):
    """Spellings of unlike lengths and numbers, messages without a label or a target, several pools."""
    pools = [
        Pool(0.75, [Message(((2, 7, 9), (2, 8)), 3, 1), Message(((2, 262_000),), -1, 0)]),
        Pool(0.25, [Message(((5,), (6, 7), (8, 9, 10)), 0)]),
    ]
    heads = [np.full((2, 4), 0.5, np.float32), np.full((3, 4), -2, np.float32)]
    lessons = Lessons(pools, heads, ["gdje je čaj", "tea"])
    away_files.write_lessons(tmp_path / "lessons", lessons)
    found = away_files.read_lessons(tmp_path / "lessons")
    assert found.pools == pools
    assert found.texts == lessons.texts
    assert [head.tolist() for head in found.heads] == [head.tolist() for head in heads]


def test_what_a_run_hands_out_is_taken_as_a_run(tmp_path: Path):
    """Both halves of the adapter, rounded to 8 bits, and the heads; of the run with that seed."""
    rng = np.random.default_rng(1)

    def pair() -> tuple[np.ndarray, np.ndarray]:
        a, b = rng.normal(size=(3, 6)), rng.normal(size=(5, 3))
        return a.astype(np.float32), b.astype(np.float32)

    rows, bias = np.ones((2, 8), np.float32), np.ones(2, np.float32)
    tuned = Tuned({NAME: pair(), "blk.1.ffn_up.weight": pair()}, [(rows, bias)])
    other = Tuned({NAME: pair(), "blk.1.ffn_up.weight": pair()}, [(2 * rows, bias)])
    train_away._write_result(tmp_path / "out", 7, tuned, cart(1))
    train_away._write_result(tmp_path / "out", 8, other, cart(2))
    train_away._write_result(tmp_path / "out", 7, tuned, cart(1))  # 200 steps later
    train_away.take(tmp_path / "out", 7, tmp_path / "run")
    taken = read_tuned(tmp_path / "run")
    assert taken is not None
    assert taken.adapter.keys() == tuned.adapter.keys()
    for name, (a, b) in taken.adapter.items():
        wanted = tuned.adapter[name][1] @ tuned.adapter[name][0]
        np.testing.assert_allclose(b @ a, wanted, atol=0.1)
    assert taken.heads[0][0].tolist() == rows.tolist()
    carts = read_cart_heads(tmp_path / "run")
    assert carts is not None
    assert np.array_equal(carts.query, cart(1).query)


def test_rows_that_are_made_meanwhile_are_learned(tmp_path: Path):
    """Whole files are read, each once; partial ones are not looked at."""
    group = CartGroup((EncodedCart((1, 2), (1,), (), 0, (), wording=None),))
    (tmp_path / "00000-1.pickle").write_bytes(pickle.dumps([group] * 3))
    (tmp_path / "00001-1.partial").write_bytes(b"half")
    groups: list[CartGroup] = []
    ended = threading.Event()
    thread = threading.Thread(target=away_rows.follow, args=(tmp_path, groups, ended))
    thread.start()
    while len(groups) < 3:
        assert thread.is_alive()
    (tmp_path / "00001-2.pickle").write_bytes(pickle.dumps([group]))
    while len(groups) < 4:
        assert thread.is_alive()
    ended.set()
    thread.join(20)
    assert groups == [group] * 4


def test_the_clock_starts_when_compilers_are_done(monkeypatch: pytest.MonkeyPatch):
    """Before its second step nothing of the run is over; all of it is when the time has come."""
    now = [100.0]
    monkeypatch.setattr(train_away.time, "time", lambda: now[0])
    clock = train_away._Clock(1100.0)
    assert clock(0) == 0
    now[0] = 300.0  # a compiler at work
    assert clock(1) == 0
    now[0] = 500.0
    assert clock(2) == pytest.approx(0.25)
    now[0] = 1100.0
    assert clock(3) == 1
    assert clock.steps == 3
