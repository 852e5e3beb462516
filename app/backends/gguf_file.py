"""The GGUF container: where the tensors of a file lie, and how a file is written from a stream.

The metadata (tokeniser included) is copied as the bytes it is but for single values, never parsed into
objects and written anew: that is exact, and 262k tokens cost milliseconds instead of ten seconds.
Layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import hashlib
import mmap
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from app.errors import FileDamaged

Bytes = npt.NDArray[np.uint8]

_SCALAR_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_STRING, _ARRAY, _UINT32, _INT32, _FLOAT32 = 8, 9, 4, 5, 6
_MAGIC, _VERSION = b"GGUF", 3
_ALIGNMENT = 32
_WRITTEN_AT_ONCE = 1 << 16
"""The kernel maps what was written at once as a whole: a row of the embedding must not bring megabytes."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """``shape`` as in numpy: rows first, the contiguous dimension last."""

    name: str
    shape: tuple[int, ...]
    type: GGMLQuantizationType

    @property
    def row_bytes(self) -> int:
        block, size = GGML_QUANT_SIZES[self.type]
        return self.shape[-1] // block * size

    @property
    def rows(self) -> int:
        return int(np.prod(self.shape[:-1]))

    @property
    def bytes(self) -> int:
        return self.rows * self.row_bytes


class GgufFile:
    """A GGUF file open for reading. Raises :class:`FileDamaged` when it is not a whole one."""

    def __init__(self, path: Path) -> None:
        try:
            with path.open("rb") as stream:
                self._map = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
            self._parse()
        except (OSError, ValueError, struct.error, KeyError) as error:
            raise FileDamaged(f"{path.name} is not a whole GGUF file: {error}") from error

    def _parse(self) -> None:
        magic, version, tensors, self.metadata_count = struct.unpack_from("<4sIQQ", self._map)
        if magic != _MAGIC or version not in (2, _VERSION):
            raise ValueError(f"magic {magic!r}, version {version}")
        self._values: dict[str, tuple[int, int, int]] = {}
        at = 24
        for _ in range(self.metadata_count):
            at = self._skip_entry(at)
        self.metadata = self._map[24:at]
        alignment = self.uint32("general.alignment") or _ALIGNMENT
        self.tensors: dict[str, TensorInfo] = {}
        offsets: dict[str, int] = {}
        for _ in range(tensors):
            at = self._read_tensor(at, offsets)
        start = at + -at % alignment
        self._starts = {name: start + offset for name, offset in offsets.items()}
        for name, info in self.tensors.items():
            if self._starts[name] + info.bytes > len(self._map):
                raise ValueError(f"cut off inside {name}")

    def _skip_entry(self, at: int) -> int:
        key, at = self._string(at)
        (kind,) = struct.unpack_from("<I", self._map, at)
        end = self._skip_value(kind, at + 4)
        self._values[key] = (kind, at + 4, end)
        return end

    def _skip_value(self, kind: int, at: int) -> int:
        if kind == _STRING:
            length: int = struct.unpack_from("<Q", self._map, at)[0]
            return at + 8 + length
        if kind == _ARRAY:
            item, count = map(int, struct.unpack_from("<IQ", self._map, at))
            at += 12
            if item in _SCALAR_SIZES:
                return at + count * _SCALAR_SIZES[item]
            for _ in range(count):
                at = self._skip_value(item, at)
            return at
        return at + _SCALAR_SIZES[kind]

    def _string(self, at: int) -> tuple[str, int]:
        (length,) = struct.unpack_from("<Q", self._map, at)
        end = at + 8 + int(length)
        return self._map[at + 8 : end].decode(), end

    def _read_tensor(self, at: int, offsets: dict[str, int]) -> int:
        name, at = self._string(at)
        dimensions = int(struct.unpack_from("<I", self._map, at)[0])
        *shape, kind, offset = struct.unpack_from(f"<{dimensions}QIQ", self._map, at + 4)
        self.tensors[name] = TensorInfo(name, tuple(shape[::-1]), GGMLQuantizationType(kind))
        offsets[name] = offset
        return at + 4 + 8 * dimensions + 12

    @property
    def keys(self) -> tuple[str, ...]:
        """Of the metadata, in the order of the file."""
        return tuple(self._values)

    def uint32(self, key: str) -> int | None:
        """A 32-bit metadata value, or None when the file has no such key."""
        kind, at, _ = self._values.get(key, (None, 0, 0))
        return int(struct.unpack_from("<I", self._map, at)[0]) if kind == _UINT32 else None

    def string(self, key: str) -> str | None:
        """A string metadata value, or None when the file has no such key."""
        kind, at, _ = self._values.get(key, (None, 0, 0))
        return self._string(at)[0] if kind == _STRING else None

    def strings(self, key: str) -> list[bytes]:
        """An array of strings, undecoded. Raises :class:`FileDamaged` when it is none."""
        count, at = self._array(key, _STRING)
        found = []
        for _ in range(count):
            (length,) = struct.unpack_from("<Q", self._map, at)
            found.append(self._map[at + 8 : at + 8 + length])
            at += 8 + length
        return found

    def floats(self, key: str) -> npt.NDArray[np.float32]:
        """An array of 32-bit floats. Raises :class:`FileDamaged` when it is none."""
        count, at = self._array(key, _FLOAT32)
        return np.frombuffer(self._map, "<f4", count, at)

    def int32s(self, key: str) -> npt.NDArray[np.int32]:
        """An array of 32-bit integers. Raises :class:`FileDamaged` when it is none."""
        count, at = self._array(key, _INT32)
        return np.frombuffer(self._map, "<i4", count, at)

    def _array(self, key: str, wanted: int) -> tuple[int, int]:
        kind, at, _ = self._values.get(key, (None, 0, 0))
        item, count = struct.unpack_from("<IQ", self._map, at)
        if kind != _ARRAY or item != wanted:
            raise FileDamaged(f"the GGUF file has no {key} of the right type")
        return int(count), at + 12

    def metadata_with(self, values: Mapping[str, int | bytes]) -> bytes:
        """The metadata with some values replaced: 32-bit ones, or arrays as :func:`array` gives them.

        Keys that the file lacks, or has with values of another type, stay out.
        """
        parts, at = [], 24
        for key, (kind, start, end) in self._values.items():
            value = values.get(key)
            if isinstance(value, int) and kind == _UINT32:
                parts += [self._map[at:start], struct.pack("<I", value)]
                at = end
            elif isinstance(value, bytes) and kind == _ARRAY:
                parts += [self._map[at:start], value]
                at = end
        return b"".join(parts) + self.metadata[at - 24 :]

    def rows(self, name: str, start: int, stop: int) -> Bytes:
        """Rows of a tensor as they are stored, uint8 (rows, row bytes), without a copy."""
        info = self.tensors[name]
        stop = min(stop, info.rows)
        flat = np.frombuffer(
            self._map,
            np.uint8,
            (stop - start) * info.row_bytes,
            self._starts[name] + start * info.row_bytes,
        )
        return flat.reshape(stop - start, info.row_bytes)


def array(values: Sequence[bytes] | npt.NDArray[np.float32] | npt.NDArray[np.int32]) -> bytes:
    """A metadata array of strings, 32-bit floats or 32-bit integers, as it is stored."""
    if isinstance(values, np.ndarray):
        kind, dtype = (_FLOAT32, "<f4") if values.dtype.kind == "f" else (_INT32, "<i4")
        return struct.pack("<IQ", kind, len(values)) + values.astype(dtype).tobytes()
    strings = (part for value in values for part in (struct.pack("<Q", len(value)), value))
    return struct.pack("<IQ", _STRING, len(values)) + b"".join(strings)


def write_gguf(
    path: Path,
    metadata: bytes,
    metadata_count: int,
    tensors: Sequence[TensorInfo],
    content: Callable[[TensorInfo], Iterable[Bytes]],
) -> tuple[int, str]:
    """Write a GGUF file, tensor by tensor as ``content`` yields their bytes, and sync it to disk.

    Returns size and sha256. ``path`` should be a partial name; the caller renames it.
    """
    digest = hashlib.sha256()
    with path.open("wb") as stream:
        for piece in _pieces(metadata, metadata_count, tensors, content):
            stream.write(piece)
            digest.update(piece)
        stream.flush()
        os.fsync(stream.fileno())
        return stream.tell(), digest.hexdigest()


def _pieces(
    metadata: bytes,
    metadata_count: int,
    tensors: Sequence[TensorInfo],
    content: Callable[[TensorInfo], Iterable[Bytes]],
) -> Iterator[bytes | memoryview]:
    head = [struct.pack("<4sIQQ", _MAGIC, _VERSION, len(tensors), metadata_count), metadata]
    offset = 0
    for info in tensors:
        name = info.name.encode()
        shape = info.shape[::-1]
        head.append(struct.pack("<Q", len(name)) + name + struct.pack("<I", len(shape)))
        head.append(struct.pack(f"<{len(shape)}QIQ", *shape, int(info.type), offset))
        offset += info.bytes + -info.bytes % _ALIGNMENT
    start = b"".join(head)
    yield start + bytes(-len(start) % _ALIGNMENT)
    for info in tensors:
        written = 0
        for piece in content(info):
            written += piece.nbytes
            stored = np.ascontiguousarray(piece).data.cast("B")
            for at in range(0, len(stored), _WRITTEN_AT_ONCE):
                yield stored[at : at + _WRITTEN_AT_ONCE]
        if written != info.bytes:
            raise ValueError(f"{info.name}: {written} bytes written, {info.bytes} announced")
        yield bytes(-written % _ALIGNMENT)
