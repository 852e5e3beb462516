"""Weights unpacked ahead: the right ones, in time, and forgotten afterwards."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.train
torch = pytest.importorskip("torch")

from app.backends.torch_ahead import Ahead, Unpackable  # noqa: E402


class Packed(torch.nn.Module):
    """A matrix that notes when it is unpacked and how it multiplies."""

    def __init__(self, name: str, rows: int, columns: int, notes: list[str]) -> None:
        super().__init__()
        self.name, self.rows, self.columns, self.notes = name, rows, columns, notes
        self.plain: torch.Tensor | None = None
        self.register_buffer("weight", torch.randn(rows, columns))

    def unpack_into(self, room: torch.Tensor) -> torch.Tensor:
        self.notes.append(f"unpack {self.name}")
        room.copy_(self.weight.flatten())
        return room.view(self.rows, self.columns)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        self.notes.append(f"use {self.name}")
        assert self.plain is not None
        return states @ self.plain.T


@pytest.fixture
def notes() -> list[str]:
    return []


@pytest.fixture
def layers(notes: list[str]) -> list[list[Packed]]:
    """Of unlike sizes, and more than there are rooms."""
    return [
        [Packed(f"{number}a", width, 4, notes), Packed(f"{number}b", 4, width, notes)]
        for number, width in enumerate((4, 6, 8, 2, 4))
    ]


def test_each_layer_multiplies_by_its_own_weights(layers: list[list[Packed]]):
    ahead = Ahead(layers, torch.float32)
    for layer in ahead.walk(layers):
        for matrix in layer:
            states = torch.randn(3, matrix.columns)
            torch.testing.assert_close(matrix(states), states @ matrix.weight.T)


def test_the_next_layer_is_unpacked_before_this_one_is_computed(
    layers: list[list[Packed]], notes: list[str]
):
    for layer in Ahead(layers[:3], torch.float32).walk(layers[:3]):
        layer[0](torch.ones(1, 4))
    assert notes == [
        "unpack 0a", "unpack 0b", "unpack 1a", "unpack 1b", "use 0a",
        "unpack 2a", "unpack 2b", "use 1a", "use 2a",
    ]  # fmt: skip


def test_plain_weights_are_gone_afterwards_even_after_a_failure(layers: list[list[Packed]]):
    ahead = Ahead(layers, torch.float32)
    for layer in ahead.walk(layers):
        assert all(matrix.plain is not None for matrix in layer)
        assert sum(m.plain is not None for one in layers for m in one) == len(layer)
    with pytest.raises(ZeroDivisionError):
        _fail(ahead, layers)
    assert all(matrix.plain is None for layer in layers for matrix in layer)


def _fail(ahead: Ahead, layers: list[list[Packed]]) -> None:
    for number, _ in enumerate(ahead.walk(layers)):
        1 / (2 - number)


def test_only_what_can_be_unpacked_is(layers: list[list[Packed]]):
    assert isinstance(layers[0][0], Unpackable)
    assert not isinstance(torch.nn.Linear(2, 2), Unpackable)
