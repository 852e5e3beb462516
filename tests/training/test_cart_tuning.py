"""Learning carts beside intents: what is read where, and that a tiny model learns it at all."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytestmark = [
    pytest.mark.train,
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]
torch = pytest.importorskip("torch")
pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

tuning = pytest.importorskip("training.tuning")
cart = pytest.importorskip("training.cart.tuning")

END = 1
ROW = {
    "catalog": ["ab", "cd", "ab"],
    "text": "2 cd",
    "kind": "single",
    "actions": [{"action": "remove", "product": "ab", "quantity": 12}],
}


def spell(text: str) -> list[int]:
    """One token a character."""
    return [10 + ord(character) % 100 for character in text]


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tiny_model() -> Any:
    torch.manual_seed(1)
    config = transformers.Gemma3TextConfig(
        vocab_size=128,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        sliding_window=64,
        layer_types=["full_attention", "full_attention"],
        attn_implementation="eager",
    )
    return transformers.Gemma3TextModel(config)


def test_products_are_read_at_their_line_ends_and_slots_after_the_message():
    """The first of two equal products is meant, and every position holds the token it should."""
    row = cart.CartEncoder(spell, [2], END).encode(ROW)
    newline = spell("\n")[0]
    assert row.tokens[0] == 2
    assert [row.tokens[place] for place in row.products] == [newline] * 3
    assert [row.tokens[place] for place in row.slots] == spell("123456")
    assert row.slots[-1] == len(row.tokens) - 1
    assert row.actions == ((1, 0, 12),)


def test_a_json_row_ends_in_the_papers_answer():
    """The answer begins right after the message's line and ends with the end token."""
    row = cart.CartEncoder(spell, [2], END).encode(ROW, as_json=True)
    answer = '{"action": "remove", "product": "ab", "quantity": 12}'
    assert list(row.tokens[row.answer :]) == [*spell(answer), END]
    assert row.slots == ()


@pytest.mark.parametrize(
    ("kind", "outcome"),
    [("absent", "not_in_catalog"), ("ambiguous", "ambiguous"), ("adversarial", "no_action")],
)
def test_a_row_without_actions_says_why(kind: str, outcome: str):
    """What kind of row it is decides what the message means for the cart."""
    assert cart.outcome_of({"actions": [], "kind": kind}) == outcome


def test_carts_and_intents_are_learned_by_one_adapter():
    """A few rows of both are learned by heart, and the heads read them back as serving does."""
    encoder = cart.CartEncoder(spell, [2], END)
    texts = ["+ab", "-cd", "+cd", "-ab"]
    rows = [
        encoder.encode(
            {
                "catalog": ["ab", "cd"],
                "text": text,
                "kind": "single",
                "actions": [
                    {
                        "action": "add" if text[0] == "+" else "remove",
                        "product": text[1:],
                        "quantity": 3,
                    }
                ],
            }
        )
        for text in texts
    ]
    told = encoder.encode(ROW, as_json=True)
    model = tiny_model()
    objective = cart.CartObjective([*rows, told], 32, 5, "cpu", seed=1)
    examples = [tuning.Encoded((2, 5, 3), 0, 0), tuning.Encoded((2, 6, 3), 0, 1)]
    config = tuning.TuningConfig(
        rank=16, alpha=32.0, dropout=0.0, learning_rate=1e-2, head_learning_rate=1e-2,
        epochs=300.0, batch_size=2, ema=0.5,
    )  # fmt: skip
    tuning.tune(model, examples, [np.zeros((2, 32), np.float32)], config, objectives=[objective])
    heads = objective.heads()
    for i, slots, products in cart.read_states(model, rows, "cpu"):
        (action,) = heads.decide(slots, products, ["ab", "cd"]).actions
        assert (action.action, action.product, action.quantity) == (
            "add" if texts[i][0] == "+" else "remove",
            texts[i][1:],
            3,
        )


def test_states_are_drawn_towards_the_teachers_embeddings():
    """Examples without labels learn from the teacher alone; those without a target add nothing."""
    model = tiny_model()
    targets = np.eye(4, dtype=np.float32)[:2]
    examples = [
        tuning.Encoded((2, 5, 3), tuning.NO_LABELS, 0, 0),
        tuning.Encoded((2, 6, 3), tuning.NO_LABELS, 0, 1),
        tuning.Encoded((2, 7, 3), 0, 0),
    ]
    losses: list[float] = []
    config = tuning.TuningConfig(
        rank=4, alpha=8.0, dropout=0.0, learning_rate=1e-2, epochs=60.0, batch_size=3
    )
    tuning.tune(
        model,
        examples,
        [np.zeros((1, 32), np.float32)],
        config,
        lambda _done, _total, loss: losses.append(loss),
        targets=targets,
    )
    assert losses[-1] < 0.5 * losses[0]
