from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

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
    write_adapter(path, adapter, bits=8)
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
    write_adapter(path, adapter, bits=8)
    write_adapter(tmp_path / "halves.safetensors", adapter)
    assert path.stat().st_size < 0.51 * (tmp_path / "halves.safetensors").stat().st_size


def square(rank: int = 64) -> Adapter:
    """A Gemma's size, rows of unlike length, one of them of nothing."""
    rng = np.random.default_rng(1)
    a = rng.normal(size=(rank, 640)).astype(np.float32)
    b = rng.normal(size=(2048, rank)).astype(np.float32)
    b[:, 3] = 0
    return {NAME: (a * np.geomspace(1e-3, 10, rank, dtype=np.float32)[:, None], b)}


def test_four_bits_lose_little_of_each_part(path: Path):
    """A tenth of what a row of ``a`` and a column of ``b`` make together, be it large or small."""
    adapter = square()
    write_adapter(path, adapter, bits=4)
    (a, b), (read_a, read_b) = adapter[NAME], read_adapter(path)[NAME]
    assert read_a.dtype == read_b.dtype == np.float32
    assert not read_b[:, 3].any()
    for rank in range(0, 64, 7):
        wanted = np.outer(b[:, rank], a[rank])
        error = np.linalg.norm(np.outer(read_b[:, rank], read_a[rank]) - wanted)
        assert error <= 0.13 * np.linalg.norm(wanted)


def test_four_bits_take_a_quarter_of_the_size(path: Path, tmp_path: Path):
    """And a bit, for the scales."""
    write_adapter(path, square(), bits=4)
    write_adapter(tmp_path / "halves.safetensors", square())
    assert path.stat().st_size < 0.29 * (tmp_path / "halves.safetensors").stat().st_size


def test_what_makes_no_blocks_keeps_eight_bits(path: Path):
    """Every other matrix of the same file has its four."""
    write_adapter(path, square() | {"blk.1.attn_k.weight": factors()}, bits=4)
    kinds = {name: tensor.dtype for name, tensor in load_file(path).items()}
    assert kinds["blk.1.attn_k.weight.lora_a"] == np.int8
    assert kinds[A] == np.uint8
    assert read_adapter(path).keys() == {NAME, "blk.1.attn_k.weight"}


@pytest.mark.parametrize(
    "change",
    [
        {f"{A}_blocks": None},
        {f"{B}_blocks": None},
        {f"{A}_blocks": np.ones((64, 19), np.float16)},
        {f"{A}_blocks": np.ones((64, 20), np.float32)},
        {A: np.ones((64, 321), np.uint8)},
        {B: np.ones((1000, 64), np.uint8)},
    ],
)
def test_blocks_that_do_not_fit_are_refused(path: Path, change: dict):
    """As anything that is missing or of another size."""
    write_adapter(path, square(), bits=4)
    save_file({k: v for k, v in (load_file(path) | change).items() if v is not None}, path)
    with pytest.raises(FileDamaged, match="blocks that do not fit"):
        read_adapter(path)


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
