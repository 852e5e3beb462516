"""Plain weights for one layer at a time: the right ones, and gone afterwards."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.train
torch = pytest.importorskip("torch")

from app.backends.torch_steps import unpack  # noqa: E402
from app.backends.torch_unpacking import MANY_STATES, Unpacking  # noqa: E402

GROUP = 4


class Packed(torch.nn.Module):
    def __init__(self, rows: int, columns: int, group: int = GROUP) -> None:
        super().__init__()
        self.plain: torch.Tensor | None = None
        codes = torch.randint(-128, 128, (rows, columns), dtype=torch.int8)
        self.register_buffer("codes", codes)
        self.register_buffer("row_scales", torch.rand(rows, columns // group))
        self.weight = codes * self.row_scales.repeat_interleave(group, dim=1)

    @staticmethod
    def unpack(codes: torch.Tensor, scales: torch.Tensor, out: torch.Tensor) -> None:
        out.copy_((codes.view(len(scales), -1) * scales[:, None]).flatten())


@pytest.fixture
def layers() -> list[list[Packed]]:
    """Of unlike sizes."""
    return [[Packed(width, 8), Packed(4, width)] for width in (8, 12, 4)]


def unpacking(layers: list[list[Packed]]) -> Unpacking:
    found = Unpacking.of(layers, torch.float32)
    assert found is not None
    return found


@pytest.mark.parametrize("beside", [True, False])
@pytest.mark.parametrize("weights", [(1, 1), (3, 1), (1, 0), (0, 1)])
def test_each_matrix_is_plain_when_it_is_used(
    layers: list[list[Packed]], weights: tuple[int, int], beside: bool
):
    """Whatever each step unpacks of what comes next, and in one room."""
    plans = unpacking(layers)
    plans.share_out(weights)
    plans.beside = beside
    assert len(plans.room) == max(sum(m.codes.numel() for m in layer) for layer in layers)
    plans.room.fill_(torch.nan)
    unpack(plans.first)
    walked = 0
    for layer, shares in plans.walk(layers):
        for matrix, share in zip(layer, shares, strict=True):
            assert torch.equal(matrix.plain, matrix.weight)
            unpack(share)
            assert beside or share is None
        assert sum(m.plain is not None for one in layers for m in one) == len(layer)
        walked += 1
    assert walked == len(layers)
    assert all(matrix.plain is None for layer in layers for matrix in layer)


def test_steps_share_the_work_but_a_matrix_is_unpacked_before_its_product():
    """Evenly where it can be so."""
    layer = [Packed(rows, 8) for rows in (6, 2, 4, 12)]
    plans = unpacking([layer])
    assert sizes(plans) == [48, 48, 48, 48]
    plans.share_out((1, 0, 0, 0))
    assert sizes(plans) == [192, 0, 0, 0]
    plans.share_out((0, 0, 0, 1))
    assert sizes(plans) == [48, 16, 32, 96]


def sizes(plans: Unpacking) -> list[int]:
    """Of one layer's shares."""
    (_, shares), *_ = plans.walk([None])
    parts = [plans.first, *shares[:-1]]
    assert shares[-1] is None
    return [0 if part is None else len(part.codes) for part in parts]


def test_matrices_keep_their_codes_where_a_layers_lie_together(layers: list[list[Packed]]):
    before = [matrix.codes.clone() for layer in layers for matrix in layer]
    unpacking(layers)
    after = [matrix.codes for layer in layers for matrix in layer]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    assert after[0].untyped_storage().data_ptr() == after[1].untyped_storage().data_ptr()


def test_plain_weights_are_gone_after_a_failure(layers: list[list[Packed]]):
    with pytest.raises(ZeroDivisionError):
        _fail(unpacking(layers), layers)
    assert all(matrix.plain is None for layer in layers for matrix in layer)


def _fail(plans: Unpacking, layers: list[list[Packed]]) -> None:
    for number, _ in enumerate(plans.walk(layers)):
        1 / (2 - number)


def test_few_states_are_multiplied_by_packed_weights_unless_groups_are_narrow():
    """Where a scale stands for 32 columns or fewer, packed weights are slow."""
    wide = unpacking([[Packed(4, 128, group=128)]])
    assert [wide.pays(states) for states in (1, MANY_STATES, MANY_STATES + 1)] == [
        False,
        False,
        True,
    ]
    assert unpacking([[Packed(4, 128, group=32)]]).pays(1)


def test_only_what_can_be_unpacked_is(layers: list[list[Packed]]):
    assert Unpacking.of([[torch.nn.Linear(8, 8), layers[0][1]]], torch.float32) is None
    assert Unpacking.of([[layers[0][0], Packed(4, 8, group=8)]], torch.float32) is None
