"""Several tuned results in one: weighted sums of their weights (model soups, Wortsman et al. 2022).

Runs that began at the same base and learned different mixtures end in one basin: between them lie
weights that generalise better than any of them, at the cost of serving one. LoRA changes are summed as
they change the merged weights, ``sum(c * b @ a)``, not factor by factor, and cut back to a rank.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from app.classification.cart import CartHeads
from app.classification.model_files import cart_heads, cart_tensors
from app.errors import InputError
from training.adapter_files import Adapter
from training.changes import input_scale
from training.tuning import Tuned

Floats = npt.NDArray[np.float32]


def average(
    results: Sequence[tuple[float, Tuned]],
    rank: int,
    importance: Mapping[str, Floats] | None = None,
) -> Tuned:
    """The weighted sum of the adapters, cut to ``rank``; heads are averaged by the same weights.

    Weights of adapters need not add up to one: changes that runs do not share shrink when they are
    averaged, and more than one makes up for it. With ``importance``, the mean squared inputs (in,) by
    tensor, what is cut is what changes outputs least. Raises :class:`InputError` for unlike results.
    """
    _check(results)
    adapters = [(weight, tuned.adapter) for weight, tuned in results]
    adapter: Adapter = {
        name: _sum(
            [(weight, *factors[name]) for weight, factors in adapters],
            rank,
            None if importance is None else importance.get(name),
        )
        for name in adapters[0][1]
    }
    total = sum(weight for weight, _ in results)
    heads = [
        (
            sum(weight / total * tuned.heads[number][0] for weight, tuned in results),
            sum(weight / total * tuned.heads[number][1] for weight, tuned in results),
        )
        for number in range(len(results[0][1].heads))
    ]
    return Tuned(
        adapter, [(np.asarray(r, np.float32), np.asarray(b, np.float32)) for r, b in heads]
    )


def average_carts(parts: Sequence[tuple[float, CartHeads]]) -> CartHeads:
    """Cart heads averaged as :func:`average` does heads of intents."""
    total = sum(weight for weight, _ in parts)
    mean: dict[str, Floats] = {}
    for weight, heads in parts:
        for name, tensor in cart_tensors(heads).items():
            mean[name] = mean.get(name, np.float32(0)) + np.float32(weight / total) * tensor
    return cart_heads(mean)


def _check(results: Sequence[tuple[float, Tuned]]) -> None:
    if not results or sum(weight for weight, _ in results) <= 0:
        raise InputError(
            "an average needs at least one result, and weights that add up to more than 0"
        )
    shapes = [
        (
            {name: (a.shape[1], b.shape[0]) for name, (a, b) in tuned.adapter.items()},
            [rows.shape for rows, _ in tuned.heads],
        )
        for _, tuned in results
    ]
    if any(shape != shapes[0] for shape in shapes):
        raise InputError("the results are of different bases or label sets: average like with like")


def _sum(
    parts: Sequence[tuple[float, Floats, Floats]], rank: int, squared: Floats | None
) -> tuple[Floats, Floats]:
    """Factors of ``sum(c * b @ a)`` at most ``rank`` wide: the best there are, by singular values."""
    a = np.concatenate([a for _, a, _ in parts])
    b = np.concatenate([weight * b for weight, _, b in parts], axis=1)
    if len(a) <= rank:
        return a, b.astype(np.float32)
    scale = np.ones(a.shape[1], np.float32) if squared is None else input_scale(squared)
    # Of two thin factors only the small middle needs a decomposition.
    left, middle_b = np.linalg.qr(b.astype(np.float64))
    right, middle_a = np.linalg.qr((a * scale).T.astype(np.float64))
    u, values, v = np.linalg.svd(middle_b @ middle_a.T, full_matrices=False)
    root = np.sqrt(values[:rank])
    cut_a = (root[:, None] * v[:rank]) @ right.T / scale
    cut_b = (left @ u[:, :rank]) * root
    return cut_a.astype(np.float32), cut_b.astype(np.float32)
