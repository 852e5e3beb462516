"""Training of one adapter by several objectives, on a random two-layer Gemma."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

pytestmark = [pytest.mark.train, pytest.mark.usefixtures("one_thread")]
torch = pytest.importorskip("torch")

from torch.optim.optimizer import (  # noqa: E402  # torch may be missing
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from tests.training.tiny_gemma import HIDDEN, tiny_gemma  # noqa: E402
from training import joint  # noqa: E402
from training.gemma import Gemma, last_states  # noqa: E402
from training.joint import (  # noqa: E402
    JointConfig,
    Message,
    Messages,
    Pool,
    first_rows,
    rate,
    train,
)
from training.padding import padded  # noqa: E402

KEYS = (7, 19, 33)
"""The label of a message is the key among its tokens."""
TARGETS = np.eye(3, 6, dtype=np.float32)


def toy(first: int, seed: int, target: bool = False) -> list[Message]:
    """Messages of three labels, whose rows begin at ``first``."""
    rng = random.Random(seed)
    found = []
    for number in range(24):
        label = number % 3
        fill = [rng.randrange(40, 120) for _ in range(rng.randrange(1, 7))]
        tokens = (2, *fill, KEYS[label], 3)
        found.append(Message((tokens,), first + label, label if target else -1))
    return found


def config(**changes: Any) -> JointConfig:
    known = {"learning_rate": 3e-3, "head_learning_rate": 1e-2, "steps": 4, "batch_size": 12}
    return JointConfig(**known | {"ema": 0.9} | changes)


def messages_of(pools: Sequence[Pool], given: JointConfig, sets: int = 2) -> Messages:
    rng = np.random.default_rng(3)
    heads = [rng.normal(scale=0.05, size=(3, HIDDEN)).astype(np.float32) for _ in range(sets)]
    return Messages(pools, heads, TARGETS, given, "cpu")


def two_sets(given: JointConfig) -> Messages:
    return messages_of([Pool(0.5, toy(0, 5, target=True)), Pool(0.5, toy(3, 6))], given)


class Pull:
    """An objective of one row, as strong as it is told to be; counts how often it is asked."""

    def __init__(self, strength: float = 1.0) -> None:
        self.row = torch.nn.Parameter(torch.linspace(-1, 1, HIDDEN))
        self.strength = strength
        self.asked = 0

    def parameters(self) -> list[Any]:
        return [self.row]

    def loss(self, model: Gemma) -> Any:
        self.asked += 1
        ids, lengths = padded([[5, 6, 7]], "cpu")
        return self.strength * (last_states(model(ids, lengths), lengths) @ self.row).sum()


def watched(objectives: Sequence[Any], given: JointConfig) -> tuple[Gemma, list[Any], list[Any]]:
    """The model after a run; the factors' gradients before each step, and the factors after it."""
    model = tiny_gemma()
    before: list[Any] = []
    after: list[Any] = []

    def look(*_: Any) -> None:
        before.append([factor.grad.clone() for factor in model.factors])

    def keep(*_: Any) -> None:
        after.append([factor.detach().clone() for factor in model.factors])

    hooks = register_optimizer_step_pre_hook(look), register_optimizer_step_post_hook(keep)
    try:
        train(model, two_sets(given), objectives, given)
    finally:
        for hook in hooks:
            hook.remove()
    return model, before, after


