"""Gemma in plain torch says what ``transformers`` says, and its adapter learns what autograd would."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.train, pytest.mark.usefixtures("one_thread")]
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from safetensors.torch import load_file, save_file  # noqa: E402  # torch may be missing

from app.errors import FileDamaged  # noqa: E402
from tests.training.tiny_checkpoints import write_tiny_gemma  # noqa: E402
from tests.training.tiny_gemma import VOCABULARY, tiny_gemma  # noqa: E402
from training.gemma import (  # noqa: E402
    Gemma,
    Shape,
    last_states,
    read_checkpoint,
    unit_states,
)
from training.padding import Begun, Behind, padded  # noqa: E402

WINDOW = 64
LENGTHS = (150, 37, 1)
"""One message is longer than the window that near layers see."""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven layers, of which the sixth attends everywhere."""
    return write_tiny_gemma(tmp_path_factory.mktemp("gemma"))


@pytest.fixture
def in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is rounded to bfloat16, so that only mistakes make a difference."""
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.float)


def rows() -> list[list[int]]:
    generator = torch.Generator().manual_seed(4)
    return [torch.randint(4, 270, (n,), generator=generator).tolist() for n in LENGTHS]


def ours(checkpoint: Path, **options: Any) -> Gemma:
    tensors, table = read_checkpoint(checkpoint / "model.safetensors", "cpu")
    shape = Shape(head_dim=32, window=WINDOW, bidirectional=options.pop("bidirectional", False))
    model = Gemma(tensors, table, shape=shape, **options)
    model.merge()
    return model


def theirs(checkpoint: Path, **changes: Any) -> Any:
    written = json.loads((checkpoint / "config.json").read_bytes())
    config = transformers.Gemma3TextConfig(**written | changes)  # halves the window where it must
    return transformers.Gemma3TextModel.from_pretrained(
        checkpoint, config=config, attn_implementation="eager"
    ).eval()


@torch.no_grad()
def assert_alike(model: Gemma, other: Any, tolerance: float = 1e-3) -> None:
    ids, lengths = padded(rows(), "cpu")
    mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
    found = model(ids, lengths)
    wanted = other(input_ids=ids, attention_mask=mask).last_hidden_state
    for i, length in enumerate(lengths):
        torch.testing.assert_close(
            found[i, :length], wanted[i, :length], atol=tolerance, rtol=tolerance
        )


def test_a_causal_model_says_what_transformers_says(checkpoint: Path, in_float32: None):
    """Near and far layers, norms, rotary positions: in float32 every state is the same."""
    assert_alike(ours(checkpoint), theirs(checkpoint))


def test_the_window_matters_at_these_lengths(checkpoint: Path, in_float32: None):
    """The long message is one where a model without the window would differ."""
    model = ours(checkpoint)
    model.shape = Shape(head_dim=32, window=1000)
    with pytest.raises(AssertionError):
        assert_alike(model, theirs(checkpoint))


def test_a_bidirectional_model_says_what_transformers_says(checkpoint: Path, in_float32: None):
    """As the sentence encoder attends: to both sides, near layers half a window far."""
    other = theirs(checkpoint, use_bidirectional_attention=True)
    assert_alike(ours(checkpoint, bidirectional=True), other)


def test_in_bfloat16_the_states_point_the_same_way(checkpoint: Path):
    """What is trained is the model that is served, up to rounding."""
    ids, lengths = padded(rows(), "cpu")
    with torch.no_grad():
        found = last_states(ours(checkpoint)(ids, lengths), lengths)
        wanted = theirs(checkpoint)(input_ids=ids).last_hidden_state
    exact = last_states(wanted, lengths)
    assert torch.nn.functional.cosine_similarity(found, exact).min() > 0.995


@torch.no_grad()
def test_dropout_is_for_training_alone(checkpoint: Path, in_float32: None):
    """States differ from pass to pass, of beginnings and of what is behind them, until ``eval``."""
    model, plain = ours(checkpoint, dropout=0.2), ours(checkpoint)
    ids, lengths = padded(rows(), "cpu")
    texts, places = ids[:, :6], lengths[:, None] + torch.arange(6)
    behind = Behind(texts, torch.full((len(ids),), 6), torch.zeros_like(texts), places)

    def states(model: Gemma) -> tuple[torch.Tensor, ...]:
        return model(ids, lengths), *model.continued(Begun(ids, lengths), behind)

    for first, second in zip(states(model), states(model), strict=True):
        assert not torch.allclose(first, second)
    model.eval()
    for found, wanted in zip(states(model), states(plain), strict=True):
        torch.testing.assert_close(found, wanted)


def test_picked_layers_stand_in_the_places_of_a_shorter_model(checkpoint: Path, in_float32: None):
    """Which layer attends everywhere goes by place, which tensors it has by number."""
    picked = (0, 1, 3, 4, 5, 6)
    types = ["sliding_attention"] * 5 + ["full_attention"]
    shorter = theirs(checkpoint, num_hidden_layers=6, layer_types=types)
    stored = {
        name.removeprefix("model."): tensor
        for name, tensor in load_file(checkpoint / "model.safetensors").items()
    }
    own = {name: t for name, t in stored.items() if not name.startswith("layers.")}
    for place, number in enumerate(picked):
        old, new = f"layers.{number}.", f"layers.{place}."
        own |= {n.replace(old, new, 1): t for n, t in stored.items() if n.startswith(old)}
    shorter.load_state_dict(own)
    assert_alike(ours(checkpoint, layers=picked), shorter)


def test_collected_gradients_are_those_of_autograd(in_float32: None):
    """Through ``w + scale * b @ a``, for every factor of every matrix."""
    model = tiny_gemma(scale=3.0)
    with torch.no_grad():
        for factor in model.factors:
            factor.copy_(torch.randn(factor.shape, generator=torch.Generator().manual_seed(2)) / 4)
    ids, lengths = padded([[5, 6, 7, 8], [9, 10]], "cpu")
    direction = torch.randn(2, model.hidden, generator=torch.Generator().manual_seed(3))
    model.merge(trainable=True)
    (last_states(model(ids, lengths), lengths) * direction).sum().backward()
    collected = model.collect()
    assert all(weight.grad is None for weight in model.merged.values())
    factors = [factor.detach().clone().requires_grad_() for factor in model.factors]
    for number, name in enumerate(model.names):
        change = factors[2 * number + 1] @ factors[2 * number]
        model.merged[name] = model._frozen[name] + 3.0 * change
    (last_states(model(ids, lengths), lengths) * direction).sum().backward()
    assert len(collected) == len(factors) == 2 * 7 * 2
    for gradient, factor in zip(collected, factors, strict=True):
        assert factor.grad.abs().max() > 0
        torch.testing.assert_close(gradient, factor.grad, atol=1e-4, rtol=1e-3)


def test_a_fresh_adapter_changes_nothing():
    """``b`` begins at zero; ``a`` is drawn by the seed."""
    ids, lengths = padded([[5, 6, 7]], "cpu")
    plain, adapted, other = tiny_gemma(rank=0), tiny_gemma(seed=1), tiny_gemma(seed=2)
    for model in (plain, adapted):
        model.merge()
    with torch.no_grad():
        assert torch.equal(plain(ids, lengths), adapted(ids, lengths))
    assert not torch.equal(adapted.factors[0], other.factors[0])


def test_states_have_the_length_that_heads_expect():
    """The square root of their width; of a row's last token, not of its padding."""
    states = torch.randn(2, 3, 16, generator=torch.Generator().manual_seed(1))
    last = last_states(states, torch.tensor([3, 1]))
    assert last.norm(dim=1).tolist() == pytest.approx([4.0, 4.0])
    assert torch.equal(last[1], unit_states(states[1, 0]))


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        (None, "unreadable"),
        ({"norm.weight": torch.ones(4)}, "no embedding"),
        ({"embed_tokens.weight": torch.ones(4, 4), "lm_head.weight": torch.ones(4)}, "lm_head"),
        (
            {"embed_tokens.weight": torch.ones(4, 4), "layers.0.mlp.c_fc.weight": torch.ones(4)},
            "c_fc",
        ),
    ],
)
def test_what_is_no_checkpoint_of_a_gemma_is_refused(
    tmp_path: Path, tensors: dict[str, Any] | None, said: str
):
    """The file and what is wrong with it are named."""
    path = tmp_path / "model.safetensors"
    if tensors is None:
        path.write_bytes(b"no tensors")
    else:
        save_file(tensors, path)
    with pytest.raises(FileDamaged, match=said):
        read_checkpoint(path, "cpu")


