"""Builds the weights that are served: base -> trim -> add the adapters -> quantise -> verified GGUF file.

No torch, a few seconds, and memory for one slice of a tensor: only the small adapter is in version
control. The output gets its name when it is whole, and the marker that makes it count is written last.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import numpy.typing as npt
from gguf import LlamaFileType

from app.artifacts.adapter_file import read_adapter
from app.artifacts.base_package import Progress, assemble_base, locked, silent
from app.artifacts.manifest import BaseFile, BaseModelId, BasePackage, sha256_of
from app.artifacts.store import BUILD, Artifact, write_build_marker
from app.backends.gguf_file import Bytes, GgufFile, TensorInfo, write_gguf
from app.backends.gguf_importance import read_importance
from app.backends.gguf_layers import Layers
from app.backends.gguf_quantise import Floats, Quantisation, dequantise, quantise
from app.backends.gguf_vocabulary import TENSORS, Ids, Vocabulary, read_kept
from app.errors import ArtifactError, FileDamaged, WeightsNotBuilt

_ROWS_AT_ONCE = 8192


@dataclass(frozen=True, slots=True)
class Lora:
    """A low-rank change of one tensor: ``weight += b @ a``, the scale already folded in.

    ``a`` float32 (rank, columns), ``b`` float32 (rows, rank).
    """

    a: npt.NDArray[np.float32]
    b: npt.NDArray[np.float32]


def build_weights(
    artifact: Artifact, progress: Progress = silent, store: Path | None = None
) -> Path:
    """The verified weights of an artifact, built when they are not there yet.

    ``store`` has the base, or ``.cache`` where an assembled one is kept; by default the one that the
    artifact stands in. Raises :class:`app.errors.ArtifactError`; whatever was interrupted is never
    served.
    """
    recipe = artifact.recipe()
    if isinstance(recipe.base, BaseModelId):
        return artifact.weights_path()
    directory = artifact.weights_directory
    directory.mkdir(exist_ok=True)
    with locked(directory / "build.lock", f"another process builds {artifact.label}", progress):
        try:
            return artifact.weights_path()
        except ArtifactError:
            (directory / BUILD).unlink(missing_ok=True)
        home = store or artifact.directory.parent.parent
        base = GgufFile(_base_path(artifact, recipe.base, home, progress))
        _merge(artifact, base, directory / recipe.output, progress)
        return artifact.weights_path()


def _base_path(
    artifact: Artifact, base: BasePackage | BaseFile, store: Path, progress: Progress
) -> Path:
    if isinstance(base, BasePackage):
        return assemble_base(base, store / ".cache", progress)
    for root in (artifact.directory, store):
        path = (root / base.path).resolve()
        if path.is_relative_to(root.resolve()) and path.is_file():
            if sha256_of(path) != base.sha256:
                raise FileDamaged(
                    f"{base.path} is not the base that {artifact.label} was tuned on "
                    f"(its sha256 should be {base.sha256})"
                )
            return path
    made = f", made from {base.source}" if base.source else ""
    raise WeightsNotBuilt(
        f"{artifact.label} is built from {base.path}{made}, which is not in the store and on no package "
        f"index: copy the file (sha256 {base.sha256}) from the store where the model was trained, or "
        f"make it again there with `python -m training base {base.source or 'BASE'}`"
    )


def _merge(artifact: Artifact, base: GgufFile, output: Path, progress: Progress) -> None:
    recipe = artifact.recipe()
    adapters = [_read_adapter(artifact.directory / path, base) for path in recipe.adapters]
    layers = Layers(recipe.layers)
    layers.check(base)
    in_base = layers.tensors(base)
    _refuse_dropped(recipe.adapters, adapters, set(in_base.values()))
    changes = {
        name: [adapter[name] for adapter in adapters if name in adapter] for name in base.tensors
    }
    quantisation = Quantisation.parse(recipe.quantisation)
    kept, values = _trim_vocabulary(artifact, base)
    tensors = [
        _target(replace(base.tensors[source], name=name), quantisation, kept)
        for name, source in in_base.items()
    ]
    importance = _read_importance(artifact, base)
    total = sum(info.bytes for info in tensors)
    done = 0

    def content(target: TensorInfo) -> Iterator[Bytes]:
        nonlocal done
        rows = kept if target.name in TENSORS else None
        source = in_base[target.name]
        weights_of = importance.get(source)
        for piece in _tensor(base, source, target, changes[source], weights_of, rows):
            yield piece
            done += piece.nbytes
            progress("merge and quantise", done, total)

    partial = output.with_name(output.name + ".partial")
    metadata = base.metadata_with(
        {"general.file_type": _file_type(quantisation), **values, **layers.values(base)}
    )
    size, digest = write_gguf(partial, metadata, base.metadata_count, tensors, content)
    partial.replace(output)
    built_with = f"llama-cpp-python {version('llama-cpp-python')}, numpy {np.__version__}"
    write_build_marker(artifact, sha256=digest, size=size, built_with=built_with)


def _refuse_dropped(
    paths: Sequence[str], adapters: Sequence[Mapping[str, Lora]], kept: set[str]
) -> None:
    """Nothing of an adapter is left out in silence. Raises :class:`FileDamaged`."""
    for path, adapter in zip(paths, adapters, strict=True):
        dropped = sorted(adapter.keys() - kept)
        if dropped:
            raise FileDamaged(
                f"{path}: {dropped[0]} belongs to a layer of the base that is not kept"
            )


def _file_type(quantisation: Quantisation) -> int:
    """What llama.cpp prints about the file; it has no say in how tensors are read."""
    name = f"MOSTLY_{quantisation.default.name}"
    return int(LlamaFileType.__members__.get(name, LlamaFileType.GUESSED))


def kept_vocabulary(artifact: Artifact, base: GgufFile) -> Ids | None:
    """The ids of the base's pieces that the artifact's weights keep, ascending; None for all."""
    return _trim_vocabulary(artifact, base)[0]


def _trim_vocabulary(
    artifact: Artifact, base: GgufFile
) -> tuple[Ids | None, Mapping[str, int | bytes]]:
    """The ids of the pieces that stay, None for all, and the metadata that changes with them."""
    path = artifact.recipe().vocabulary
    if path is None:
        return None, {}
    vocabulary = Vocabulary.read(base)
    kept = vocabulary.closed(read_kept(artifact.directory / path, len(vocabulary.pieces)).tolist())
    return kept, vocabulary.values_without_others(kept)


def _target(info: TensorInfo, quantisation: Quantisation, kept: Ids | None) -> TensorInfo:
    """Matrices of the blocks take the recipe's type; norms and embeddings stay what they are."""
    if kept is not None and info.name in TENSORS:
        return replace(info, shape=(len(kept), *info.shape[1:]))
    if len(info.shape) != 2 or not info.name.startswith("blk."):
        return info
    return replace(info, type=quantisation.type_of(info.name, info.shape[-1]))