def test_labels_compete_only_within_their_set():
    """The loss is that of each set's own softmax, and the other set's rows get no gradient."""
    messages = two_sets(config(label_smoothing=0.1))
    states = torch.randn(3, HIDDEN, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([0, 2, 1])
    loss = messages._label_loss(states, labels)
    own = torch.nn.functional.cross_entropy(
        states @ messages._rows[:3].T, labels, reduction="sum", label_smoothing=0.1
    )
    assert loss.item() == pytest.approx(own.item(), rel=1e-5)
    loss.backward()
    assert messages._rows.grad[:3].abs().max() > 0
    assert not messages._rows.grad[3:].any()


@pytest.mark.parametrize("strength", [1.0, 1e4])
def test_gradients_are_cut_apart(strength: float):
    """However loud another objective is, the sum of the cut gradients is no longer than one."""
    _, gradients, _ = watched([Pull(strength)], config())
    for step in gradients:
        assert torch.nn.utils.get_total_norm(step) <= 1.001


def test_a_loud_objective_does_not_drown_the_messages():
    """Ten thousand times the loss leaves the first step's gradient as it is."""
    _, quiet, _ = watched([Pull(1e2)], config(steps=1))
    _, loud, _ = watched([Pull(1e6)], config(steps=1))
    for one, other in zip(quiet[0], loud[0], strict=True):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-2)
    _, alone, _ = watched([], config(steps=1))
    dots = sum((a * b).sum().item() for a, b in zip(alone[0], loud[0], strict=True))
    assert dots > 0.2  # a half of the messages' own direction is in it


def test_labels_and_embeddings_are_learned():
    """In some steps both sets' labels are found, and mapped states are near the teacher's."""
    given = config(steps=150, batch_size=24)
    model, messages = tiny_gemma(rank=8), two_sets(given)
    model.merge()
    with torch.no_grad():
        before = messages.loss(model).item()
    told: list[tuple[int, int]] = []
    tuned = train(model, messages, [], given, lambda done, total, _loss: told.append((done, total)))
    with torch.no_grad():
        assert messages.loss(model).item() < before / 2
    assert messages.last["teacher"] < 0.2
    assert told == [(50, 150), (100, 150), (150, 150)]
    for number, first in enumerate((0, 3)):
        found = toy(first, 5 + number)
        ids, lengths = padded([m.spellings[0] for m in found], "cpu")
        with torch.no_grad():
            states = last_states(model(ids, lengths), lengths).numpy()
        rows, bias = tuned.heads[number]
        best = (states @ rows.T + bias).argmax(axis=1)
        assert np.mean(best == [m.label - first for m in found]) > 0.9


def test_the_outcome_is_what_the_model_was_left_with():
    """The adapter's factors, the scale folded in, are the change of the merged weights."""
    given = config()
    model = tiny_gemma()
    tuned = train(model, two_sets(given), [], given)
    assert not model.training
    assert tuned.adapter.keys() == set(model.names)
    for name, (a, b) in tuned.adapter.items():
        added = model._frozen[name].numpy() + b @ a
        np.testing.assert_allclose(model.merged[name].float().numpy(), added, atol=2e-2)
    assert [rows.shape for rows, _ in tuned.heads] == [(3, HIDDEN)] * 2


def test_the_moving_average_is_what_is_kept():
    """Not the last step's weights: the mean of all, the late ones most."""
    given = config(steps=6)
    model, _, steps = watched([Pull()], given)
    mean = [factor.detach().clone() for factor in tiny_gemma().factors]
    for number, factors in enumerate(steps, start=1):
        decay = min(given.ema, number / (number + 9))
        mean = [decay * m + (1 - decay) * f for m, f in zip(mean, factors, strict=True)]
    for kept, wanted, last in zip(model.factors, mean, steps[-1], strict=True):
        torch.testing.assert_close(kept.detach(), wanted)
        assert not torch.equal(kept.detach(), last)


def test_a_run_hands_out_what_it_has_so_far(monkeypatch: pytest.MonkeyPatch):
    """As if it had ended there; handing out changes nothing of what follows."""
    monkeypatch.setattr(joint, "KEPT_EVERY", 4)
    handed: list[Any] = []
    given = config(steps=10, learning_rate=3e-3)

    def run(keep: Any = None, last: int = 10) -> Any:
        def pace(step: int) -> float:
            return 1.0 if step == last else step / 10

        return train(tiny_gemma(), two_sets(given), [], given, pace=pace, keep=keep)

    whole, watched_run, short = run(), run(handed.append), run(last=4)
    assert len(handed) == 2
    for name, (a, b) in whole.adapter.items():
        for one, other in ((watched_run, (a, b)), (handed[0], short.adapter[name])):
            assert np.array_equal(one.adapter[name][0], other[0])
            assert np.array_equal(one.adapter[name][1], other[1])
    assert np.array_equal(handed[0].heads[1][0], short.heads[1][0])
    assert not np.array_equal(handed[0].heads[1][0], handed[1].heads[1][0])


