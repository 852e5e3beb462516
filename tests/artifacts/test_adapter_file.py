from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from app.artifacts.adapter_file import Adapter, read_adapter, write_adapter
from app.errors import FileDamaged

NAME = "blk.0.attn_q.weight"
A, B, SCALE = f"{NAME}.lora_a", f"{NAME}.lora_b", f"{NAME}.lora_scale"


def factors(seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Rows of unlike sizes, one of ``b``'s columns quite without."""
    rng = np.random.default_rng(seed)
    a = rng.normal(size=(6, 40)).astype(np.float32) * np.float32(10.0) ** np.arange(-3, 3)[:, None]
    b = rng.normal(size=(24, 6)).astype(np.float32)
    b[:, 2] = 0
    return a.astype(np.float32), b


def eight_bits() -> dict[str, np.ndarray]:
    """A sound file's tensors."""
    return {
        A: np.ones((2, 8), np.int8), B: np.ones((4, 2), np.int8), SCALE: np.ones(2, np.float32)
    }  # fmt: skip


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "adapter.safetensors"


def test_eight_bits_come_back_within_a_hundredth(path: Path):
    """Of the largest value of what each row of ``a`` and column of ``b`` make together."""
    adapter: Adapter = {NAME: factors(1), "blk.11.ffn_down.weight": factors(2)}
    write_adapter(path, adapter, eight_bits=True)
    found = read_adapter(path)
    assert found.keys() == adapter.keys()
    for name, (a, b) in adapter.items():
        read_a, read_b = found[name]
        assert read_a.dtype == read_b.dtype == np.float32
        for rank in range(len(a)):
            wanted = np.outer(b[:, rank], a[rank])
            error = np.abs(np.outer(read_b[:, rank], read_a[rank]) - wanted).max()
            assert error <= 0.01 * np.abs(wanted).max()


def test_eight_bits_take_half_the_size(path: Path, tmp_path: Path):
    """Which is what they are for."""
    rng = np.random.default_rng(1)
    adapter = {
        NAME: (
            rng.normal(size=(64, 640)).astype(np.float32),
            rng.normal(size=(2048, 64)).astype(np.float32),
        )
    }
    write_adapter(path, adapter, eight_bits=True)
    write_adapter(tmp_path / "halves.safetensors", adapter)
    assert path.stat().st_size < 0.51 * (tmp_path / "halves.safetensors").stat().st_size


@pytest.mark.parametrize("kind", [np.float16, np.float32])
def test_floats_without_a_scale_are_read(path: Path, kind: type):
    """As versions before the 8-bit ones were written."""
    a, b = factors()
    save_file({A: a.astype(kind), B: b.astype(kind)}, path)
    read_a, read_b = read_adapter(path)[NAME]
    assert np.array_equal(read_a, a.astype(kind).astype(np.float32))
    assert np.array_equal(read_b, b.astype(kind).astype(np.float32))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({A: None}, "not a pair"),
        ({B: None}, "not a pair"),
        ({A: None, B: None}, "not a pair"),
        ({A: np.ones(8, np.int8)}, "do not fit"),
        ({B: np.ones((4, 3), np.int8)}, "do not fit"),
        ({SCALE: None}, "scale too many or too few"),
        ({SCALE: np.ones(3, np.float32)}, "scale too many or too few"),
        ({SCALE: np.ones(2, np.int32)}, "scale too many or too few"),
        (
            {A: np.ones((2, 8), np.float16), B: np.ones((4, 2), np.float16)},
            "scale too many or too few",
        ),
        ({B: np.ones((4, 2), np.float16)}, "factors of int8 and float16"),
        ({A: np.ones((2, 8), np.int32), SCALE: None}, "factors of int32"),
        ({SCALE: np.array([1, np.nan], np.float32)}, "not a number"),
        (
            {A: np.full((2, 8), np.inf, np.float16), B: np.ones((4, 2), np.float16), SCALE: None},
            "not a number",
        ),
        ({f"{NAME}.lora_c": np.ones(2, np.float32)}, "does not know what"),
        ({"lora": np.ones(2, np.float32)}, "not a pair"),
    ],
)
def test_what_does_not_fit_is_refused(path: Path, change: dict, said: str):
    """Nothing of a doubtful file is used; the file is named and what is wrong with it."""
    tensors = {k: v for k, v in (eight_bits() | change).items() if v is not None}
    save_file(tensors, path)
    with pytest.raises(FileDamaged, match=f"adapter.safetensors.*{said}"):
        read_adapter(path)


@pytest.mark.parametrize("keep", [0, 7, 60, -1])
def test_a_file_that_was_cut_short_is_refused(path: Path, keep: int):
    """Whether its head or its last byte is missing."""
    save_file(eight_bits(), path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(FileDamaged, match="unreadable"):
        read_adapter(path)


def test_a_missing_file_is_told(path: Path):
    """As damaged: the artifact says that it is there."""
    with pytest.raises(FileDamaged, match="unreadable"):
        read_adapter(path)
