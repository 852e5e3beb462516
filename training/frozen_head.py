"""A label head on states that stay as they are: logistic regression, seconds instead of minutes.

The backbone was drawn towards a sentence encoder (:mod:`training.teacher`); with few messages an intent,
tuning it further forgets more than it learns (docs/decisions/0024).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression

from app.classification.head import unit

Floats = npt.NDArray[np.float32]

INVERSE_REGULARISATION = 10.0
LENGTH = 8.0
"""Of the states while the head is fitted; with the regularisation it tells how sure the head may be."""
_NEVER = -20.0


def fit_head(states: Floats, labels: Sequence[int], count: int) -> tuple[Floats, Floats]:
    """Rows (count, hidden) and bias (count,) for :class:`app.classification.head.Head`.

    ``states`` (n, hidden) of messages with ``labels`` in ``range(count)``, two different ones at least.
    A label without a message is never chosen.
    """
    hidden = states.shape[1]
    scale = np.float32(LENGTH / np.sqrt(hidden))
    present = sorted(set(labels))
    model = LogisticRegression(C=INVERSE_REGULARISATION, max_iter=500)
    model.fit(unit(states) * scale, np.asarray(labels))
    weights, intercepts = model.coef_, model.intercept_
    if len(present) == 2:
        weights = np.concatenate([-weights, weights]) / 2
        intercepts = np.concatenate([-intercepts, intercepts]) / 2
    rows = np.zeros((count, hidden), np.float32)
    bias = np.full(count, _NEVER, np.float32)
    rows[present] = weights * scale
    bias[present] = intercepts
    return rows, bias
