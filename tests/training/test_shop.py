"""What a head on states that stay as they are learns from, without a backbone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytestmark = [pytest.mark.train, pytest.mark.usefixtures("one_thread")]
pytest.importorskip("torch")

from app.domain import OUT_OF_SCOPE  # noqa: E402  # torch may be missing
from app.errors import InputError  # noqa: E402
from training import shop as shops  # noqa: E402
from training.examples import Example, labels_of  # noqa: E402
from training.recipe import read_recipe  # noqa: E402

LABELS = ("gift", "stock", OUT_OF_SCOPE)
ROWS = [Example(f"{intent} {n}", intent) for intent in LABELS[:2] for n in range(4)]
STOCK = [Example(f"planet {n}", OUT_OF_SCOPE) for n in range(4)]


class _Shop(shops.Shop):
    """States point where the first letter says."""

    def __init__(self) -> None:
        self.labels = LABELS
        self._recipe = replace(read_recipe(None), tune="never")

    def states(self, examples: Sequence[Example]) -> np.ndarray:
        angles = np.array([ord(e.text[0]) + 0.01 * ord(e.text[-1]) for e in examples])
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def test_a_head_alone_does_not_learn_the_stock_of_negatives(tmp_path: Path):
    """Its column is never chosen; the shop's own negatives are learned."""
    shop = _Shop()
    rows, bias = shop.tuned(ROWS, tmp_path / "a", "tune", STOCK).heads[0]
    assert not rows[2].any()
    assert bias[2] < -10
    own, _ = shop.tuned([*ROWS, *STOCK], tmp_path / "b", "tune").heads[0]
    assert own[2].any()
    assert (shop.states(ROWS) @ rows.T + bias).argmax(axis=1).tolist() == [0] * 4 + [1] * 4


def test_a_head_alone_learns_what_intents_are_called(tmp_path: Path):
    """One message more for each intent of the examples, in words; not those that are held out."""
    rows = [Example("parcel 1", "WHERE_IS-myParcel2"), Example("planet 1", OUT_OF_SCOPE)]
    assert shops.called(rows) == [Example("where is my parcel", "WHERE_IS-myParcel2")]
    assert shops.called([Example("a", "Q7"), Example("b", "42")]) == []
    seen: list[str] = []

    class Noting(_Shop):
        def states(self, examples: Sequence[Example]) -> np.ndarray:
            seen.extend(e.text for e in examples)
            return super().states(examples)

    Noting().tuned(ROWS[4:] + STOCK, tmp_path, "tune")
    assert "stock" in seen
    assert "gift" not in seen


@pytest.mark.parametrize("rows", [(12, 12), (12, 3), (12, 12, 12)])
def test_every_shop_gets_its_stock_of_negatives(rows: tuple[int, ...]):
    """Two intents too, of which one is always taken to be likely; without what reads like an intent."""
    things = [*("shoes", "a lamp", "the red scarf", "my jacket", "two mugs", "this chair")]
    things += [*("a kettle", "gloves", "the phone", "a tent", "socks", "the big sofa")]
    wishes = ("send {} back, it does not fit", "when will {} come to my door", "sing {} to me")
    examples = [
        Example(wish.format(thing), wish.split()[0])
        for wish, count in zip(wishes, rows, strict=False)
        for thing in things[:count]
    ]
    stock = shops.stock_negatives(examples, labels_of(examples), ("en",), 20)
    assert len(stock) == shops.NEGATIVES
    asked = shops.stock_negatives(
        [*examples, *(replace(e, intent="chat") for e in stock[:20])],
        (*labels_of(examples), "chat"),
        ("en",),
        20,
    )
    assert not {e.text for e in asked} & {e.text for e in stock[:20]}


def test_a_language_without_a_stock_needs_messages_of_its_own():
    """Said before any long work; with out-of-scope rows of the shop there is nothing to add."""
    examples = [Example("renvoyez-la", "returns"), Example("où est mon colis", "delivery")]
    with pytest.raises(InputError, match="in fr: add some of your own"):
        shops.stock_negatives(examples, labels_of(examples), ("fr",), 20)
    own = [*examples, Example("chante", "out_of_scope")]
    assert shops.stock_negatives(own, labels_of(own), ("fr",), 20) == []