def _tensor(
    base: GgufFile,
    name: str,
    target: TensorInfo,
    changes: Sequence[Lora],
    importance: Floats | None,
    kept: Ids | None,
) -> Iterator[Bytes]:
    """A tensor's stored bytes, a slice of rows at a time; as they are where nothing changes.

    ``name`` is the one that it has in the base. With ``kept``, only those rows of the base.
    """
    info = base.tensors[name]
    source = info.type
    for start in range(0, target.rows, _ROWS_AT_ONCE):
        stop = min(start + _ROWS_AT_ONCE, target.rows)
        rows: slice | Ids = slice(start, stop) if kept is None else kept[start:stop]
        stored = base.rows(name, 0, info.rows)[rows]
        if not changes and source == target.type:
            yield stored
            continue
        weights = dequantise(stored, source)
        for change in changes:
            weights = weights + change.b[rows] @ change.a
        yield quantise(weights, target.type, importance)


def _read_importance(artifact: Artifact, base: GgufFile) -> dict[str, Floats]:
    path = artifact.recipe().importance
    if path is None:
        return {}
    importance = read_importance(artifact.directory / path)
    for name, columns in importance.items():
        if name not in base.tensors or columns.shape != base.tensors[name].shape[-1:]:
            raise FileDamaged(f"{path}: {name} is not a matrix of the base")
    return importance


def _read_adapter(path: Path, base: GgufFile) -> dict[str, Lora]:
    """Changes by tensor name. Raises :class:`FileDamaged` unless every one of them fits the base."""
    changes = {}
    for name, (a, b) in read_adapter(path).items():
        if name not in base.tensors:
            raise FileDamaged(f"{path.name}: {name} is not a pair for a tensor of the base")
        if (b.shape[0], a.shape[1]) != base.tensors[name].shape:
            raise FileDamaged(
                f"{path.name}: {b.shape} @ {a.shape} does not fit {name} {base.tensors[name].shape}"
            )
        changes[name] = Lora(a, b)
    return changes
