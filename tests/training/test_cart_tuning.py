"""Learning carts beside intents: what is read where, and that a tiny model learns it at all."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any

import numpy as np
import pytest

pytestmark = [pytest.mark.train, pytest.mark.usefixtures("one_thread")]
torch = pytest.importorskip("torch")

from app.classification.shortlist import ShortlistIndex  # noqa: E402  # torch may be missing
from app.classification.wording import FEATURES, wording  # noqa: E402
from tests.training.tiny_gemma import HIDDEN, tiny_gemma  # noqa: E402
from training.cart import encoding  # noqa: E402
from training.cart import tuning as cart  # noqa: E402
from training.cart.packing import CartGroup, batches, lay, together  # noqa: E402
from training.gemma import Shape, unit_states  # noqa: E402
from training.joint import JointConfig, Message, Messages, Pool, train  # noqa: E402
from training.padding import padded  # noqa: E402

END = 1
ROW = {
    "catalog": ["ab", "cd", "ab"],
    "text": "2 cd",
    "kind": "single",
    "actions": [{"action": "remove", "product": "ab", "quantity": 12}],
}


def alone(rows: Iterable[encoding.EncodedCart]) -> list[CartGroup]:
    """Each row for itself."""
    return [CartGroup((row,)) for row in rows]


def spell(text: str) -> list[int]:
    """One token a character."""
    return [10 + ord(character) % 100 for character in text]


def test_products_are_read_at_their_line_ends_and_slots_after_the_message():
    """The first of two equal products is meant, and every position holds the token it should."""
    row = encoding.CartEncoder(spell, [2], END).encode(ROW)
    newline = spell("\n")[0]
    assert row.tokens[0] == 2
    assert [row.tokens[place] for place in row.products] == [newline] * 3
    assert [row.tokens[place] for place in row.slots] == spell("123456")
    assert row.slots[-1] == len(row.tokens) - 1
    assert row.actions == ((1, 0, 12),)


def test_a_json_row_ends_in_the_papers_answer():
    """The answer begins right after the message's line and ends with the end token."""
    row = encoding.CartEncoder(spell, [2], END).encode(ROW, as_json=True)
    answer = '{"action": "remove", "product": "ab", "quantity": 12}'
    assert list(row.tokens[row.answer :]) == [*spell(answer), END]
    assert row.slots == ()


@pytest.mark.parametrize(
    ("kind", "outcome"),
    [("absent", "not_in_catalog"), ("ambiguous", "ambiguous"), ("adversarial", "no_action")],
)
def test_a_row_without_actions_says_why(kind: str, outcome: str):
    """What kind of row it is decides what the message means for the cart."""
    assert encoding.outcome_of({"actions": [], "kind": kind}) == outcome


def wish(text: str, catalog: list[str]) -> dict[str, Any]:
    """Three more of, or less, what the text names after its sign."""
    action = {"action": "add" if text[0] == "+" else "remove", "product": text[1:], "quantity": 3}
    return {"catalog": catalog, "text": text, "kind": "single", "actions": [action]}


def test_names_are_looked_at_where_slots_are_read():
    """Features of every product's name as serving computes them; a JSON row has no use for them."""
    encoder = encoding.CartEncoder(spell, [2], END)
    row = wish("+green tea", ["green tea", "oat milk"])
    features = encoder.encode(row).wording
    assert features is not None
    assert np.array_equal(features, wording(ShortlistIndex(row["catalog"]), row["text"]))
    assert features.shape == (2, len(FEATURES))
    assert features[0, 0] > features[1, 0]
    assert encoder.encode(row, as_json=True).wording is None


def test_carts_and_intents_are_learned_by_one_adapter():
    """A few rows of both are learned by heart, and the heads read them back as serving does."""
    encoder = encoding.CartEncoder(spell, [2], END)
    texts, catalog = ["+ab", "-cd", "+cd", "-ab"], ["ab", "cd"]
    rows = [encoder.encode(wish(text, catalog)) for text in texts]
    told = encoder.encode(ROW, as_json=True)
    objective = cart.CartObjective(alone([*rows, told]), HIDDEN, 5, "cpu", seed=1)
    config = JointConfig(
        learning_rate=1e-2, head_learning_rate=1e-2, steps=120, batch_size=2, ema=0.5
    )
    known = [Message(((2, 5, 3),), 0), Message(((2, 6, 3),), 1)]
    heads = [np.zeros((2, HIDDEN), np.float32)]
    targets = np.ones((1, 4), np.float32)
    messages = Messages([Pool(1.0, known)], heads, targets, config, "cpu")
    model = tiny_gemma(rank=16)
    (found,) = train(model, messages, [objective], config).heads
    learned = objective.heads()
    for i, slots, products in cart.read_states(model, rows, "cpu"):
        names = rows[i].wording
        (action,) = learned.decide(slots, products, catalog, wording=names).actions
        assert (action.action, action.product, action.quantity) == (
            "add" if texts[i][0] == "+" else "remove",
            texts[i][1:],
            3,
        )
    ids, lengths = padded([message.spellings[0] for message in known], "cpu")
    with torch.no_grad():
        states = unit_states(model(ids, lengths))[:, -1].numpy()
    assert (states @ found[0].T + found[1]).argmax(axis=1).tolist() == [0, 1]


