"""Where a base model comes from: the package index, a local directory, a GGUF file or the model hub.

What no package index has becomes a GGUF file in ``<store>/bases``, named after its digest. The recipe of
every artifact that is built from it names that file; it is not in version control.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from app.artifacts.base_package import Progress
from app.artifacts.manifest import BaseFile, PromptSpec, sha256_of, write_atomically
from app.backends.base import BackendOptions
from app.backends.gguf import GgufBackend
from app.backends.llama_context import LlamaModel
from app.classification.prompt import Prompt
from app.errors import BackendError, InputError
from training.bases import PACKAGED, Base, Tokeniser, as_checkpoint, load_decoder, packaged_base
from training.hf_gguf import UnknownKind, write_checkpoint
from training.llama_converter import convert
from training.tuning import hidden_states

BASES = "bases"
_HUB_ID = re.compile(r"(?P<id>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")
_FETCHED = ("*.json", "*.safetensors", "tokenizer.model", "LICENSE*", "NOTICE*", "USE_POLICY*")
_LICENCES = ("LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*", "*TERMS*")
_SAMPLES = (
    "where is my order #58213?",
    "I'd like 2 of these, but DON'T charge me 19.99 twice",
    "želim vratiti cipele, prevelike su",
    "¿me pueden cobrar en 3 plazos? 👍🏽",
)
LEAST_COSINE = 0.98
"""Between what torch and llama.cpp make of the same base: a wrong layout gives less than 0.9, and 4-bit
weights, whose inputs llama.cpp rounds to 8 bits, more than 0.99."""


def find_base(name: str, store: Path, progress: Progress) -> Base:
    """A packaged name, a directory, a GGUF file, or ``owner/model[@revision]`` on the hub.

    Raises :class:`app.errors.InputError` when there is no such base, or it cannot be served.
    """
    cache = store / ".cache"
    cache.mkdir(parents=True, exist_ok=True)
    (cache / ".gitignore").write_text("*\n")
    if name in PACKAGED:
        return packaged_base(cache, progress, name)
    path = Path(name)
    if path.is_dir() and (path / "config.json").is_file():
        return _from_checkpoint(path, path.resolve().name, store, progress)
    if path.is_dir():
        found = sorted(path.glob("*.gguf"))
        if len(found) != 1:
            raise InputError(
                f"{name} holds no config.json and {len(found)} GGUF files: name the file to use"
            )
        return replace(_from_gguf(found[0], store, progress), notices=_notices(path))
    if path.is_file() and path.suffix == ".gguf":
        return _from_gguf(path, store, progress)
    hub = _HUB_ID.fullmatch(name)
    if hub is None or path.exists():
        raise InputError(
            f"base {name!r} is not known: give {', '.join(map(repr, PACKAGED))}, 'storefront', a "
            "directory or GGUF file, or the id of a model on the Hugging Face hub (owner/model)"
        )
    directory = _download(hub["id"], hub["revision"], progress)
    return _from_checkpoint(directory, f"{hub['id']}@{directory.name}", store, progress)


def _download(model: str, revision: str | None, progress: Progress) -> Path:
    """A snapshot in the hub library's own cache; its directory is named after the commit."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    progress(f"download {model}", 0, 0)
    try:
        return Path(snapshot_download(model, revision=revision, allow_patterns=list(_FETCHED)))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(
            f"the model {model!r} could not be fetched from the Hugging Face hub ({said[0]}). If it is "
            "gated, accept its licence there and run `hf auth login`; without a network, give a "
            "local directory"
        ) from error


def _from_gguf(path: Path, store: Path, progress: Progress) -> Base:
    progress("check base weights", 0, 0)
    origin = _keep(path, path.stem, path.name, store)
    kept = store / origin.path
    directory = store / ".cache" / f"{kept.stem}-hf"
    fresh = not (directory / "complete").is_file()
    base = Base(_readable(as_checkpoint, kept, directory), origin, _licence(path.parent))
    if fresh:
        _require_agreement(base, kept, progress)
    return base