def test_a_pace_ends_the_run():
    """A clock may set it: no step is taken once all of it is over."""
    pull, given = Pull(), config(steps=1000)
    train(tiny_gemma(), two_sets(given), [pull], given, pace=lambda step: step / 3)
    assert pull.asked == 3


def test_the_same_seed_trains_the_same():
    """On one machine and thread, a run can be repeated."""

    def run(seed: int) -> Any:
        given = config(seed=seed)
        return train(tiny_gemma(), two_sets(given), [], given)

    one, same, other = run(20), run(20), run(21)
    for name, (a, b) in one.adapter.items():
        assert np.array_equal(a, same.adapter[name][0])
        assert np.array_equal(b, same.adapter[name][1])
    assert np.array_equal(one.heads[1][0], same.heads[1][0])
    assert not np.array_equal(one.heads[0][0], other.heads[0][0])


def test_batches_hold_each_pools_share():
    """Four batches together, whatever the roundings; all of one size, like lengths beside each other."""
    long = [Message(((1,) * 30,))] * 2
    pools = [Pool(0.42, toy(0, 1)), Pool(0.38, toy(3, 2)), Pool(0.2, long)]
    messages = messages_of(pools, config(batch_size=11))
    batches = [messages._draw() for _ in range(4)]
    assert [len(batch) for batch in batches] == [11] * 4
    drawn = [message for batch in batches for message in batch]
    assert sum(message.label in range(3) for message in drawn) == 19
    assert len(long[0].spellings[0]) == max(len(m.spellings[0]) for m in drawn)
    assert sum(message.label < 0 for message in drawn) == 8
    spans = sorted(
        (min(lengths), max(lengths))
        for lengths in ([len(m.spellings[0]) for m in batch] for batch in batches)
    )
    assert all(one[1] <= other[0] for one, other in pairwise(spans))


def test_shares_that_are_no_shares_are_refused():
    """Batches would come out shorter than they are told to be."""
    with pytest.raises(ValueError, match="add up to one"):
        messages_of([Pool(0.5, toy(0, 1))], config())


def test_messages_without_label_or_target_learn_from_the_other():
    """A batch without any target has no teacher's loss, and one without labels no labels' loss."""
    model = tiny_gemma()
    model.merge()
    only_labels = messages_of([Pool(1.0, toy(0, 1))], config())
    unlabelled = [Message(m.spellings, -1, m.target) for m in toy(0, 1, target=True)]
    only_targets = messages_of([Pool(1.0, unlabelled)], config())
    with torch.no_grad():
        only_labels.loss(model)
        only_targets.loss(model)
    assert only_labels.last["teacher"] == only_labels.last["relation"] == 0
    assert only_labels.last["labels"] > 0
    assert only_targets.last["labels"] == 0
    assert only_targets.last["teacher"] > 0


def test_the_rate_warms_up_and_falls_to_nothing():
    """From a fiftieth to the peak, then a half cosine."""
    assert rate(0.0, 0.1) == pytest.approx(0.02)
    assert rate(0.1, 0.1) == pytest.approx(1.0)
    assert rate(0.55, 0.1) == pytest.approx(0.5)
    assert rate(1.0, 0.1) == pytest.approx(0.0)


def test_label_sets_lie_one_after_the_other():
    """A set's first row is the number of labels before it."""
    heads = [np.zeros((count, 2), np.float32) for count in (3, 1, 4)]
    assert first_rows(heads) == [0, 3, 4]
