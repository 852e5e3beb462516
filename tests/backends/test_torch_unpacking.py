"""Plain weights for one layer at a time: the right ones, and gone afterwards."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.train
torch = pytest.importorskip("torch")

from app.backends.torch_unpacking import Unpacking  # noqa: E402

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


def test_each_layer_has_its_own_weights_and_no_other_has_any(layers: list[list[Packed]]):
    plans = unpacking(layers)
    assert len(plans.room) == max(sum(m.codes.numel() for m in layer) for layer in layers)
    for layer in plans.walk(layers):
        for matrix in layer:
            assert matrix.plain is not None
            torch.testing.assert_close(matrix.plain, matrix.weight)
        assert sum(m.plain is not None for one in layers for m in one) == len(layer)
    assert all(matrix.plain is None for layer in layers for matrix in layer)


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


def test_only_what_can_be_unpacked_is(layers: list[list[Packed]]):
    assert Unpacking.of([[torch.nn.Linear(8, 8), layers[0][1]]], torch.float32) is None
    assert Unpacking.of([[layers[0][0], Packed(4, 8, group=8)]], torch.float32) is None
