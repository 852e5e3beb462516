"""N-grams that learn from people's labels and, on texts that have none, from the language model.

Distillation (Hinton, Vinyals and Dean 2015): a cheap model that has seen a costly one's answers to many
more texts answers more of them itself, which is what the cascade lives on (decision 0027).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import safe_open
from safetensors.numpy import save_file

from app.artifacts.base_package import Progress
from app.artifacts.manifest import read_manifest, verify_files
from app.backends.base import Backend
from app.classification.head import Head
from app.classification.model_files import read_model
from app.classification.ngrams import NgramModel
from training.examples import Example
from training.measure import embed_texts
from training.ngram_fit import Taught, fit_ngrams

ANSWERS = "taught.safetensors"
TOLERANCE = 1e-4
"""So many rows go on improving for long: at 1e-3, 0.015 of the n-grams' accuracy were left (run 41)."""
SHARPNESS = 4.0
"""Power to which the teacher's probabilities are raised: n-grams that learn its doubts doubt more than it
does. At 1, 2 and 4 they answered 67, 70 and 74% of everyday messages, at equal accuracy (run 39)."""


@dataclass(frozen=True, slots=True)
class TaughtNgrams:
    """Called with the built weights' backend, which labels ``unlabelled`` (normalised) before the fit.

    The answers are kept in ``run``, for they take a while: a second call with the same head and texts
    takes them from there.
    """

    labelled: Sequence[Example]
    unlabelled: Sequence[str]
    labels: Sequence[str]
    head: Head
    run: Path
    progress: Progress

    def __call__(self, backend: Backend) -> NgramModel:
        likely = self._answers(backend) ** SHARPNESS
        taught = Taught(self.unlabelled, likely / likely.sum(axis=1, keepdims=True))
        self.progress("fit n-grams", 0, 0)
        texts = [example.text for example in self.labelled]
        columns = [self.labels.index(example.intent) for example in self.labelled]
        return fit_ngrams(texts, columns, len(self.labels), taught=taught, tolerance=TOLERANCE)

    def _answers(self, backend: Backend) -> npt.NDArray[np.float32]:
        """Probabilities (texts, labels), out of scope among them."""
        path, key = self.run / ANSWERS, self._key()
        if path.is_file():
            with safe_open(path, "numpy") as kept:
                if (kept.metadata() or {}).get("key") == key:
                    return np.asarray(kept.get_tensor("probabilities"), np.float32)
        states = embed_texts(backend, self.unlabelled, self.progress, "label texts for n-grams")
        probabilities = np.exp(self.head.score(states)).astype(np.float16)
        self.run.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        save_file({"probabilities": probabilities}, partial, {"key": key})
        partial.replace(path)
        return probabilities.astype(np.float32)

    def _key(self) -> str:
        digest = hashlib.sha256(self.head.rows.tobytes() + self.head.bias.tobytes())
        digest.update("\n".join(self.unlabelled).encode())
        return digest.hexdigest()


def kept_ngrams(version: Path, labels: Sequence[str]) -> NgramModel:
    """Those of a published version, for one that has nothing else to tell them than it had.

    ``labels`` are what they have to answer: ValueError where the version's are others, FileDamaged where
    its files are not what was published.
    """
    manifest = read_manifest(version)
    if manifest.intents != tuple(labels):
        raise ValueError(f"{version}: its n-grams know other intents; teach new ones")
    verify_files(version, manifest)
    return read_model(version, manifest).ngrams