def test_scores_in_training_are_those_of_serving():
    """Pointer and outcome with the names' gates: the loss is the one of the served heads' scores."""
    encoder = encoding.CartEncoder(spell, [2], END)
    row = encoder.encode(wish("+green tea", ["oat milk", "green tea", "tea pot"]))
    objective = cart.CartObjective(alone([row]), HIDDEN, 1, "cpu", seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in objective.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 8)
    model = tiny_gemma()
    model.merge()
    ((_, slots, products),) = cart.read_states(model, [row], "cpu")
    scores = objective.heads().score(slots, products, row.wording)

    def cost(logits: np.ndarray, right: int) -> float:
        return float(np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[right])

    ((kind, product, _),) = row.actions
    expected = (
        cost(scores.outcome, row.outcome)
        + (cost(scores.action[0], kind) + cost(scores.action[1], cart._STOP)) / 2
        + sum(cost(scores.digits[0, i], digit) for i, digit in enumerate((0, 0, 3))) / 3
        + cost(scores.pointer[0], product)
    )
    with torch.no_grad():
        assert objective.loss(model).item() == pytest.approx(expected, rel=1e-3)


def test_the_names_alone_tell_what_the_model_cannot():
    """With states that know nothing, only the features of the names point at the right product."""
    encoder = encoding.CartEncoder(lambda text: [5] * len(text), [2], END)  # all letters alike
    catalogs = [["green tea", "oat milk"], ["milk shake", "black tea"]]
    rows = [encoder.encode(wish(f"+{name}", names)) for names in catalogs for name in names]
    objective = cart.CartObjective(alone(rows), HIDDEN, 4, "cpu", seed=1)
    model = tiny_gemma(rank=0)
    model.merge()
    optimiser = torch.optim.Adam(objective.parameters(), lr=3e-2)
    for _ in range(60):
        optimiser.zero_grad()
        objective.loss(model).backward()
        optimiser.step()
    heads = objective.heads()
    for i, slots, products in cart.read_states(model, rows, "cpu"):
        names = rows[i].wording
        pointer = heads.score(slots, products, names).pointer[0]
        assert pointer.argmax() == rows[i].actions[0][1]