@pytest.mark.filterwarnings("ignore")  # torch warns of itself while it compiles
def test_a_compiled_layer_learns_what_a_plain_one_learns():
    """For any number and length of rows, texts behind them too: as near to float32 as the plain one."""

    def gradients(model: Gemma, rows: int, length: int, *, two: bool) -> list[torch.Tensor]:
        generator = torch.Generator().manual_seed(rows)
        ids = torch.randint(4, VOCABULARY, (rows, length), generator=generator)
        lengths = torch.full((rows,), length)
        model.merge(trainable=True)
        states = model(ids, lengths)
        if two:  # and two texts behind each
            texts = torch.randint(4, VOCABULARY, (rows, 16), generator=generator)
            sizes, numbers = torch.full((rows,), 16), torch.arange(16).expand(rows, -1) // 8
            places = length + torch.arange(16).expand(rows, -1) % 8
            states, behind = model.continued(
                Begun(ids, lengths), Behind(texts, sizes, numbers, places)
            )
            (last_states(behind, sizes) ** 3).sum().backward()
        else:
            (last_states(states, lengths) ** 3).sum().backward()
        return model.collect()

    def distance(found: list[torch.Tensor], exact: list[torch.Tensor]) -> float:
        gap = sum(((one - other) ** 2).sum() for one, other in zip(found, exact, strict=True))
        return float((gap / sum((one**2).sum() for one in exact)).sqrt())

    plain, compiled, exact = tiny_gemma(), tiny_gemma(compiled=True), tiny_gemma()
    for model in (plain, compiled, exact):
        for factor in model.factors:
            factor.data += 0.01
    for rows, length, two in ((3, 9, False), (5, 13, False), (3, 16, True), (4, 32, True)):
        found = gradients(compiled, rows, length, two=two)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.Tensor, "bfloat16", torch.Tensor.float)
            wanted = gradients(exact, rows, length, two=two)
        near = distance(gradients(plain, rows, length, two=two), wanted)
        assert distance(found, wanted) < max(2 * near, 0.02)
