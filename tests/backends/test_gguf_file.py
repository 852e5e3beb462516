from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest

from app.backends.gguf_file import GgufFile, write_gguf
from app.errors import FileDamaged


def test_reads_what_the_reference_reader_reads(tiny_gguf: Path):
    """Names, shapes, types and bytes of all tensors agree with the ``gguf`` package."""
    ours, reference = GgufFile(tiny_gguf), gguf.GGUFReader(tiny_gguf)
    assert list(ours.tensors) == [tensor.name for tensor in reference.tensors]
    for tensor in reference.tensors:
        info = ours.tensors[tensor.name]
        assert info.shape == tuple(reversed(tensor.shape.tolist()))
        assert (info.type, info.bytes) == (tensor.tensor_type, tensor.n_bytes)
        assert ours.rows(info.name, 0, info.rows).tobytes() == tensor.data.tobytes()
    assert ours.uint32("gemma3.block_count") == 2
    assert ours.uint32("general.architecture") is None
    assert ours.string("general.architecture") == "gemma3"
    assert ours.string("gemma3.block_count") is None


def test_a_copy_is_the_same_file(tiny_gguf: Path, tmp_path: Path):
    """Metadata and tensors survive unchanged, so the tokeniser is exactly the base's."""
    source = GgufFile(tiny_gguf)
    copy = tmp_path / "copy.gguf"
    write_gguf(
        copy,
        source.metadata,
        source.metadata_count,
        list(source.tensors.values()),
        lambda info: [source.rows(info.name, 0, info.rows)],
    )
    assert copy.read_bytes().rstrip(b"\0") == tiny_gguf.read_bytes().rstrip(b"\0")


def test_one_value_of_the_metadata_can_be_replaced(tiny_gguf: Path):
    """Only those four bytes change."""
    source = GgufFile(tiny_gguf)
    changed = source.metadata_with({"general.file_type": 2})
    assert len(changed) == len(source.metadata)
    assert sum(a != b for a, b in zip(changed, source.metadata, strict=True)) == 1
    assert source.metadata_with({"no.such.key": 2}) == source.metadata


@pytest.mark.parametrize("share", [0, 0.0001, 0.01, 0.1, 0.5, 0.99])
def test_a_part_of_a_file_is_refused(tiny_gguf: Path, tmp_path: Path, share: float):
    """Cut off anywhere, it is FileDamaged, never a crash."""
    content = tiny_gguf.read_bytes()
    part = tmp_path / "part.gguf"
    part.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(FileDamaged):
        GgufFile(part)


def test_bytes_that_are_no_gguf_are_refused(tmp_path: Path):
    """A renamed archive or noise does not pass."""
    noise = tmp_path / "noise.gguf"
    noise.write_bytes(np.random.default_rng(0).bytes(4096))
    with pytest.raises(FileDamaged):
        GgufFile(noise)


def test_content_of_another_size_than_announced_is_an_error(tiny_gguf: Path, tmp_path: Path):
    """A writer that loses rows cannot make a file that looks whole."""
    source = GgufFile(tiny_gguf)
    with pytest.raises(ValueError, match="announced"):
        write_gguf(
            tmp_path / "short.gguf",
            source.metadata,
            source.metadata_count,
            list(source.tensors.values()),
            lambda info: [source.rows(info.name, 0, info.rows)[:-1]],
        )
