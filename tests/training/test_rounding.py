"""Rounding in training makes of weights what the quantiser of the served files makes of them."""

from __future__ import annotations

import numpy as np
import pytest

pytestmark = [pytest.mark.train, pytest.mark.usefixtures("one_thread")]
torch = pytest.importorskip("torch")

from gguf import GGMLQuantizationType  # noqa: E402  # torch may be missing

from app.backends.gguf_quantise import dequantise, quantise  # noqa: E402
from tests.training.tiny_gemma import tiny_gemma  # noqa: E402
from training.rounding import BLOCK, CODES, Rounding, nearest  # noqa: E402

KIND = GGMLQuantizationType.IQ4_NL
NAME = "blk.0.attn_q.weight"


def drawn(seed: int, rows: int = 64, columns: int = 256) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) / 16


def test_the_loss_is_that_of_the_real_quantiser():
    """Of llama.cpp's own, on the same numbers: within a twentieth."""
    weight = drawn(1)
    stored = quantise(weight.numpy(), KIND, np.ones(weight.shape[1], np.float32))
    theirs = np.square(dequantise(stored, KIND) - weight.numpy()).mean()
    ours = (Rounding("IQ4_NL")(NAME, weight) - weight).square().mean().item()
    assert ours == pytest.approx(theirs, rel=0.05)


def test_columns_count_as_they_do_for_the_real_quantiser():
    """Nearly all numbers come out as llama.cpp has them, and not so without their weights."""
    weight = drawn(2, columns=640)
    importance = np.random.default_rng(2).lognormal(sigma=2, size=640).astype(np.float32)
    theirs = torch.from_numpy(dequantise(quantise(weight.numpy(), KIND, importance), KIND))

    def like(rounding: Rounding) -> float:
        ours = rounding(NAME, weight)
        return ((ours - theirs).abs() < 1e-3 * theirs.abs() + 1e-6).float().mean().item()

    assert like(Rounding("IQ4_NL", {NAME: importance})) > 0.98
    assert like(Rounding("IQ4_NL")) < 0.9


def test_types_of_eight_bits_are_left_alone():
    """As the recipe names them; the others are rounded."""
    rounding = Rounding("IQ4_NL attn_v=Q8_0")
    weight = drawn(3)
    assert rounding("blk.3.attn_v.weight", weight) is weight
    assert not torch.equal(rounding("blk.3.attn_k.weight", weight), weight)


def test_a_block_of_zeros_stays_one():
    """There is no scale to find in it."""
    weight = drawn(4)
    weight[:, :BLOCK] = 0
    rounded = Rounding("IQ4_NL")(NAME, weight)
    assert torch.isfinite(rounded).all()
    assert rounded[:, :BLOCK].abs().max() < 1e-9


def test_scales_are_found_again_when_weights_have_moved():
    """Not in every step, but before they are far off."""
    rounding = Rounding("IQ4_NL")
    rounding(NAME, drawn(5))
    moved = 3 * drawn(6)
    fresh = Rounding("IQ4_NL")(NAME, moved)
    first = rounding(NAME, moved)
    assert not torch.equal(first, fresh)
    for _ in range(100):
        last = rounding(NAME, moved)
    assert torch.equal(last, fresh)


def test_numbers_go_to_the_nearest_code():
    """Those beyond the ends to the ends."""
    numbers = torch.tensor([-500.0, -126.0, -5.0, -4.0, 0.0, 7.5, 100.0, 102.0, 999.0])
    codes = np.array(CODES)
    expected = [codes[np.abs(codes - number).argmin()] for number in numbers.tolist()]
    assert nearest(numbers).tolist() == expected


def test_training_sees_rounded_weights_and_learns_on_whole_ones():
    """What is read after training is not rounded, and the factors get the gradient of what was seen."""
    plain, model = tiny_gemma(rank=2), tiny_gemma(rank=2)
    model._rounded = lambda _name, weight: torch.full_like(weight, 0.5)
    for each in (plain, model):
        each.merge(trainable=True)
    name = model.names[0]
    assert torch.equal(model.merged[name], torch.full_like(plain.merged[name], 0.5))
    ids, lengths = torch.tensor([[2, 5, 7]]), torch.tensor([3])
    model(ids, lengths).square().sum().backward()
    assert max(gradient.abs().max() for gradient in model.collect()) > 0
    model.merge()
    plain.merge()
    assert torch.equal(model.merged[name], plain.merged[name])
