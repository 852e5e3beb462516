"""The tuning itself, on a random two-layer Gemma: what it computes, not how good it gets."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytestmark = [
    pytest.mark.train,
    # peft asks transformers by an old name; neither is ours.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]
torch = pytest.importorskip("torch")
pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

tuning = pytest.importorskip("training.tuning")

HIDDEN = 32
VOCABULARY = 64
KEYS = (7, 19, 33)
"""The label of a message is the key among its tokens."""


@pytest.fixture
def make_model() -> Callable[[], Any]:
    def make() -> Any:
        torch.manual_seed(1)
        config = transformers.Gemma3TextConfig(
            vocab_size=VOCABULARY,
            hidden_size=HIDDEN,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=16,
            sliding_window=32,
            layer_types=["sliding_attention", "sliding_attention"],
            attn_implementation="eager",
        )
        return transformers.Gemma3TextModel(config).eval()

    return make


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def messages(count: int, label_set: int = 0, seed: int = 5) -> list[Any]:
    rng = random.Random(seed)
    rows = []
    for number in range(count):
        label = number % len(KEYS)
        fill = [rng.randrange(40, VOCABULARY) for _ in range(rng.randrange(1, 7))]
        rows.append(tuning.Encoded((2, *fill, KEYS[label], 3), label_set, label))
    return rows


def heads(sets: int = 1) -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    return [rng.normal(scale=0.05, size=(3, HIDDEN)).astype(np.float32) for _ in range(sets)]


def config(**changes: Any) -> Any:
    return tuning.TuningConfig(
        **{"rank": 4, "alpha": 8.0, "batch_size": 8, "dropout": 0.0, "epochs": 2.0, "ema": 0.5}
        | changes
    )


def states(model: Any, rows: list[Any]) -> np.ndarray:
    return tuning.hidden_states(model, [row.tokens for row in rows], "cpu")


def accuracy(model: Any, tuned: Any, rows: list[Any], label_set: int) -> float:
    weights, bias = tuned.heads[label_set]
    best = (states(model, rows) @ weights.T + bias).argmax(axis=1)
    return float(np.mean(best == [row.label for row in rows]))


def test_the_adapter_is_what_changed(make_model: Callable[[], Any]):
    """The tuned model equals the untouched one with the returned factors added."""
    model, untouched = make_model(), make_model()
    rows = messages(48)
    tuned = tuning.tune(model, rows, heads(), config(learning_rate=3e-3))
    before = states(untouched, rows)
    tuning.apply_adapter(untouched, tuned.adapter)
    after = states(untouched, rows)
    # bf16 autocast: seven bits of mantissa
    np.testing.assert_allclose(states(model, rows), after, atol=0.15)
    assert np.abs(after - before).max() > 0.5
    merged, added = model.state_dict(), untouched.state_dict()
    for name, weight in merged.items():
        torch.testing.assert_close(weight, added[name], atol=1e-5, rtol=1e-4)


def test_the_adapter_has_the_names_and_shapes_of_a_gguf_file(make_model: Callable[[], Any]):
    """Seven linear modules a layer, ``a`` (rank, in) and ``b`` (out, rank)."""
    adapter = tuning.tune(make_model(), messages(16), heads(), config()).adapter
    assert adapter.keys() == {
        f"blk.{layer}.{name}.weight" for layer in (0, 1) for name in tuning.GGUF_MODULES.values()
    }
    a, b = adapter["blk.1.ffn_down.weight"]
    assert (a.shape, b.shape) == ((4, 64), (HIDDEN, 4))


def test_several_label_sets_are_learned_at_once(make_model: Callable[[], Any]):
    """Each against its own rows; the loss falls and the labels are found."""
    model = make_model()
    rows = [*messages(48, 0), *messages(48, 1, seed=6)]
    losses: list[float] = []
    tuned = tuning.tune(
        model,
        rows,
        heads(2),
        config(epochs=12.0, learning_rate=3e-3, head_learning_rate=1e-2, ema=0.9),
        lambda _done, _total, loss: losses.append(loss),
    )
    assert losses[-1] < losses[0] / 2
    assert accuracy(model, tuned, rows[:48], 0) > 0.9
    assert accuracy(model, tuned, rows[48:], 1) > 0.9
    assert not np.array_equal(tuned.heads[0][0], tuned.heads[1][0])


def test_cached_lower_layers_change_nothing(make_model: Callable[[], Any]):
    """Tuning the upper layer on kept states gives what tuning it on whole prompts would."""
    cached, plain = make_model(), make_model()
    rows = messages(32)
    quick = config(first_layer=1, learning_rate=1e-3)
    with_cache = tuning.tune(cached, rows, heads(), quick)
    assert {name.split(".")[1] for name in with_cache.adapter} == {"1"}
    tuning.apply_adapter(plain, with_cache.adapter)
    np.testing.assert_allclose(states(cached, rows), states(plain, rows), atol=0.15)
    assert len(cached.layers) == len(cached.config.layer_types) == 2


def test_lower_states_followed_by_upper_layers_are_the_whole_model(make_model: Callable[[], Any]):
    """The states of a prompt's lower layers, sent through the upper ones, end where it would."""
    model = make_model()
    rows = messages(12)
    whole = states(model, rows)
    lower = tuning._lower_states(model, [row.tokens for row in rows], config(first_layer=1))
    with torch.no_grad(), tuning._upper_layers(model, 1):
        parted = tuning.encode_states(model, lower, "cpu").numpy()
    np.testing.assert_allclose(parted, whole, atol=0.15)


