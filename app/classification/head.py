"""The label head: one row a label, scored against the last hidden state.

No vocabulary-wide output layer and no generated text: an intent costs one dot product.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class Head:
    """``rows`` float32 (labels, hidden), ``bias`` float32 (labels,)."""

    rows: npt.NDArray[np.float32]
    bias: npt.NDArray[np.float32]

    def score(self, hidden: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Log-probabilities (n, labels) of hidden states (n, hidden).

        States are brought to unit length and scaled by sqrt(hidden) first, as in training, so that the
        rows need not learn the model's own scale.
        """
        return log_softmax(unit(hidden) @ self.rows.T + self.bias)


def unit(hidden: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Hidden states (n, hidden) at length sqrt(hidden)."""
    norms = np.linalg.norm(hidden, axis=1, keepdims=True)
    scaled: npt.NDArray[np.float32] = hidden / np.maximum(norms, 1e-6)
    scaled *= np.float32(np.sqrt(hidden.shape[1]))
    return scaled


def log_softmax(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Row-wise, shifted by the maximum for stability."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    normaliser = np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    result: npt.NDArray[np.float32] = shifted - normaliser
    return result