def _from_checkpoint(directory: Path, source: str, store: Path, progress: Progress) -> Base:
    """A GGUF file is written at the first call, and found again while the directory stays the same."""
    notices = _notices(directory)
    note = store / ".cache" / f"converted-{_identity(directory)}.json"
    if note.is_file():
        known = json.loads(note.read_bytes())
        if (store / known["path"]).is_file():
            return Base(directory, BaseFile(**known), _licence(directory), notices)
    progress("convert the base to GGUF", 0, 0)
    stem = source.partition("@")[0].rpartition("/")[2]
    partial = store / ".cache" / f"{stem}.gguf.partial"
    try:
        _readable(write_checkpoint, directory, partial)
    except UnknownKind:
        convert(directory, partial, store / ".cache", progress)
    origin = _keep(partial, stem, source, store, move=True)
    base = Base(directory, origin, _licence(directory), notices)
    _require_agreement(base, store / origin.path, progress)
    write_atomically(note, origin.model_dump_json().encode())
    return base


def _readable(step: Any, *given: Path) -> Any:
    """What a library says of files that are no model, as a sentence for who gave them."""
    try:
        return step(*given)
    except InputError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(f"{given[0].name} is not a causal language model: {said[0]}") from error


def _identity(directory: Path) -> str:
    """Changes when a file of the checkpoint does; no gigabytes are read for it."""
    parts = [
        f"{path.name} {path.stat().st_size} {path.stat().st_mtime_ns}"
        for pattern in ("*.json", "*.safetensors", "*.model")
        for path in sorted(directory.glob(pattern))
    ]
    return hashlib.sha256("\n".join([str(directory.resolve()), *parts]).encode()).hexdigest()[:16]


def _keep(path: Path, stem: str, source: str, store: Path, *, move: bool = False) -> BaseFile:
    """The file in ``<store>/bases`` under a name that tells its digest."""
    digest = sha256_of(path)
    slug = re.sub(r"[^a-z0-9]+", "-", stem.lower()).strip("-") or "base"
    place = Path(BASES) / f"{slug}-{digest[:16]}.gguf"
    kept = store / place
    kept.parent.mkdir(exist_ok=True)
    if not kept.is_file():
        if not move:
            partial = kept.with_name(kept.name + ".partial")
            partial.unlink(missing_ok=True)
            try:
                os.link(path, partial)
            except OSError:
                shutil.copyfile(path, partial)
            path = partial
        path.replace(kept)
    elif move:
        path.unlink()
    return BaseFile(path=place.as_posix(), sha256=digest, source=source)


def _notices(directory: Path) -> tuple[Path, ...]:
    return tuple(sorted({found for pattern in _LICENCES for found in directory.glob(pattern)}))


def _licence(directory: Path) -> str:
    """What the model card declares, else that it is the base's own."""
    with suppress(OSError):
        card = (directory / "README.md").read_text(encoding="utf-8", errors="replace")
        declared = re.search(r"^license:\s*([\w.-]+)\s*$", card.partition("\n---")[0], re.MULTILINE)
        if declared:
            return f"{declared[1]} (weights), Apache-2.0 (code)"
    return "that of the base model (weights), Apache-2.0 (code)"


def _require_agreement(base: Base, gguf: Path, progress: Progress) -> None:
    """llama.cpp must make the same tokens and states of the base as torch. Raises :class:`InputError`."""
    progress("compare llama.cpp with torch", 0, 0)
    prompt = Prompt()
    prompts = Tokeniser(base, prompt).prompts(_SAMPLES)
    spec = PromptSpec(prefix=prompt.prefix, suffix=prompt.suffix)
    longest = max(map(len, prompts)) + 8
    try:
        backend = GgufBackend(gguf, spec, longest, BackendOptions(1, len(_SAMPLES), 4 * longest))
    except BackendError as error:
        raise InputError(f"{gguf.name} cannot be served: {error}") from error
    try:
        states = backend.embed([backend.tokenise(text) for text in _SAMPLES])
    finally:
        backend.close()
    vocabulary = LlamaModel(gguf, vocabulary_only=True)
    begin, end = vocabulary.beginning(), vocabulary.tokenise(prompt.suffix)
    served = [(*begin, *vocabulary.tokenise(text), *end) for text in _SAMPLES]
    vocabulary.close()
    if served != prompts:
        raise InputError(
            f"{gguf.name} cannot be used: llama.cpp splits text in another way than torch"
        )
    trained = hidden_states(load_decoder(base.directory), prompts, "cpu")
    lengths = np.linalg.norm(states, axis=1) * np.linalg.norm(trained, axis=1)
    cosine = float(((states * trained).sum(axis=1) / lengths).min())
    if not cosine >= LEAST_COSINE:
        raise InputError(
            f"{gguf.name} cannot be used: its states in llama.cpp and in torch have a cosine of only "
            f"{cosine:.3f}"
        )