class Watched:
    """Answers with states of no meaning, and remembers how large the batches were."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, int]] = []

    def continued(self, begun: Any, behind: Any) -> Any:
        self.shapes.append((len(begun.ids), begun.ids.shape[1] + behind.ids.shape[1]))
        return tuple(torch.ones(*p.ids.shape, HIDDEN, requires_grad=True) for p in (begun, behind))


def test_a_batch_of_long_catalogs_has_fewer_rows(monkeypatch: pytest.MonkeyPatch):
    """Its tokens, padding included, stay under the limit, and in time every row is read."""
    encoder = encoding.CartEncoder(spell, [2], END)
    rows = [
        encoder.encode(wish("+ab", ["ab", *(f"cd{number:03}" for number in range(count))]))
        for count in range(2, 42)
    ]
    longest = max(len(row.tokens) for row in rows)
    monkeypatch.setattr(cart, "_MOST_TOKENS", 2 * longest)
    objective = cart.CartObjective(alone(rows), HIDDEN, 8, "cpu", seed=1)
    model, drawn = Watched(), []
    told = objective._slots_loss

    def noted(states: Any, laid: Any, read: Any) -> Any:
        drawn.extend(len(row.tokens) for row in laid.rows)
        return told(states, laid, read)

    monkeypatch.setattr(objective, "_slots_loss", noted)
    for _ in range(60):
        objective.loss(model)
    assert max(n * t for n, t in model.shapes) <= 2 * (longest + 14)  # up to eight at both ends
    assert min(model.shapes)[0] == 2 < max(model.shapes)[0]
    assert set(drawn) == {len(row.tokens) for row in rows}


def test_a_row_longer_than_the_limit_is_learned_alone(monkeypatch: pytest.MonkeyPatch):
    """It is the only one of its batch; a batch of none would have no loss."""
    row = encoding.CartEncoder(spell, [2], END).encode(ROW)
    monkeypatch.setattr(cart, "_MOST_TOKENS", 5)
    model = Watched()
    assert torch.isfinite(
        cart.CartObjective(alone([row] * 3), HIDDEN, 3, "cpu", seed=1).loss(model)
    )
    ((rows, _),) = model.shapes
    assert rows == 1


def test_too_few_rows_for_a_batch_are_refused():
    """Else the objective would look for a batch for ever."""
    row = encoding.CartEncoder(spell, [2], END).encode(ROW)
    with pytest.raises(ValueError, match="3 catalogs do not make a batch of 4"):
        cart.CartObjective(alone([row] * 3), HIDDEN, 4, "cpu", seed=1)


def test_batches_hold_rows_of_like_length():
    """Each row once a round, whatever order the like lengths are brought into."""
    encoder = encoding.CartEncoder(spell, [2], END)
    rows = [encoder.encode(wish("+ab", ["ab", "c" * length])) for length in range(1, 13)]
    drawn = list(islice(batches(alone(rows), 4, seed=1), 3))
    lengths = [[group.length for group in batch] for batch in drawn]
    assert sorted(n for batch in lengths for n in batch) == [len(row.tokens) for row in rows]
    assert all(max(batch) - min(batch) == 3 for batch in lengths)


CATALOGS = ["green tea", "oat milk"], ["milk shake", "black tea", "soap"]


def rows_together() -> list[encoding.EncodedCart]:
    """Three and two about a catalog, one of them with an answer in JSON."""
    encoder = encoding.CartEncoder(spell, [2], END)
    texts = [
        ("+green tea", 0),
        ("-oat milk", 0),
        ("-green tea", 0),
        ("+soap", 1),
        ("+black tea", 1),
    ]
    return [
        encoder.encode(wish(text, CATALOGS[number]), as_json=text == "-oat milk")
        for text, number in texts
    ]


def test_rows_with_one_catalog_are_a_group():
    rows = rows_together()
    assert [len(group.rows) for group in together(rows)] == [3, 2]
    assert [group.rows for group in together([rows[0], rows[3], rows[1]])] == [
        (rows[0], rows[1]),
        (rows[3],),
    ]
    first = together(rows)[0]
    beginning = rows[0].products[-1] + 1
    assert first.length == beginning + sum(len(row.tokens) - beginning for row in rows[:3])


def test_rows_read_together_have_the_states_of_rows_read_alone(monkeypatch: pytest.MonkeyPatch):
    """At every position, in near layers and far ones: no text sees another, and all see the catalog."""
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.float)
    model = tiny_gemma(layers=6, shape=Shape(head_dim=16, window=24))
    model.merge()
    laid = lay(together(rows_together()), "cpu")
    with torch.no_grad():
        states = model.continued(laid.catalogs, laid.behind)
        for i, row in enumerate(laid.rows):
            group, start, beginning = int(laid.groups[i]), int(laid.starts[i]), row.beginning
            (apart,) = model(*padded([row.tokens], "cpu"))
            assert laid.catalogs.ids[group, :beginning].tolist() == list(row.tokens[:beginning])
            end = start + len(row.tokens) - beginning
            assert laid.behind.ids[group, start:end].tolist() == list(row.tokens[beginning:])
            found = torch.cat([states[0][group, :beginning], states[1][group, start:end]])
            torch.testing.assert_close(found, apart, atol=1e-4, rtol=1e-4)


def test_rows_read_together_cost_what_they_cost_alone(monkeypatch: pytest.MonkeyPatch):
    """The loss, of slots and of JSON."""
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.float)
    rows = rows_together()
    model = tiny_gemma()
    model.merge()
    apart = cart.CartObjective(alone(rows), HIDDEN, 5, "cpu", seed=1)
    packed = cart.CartObjective(together(rows), HIDDEN, 2, "cpu", seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for one, other in zip(apart.parameters(), packed.parameters(), strict=True):
            one.copy_(torch.randn(one.shape, generator=generator) / 8)
            other.copy_(one)
        assert packed.loss(model).item() == pytest.approx(apart.loss(model).item(), rel=1e-4)
