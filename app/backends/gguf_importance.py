"""How much each column of each matrix matters: its mean squared input over typical messages.

The quantity of llama.cpp's imatrix tool, taken while the served prompt and real messages pass through
the weights. Measured once, when a model is made; :mod:`app.backends.gguf_quantise` quantises by it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from llama_cpp._ggml import libggml
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from app.artifacts.manifest import PromptSpec
from app.backends.base import BackendOptions
from app.backends.gguf import GgufBackend
from app.backends.gguf_quantise import Floats
from app.backends.llama_context import LlamaContext, Tensor, read_tensor
from app.errors import FileDamaged

Sums: TypeAlias = npt.NDArray[np.float64]

_op_name = libggml.ggml_op_name
_op_name.argtypes = (ctypes.c_int,)
_op_name.restype = ctypes.c_char_p


def measure_importance(
    weights: Path,
    prompt: PromptSpec,
    texts: Iterable[str],
    *,
    max_message_tokens: int = 256,
    threads: int = 1,
) -> dict[str, Floats]:
    """Mean squared input (columns,) of every block matrix, over all tokens of normalised texts.

    ``weights`` should be precise (F16 or Q8_0). A few hundred texts are enough.
    """
    options = BackendOptions(threads=threads, max_sequences=1, max_tokens=max_message_tokens)
    backend = _ObservedBackend(weights, prompt, max_message_tokens, options)
    try:
        observed = backend.observed
        for text in texts:
            backend.embed([backend.tokenise(text)])
    finally:
        backend.close()
    return {
        name: (squares / count).astype(np.float32) for name, (squares, count) in observed.items()
    }


def write_importance(path: Path, importance: dict[str, Floats]) -> None:
    """As safetensors, by the tensors' GGUF names."""
    save_file(importance, path)


def read_importance(path: Path) -> dict[str, Floats]:
    """Raises :class:`FileDamaged`."""
    try:
        return {name: array.astype(np.float32) for name, array in load_file(path).items()}
    except (OSError, SafetensorError) as error:
        raise FileDamaged(f"{path.name} is unreadable: {error}") from error


class _ObservedContext(LlamaContext):
    """Looks at the inputs of all matrix products on the way to the hidden state."""

    def _node_callback(self) -> Callable[[int, bool, object], bool]:
        self.observed: dict[str, tuple[Sums, int]] = {}
        end_at_hidden_state = super()._node_callback()

        def on_node(address: int, ask: bool, user_data: object) -> bool:  # noqa: FBT001  as in C
            matrix = _block_matrix(address)
            if matrix is None:
                return end_at_hidden_state(address, ask, user_data)
            if not ask:
                self._observe(matrix, Tensor.from_address(address).src[1])
            return True

        return on_node

    def _observe(self, matrix: str, inputs: int) -> None:
        rows = read_tensor(inputs).astype(np.float64)
        squares, count = self.observed.get(matrix, (np.zeros(rows.shape[1]), 0))
        self.observed[matrix] = squares + (rows**2).sum(axis=0), count + len(rows)


class _ObservedBackend(GgufBackend):
    context_type = _ObservedContext

    @property
    def observed(self) -> dict[str, tuple[Sums, int]]:
        context = self._open_context()
        assert isinstance(context, _ObservedContext)
        return context.observed


def _block_matrix(address: int) -> str | None:
    """The name of the block matrix that a node multiplies with, if that is what it does."""
    tensor = Tensor.from_address(address)
    if _op_name(tensor.op) != b"MUL_MAT" or not tensor.src[0]:
        return None
    name = Tensor.from_address(tensor.src[0]).name.decode()
    return name if name.startswith("blk.") else None