def test_layers_that_would_change_kind_are_refused(make_model: Callable[[], Any]):
    """Gemma's layers look far or near by their place; dropping some must not move that."""
    model = make_model()
    model.config.layer_types = ["sliding_attention", "full_attention"]
    with pytest.raises(ValueError, match="pattern"):
        tuning.tune(model, messages(8), heads(), config(first_layer=1))


def test_padding_does_not_matter(make_model: Callable[[], Any]):
    """A message's state is the same alone and beside longer ones."""
    model, rows = make_model(), messages(9)
    together = states(model, rows)
    alone = np.concatenate([states(model, [row]) for row in rows])
    np.testing.assert_allclose(together, alone, atol=0.1)
    assert np.linalg.norm(together, axis=1) == pytest.approx(np.sqrt(HIDDEN), rel=1e-4)


def test_the_same_seed_tunes_the_same(make_model: Callable[[], Any]):
    """On one machine and thread, a run can be repeated."""
    one, other = (tuning.tune(make_model(), messages(16), heads(), config()) for _ in range(2))
    assert np.array_equal(one.heads[0][0], other.heads[0][0])
    other_seed = tuning.tune(make_model(), messages(16), heads(), config(seed=21))
    assert not np.array_equal(one.heads[0][0], other_seed.heads[0][0])


def test_heads_start_from_texts_or_means():
    """Rows of equal length that point away from the centre; labels without messages get zeros."""
    rng = np.random.default_rng(2)
    embedding = rng.normal(size=(20, HIDDEN)).astype(np.float32)
    rows = tuning.text_rows(embedding, [[1, 2], [3]])
    assert np.linalg.norm(rows, axis=1) == pytest.approx(0.3, rel=1e-4)
    means = tuning.mean_rows(embedding, [0] * 10 + [2] * 10, 3)
    assert not means[1].any()
    assert means[0] @ means[2] < 0


def test_batches_hold_every_message_once_an_epoch():
    """Whatever order the like lengths are brought into."""
    settings = config(batch_size=4)
    lengths = [5, 1, 9, 2, 2, 7, 3, 3, 8, 1, 4]
    drawn = list(tuning._batches(lengths, settings, total=6))
    assert len(drawn) == 6
    for epoch in (drawn[:3], drawn[3:]):
        assert sorted(i for batch in epoch for i in batch) == list(range(len(lengths)))
