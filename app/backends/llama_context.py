"""One llama.cpp model and context through the library's C interface, and nothing of ours in it.

The high-level ``llama_cpp.Llama`` locks for each request, cannot batch and keeps a vocabulary-wide
row for each token; here a batch is one ``llama_decode`` that ends at the last hidden state.
"""

from __future__ import annotations

import ctypes
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import llama_cpp
import numpy as np
import numpy.typing as npt
from llama_cpp._ggml import libggml

from app.backends.base import HiddenStates

_FINAL_NORM = b"result_norm\0"
"""The tensor that llama.cpp's graphs name so: the hidden states after the last norm."""
_LAYER = b"l_out-"
"""Beginning of the names of what comes out of each layer."""
_DONT_NEED = 4
"""``MADV_DONTNEED``."""
_TOKENS_A_RELEASE = 2048
"""A hundred messages or so: then the embedding never comes to memory as a whole."""
_LOADING = Lock()
"""Held while a file is mapped, so that a load's own mapping can be told from others of the same file."""
_F32 = 0
F16, BF16 = 1, 30
"""As ``enum ggml_type`` counts."""


class Tensor(ctypes.Structure):
    """The head of ``struct ggml_tensor`` (ggml.h), as far as the name."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("buffer", ctypes.c_void_p),
        ("ne", ctypes.c_int64 * 4),
        ("nb", ctypes.c_size_t * 4),
        ("op", ctypes.c_int),
        ("op_params", ctypes.c_int32 * 16),
        ("flags", ctypes.c_int32),
        ("src", ctypes.c_void_p * 10),
        ("view_src", ctypes.c_void_p),
        ("view_offs", ctypes.c_size_t),
        ("data", ctypes.c_void_p),
        ("name", ctypes.c_char * 64),
    )


_tensor_get = libggml.ggml_backend_tensor_get
_tensor_get.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t)
_tensor_get.restype = None


_libc = ctypes.CDLL(None)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


def read_tensor(address: int) -> npt.NDArray[np.float32]:
    """A contiguous float32 tensor as (rows, columns); its outer dimensions are laid out as rows."""
    tensor = Tensor.from_address(address)
    columns, *outer = tensor.ne
    if tensor.type != _F32 or tensor.nb[1] != columns * 4:
        raise LlamaError(f"{tensor.name.decode()} is not contiguous float32")
    values = np.empty((math.prod(outer), columns), np.float32)
    _tensor_get(address, values.ctypes.data, 0, values.nbytes)
    return values


class LlamaError(Exception):
    """llama.cpp reported a failure."""


class LlamaModel:
    """Weights and vocabulary, or the vocabulary alone. ``tokenise`` is thread-safe."""

    def __init__(self, path: Path, *, vocabulary_only: bool = False) -> None:
        params = llama_cpp.llama_model_default_params()
        params.n_gpu_layers = 0
        params.vocab_only = vocabulary_only
        with _LOADING:
            others = _mapped_ranges(path)
            model = llama_cpp.llama_model_load_from_file(os.fsencode(path), params)
            if not model:
                raise LlamaError(f"{path.name} could not be loaded")
            # Not those of another model of the same file: once it is closed, anything may stand there.
            self._mapped = _mapped_ranges(path) - others
        self.release_pages()
        self.handle = model
        self._in_use = Lock()  # so that nobody tokenises with a vocabulary that is being freed
        self._vocab = llama_cpp.llama_model_get_vocab(model)
        self.hidden_size = int(llama_cpp.llama_model_n_embd(model))
        self.trained_context = int(llama_cpp.llama_model_n_ctx_train(model))

    def beginning(self) -> list[int]:
        """The token that begins every text, where the model was trained with one."""
        if not llama_cpp.llama_vocab_get_add_bos(self._vocab):
            return []
        return [int(llama_cpp.llama_vocab_bos(self._vocab))]

    def tokenise(self, text: str) -> list[int]:
        """Token ids of the text alone; what looks like a control token is text like any other."""
        content = text.encode(errors="replace")
        room = len(content) + 8
        ids = (llama_cpp.llama_token * room)()
        add_special = parse_special = False
        with self._in_use:
            if not self.handle:
                raise LlamaError("the model has been closed")
            count = llama_cpp.llama_tokenize(
                self._vocab, content, len(content), ids, room, add_special, parse_special
            )
        if count < 0:
            raise LlamaError(f"a text of {len(content)} bytes became {-count} tokens")
        return ids[:count]

    def release_pages(self) -> None:
        """Give back what has been touched of the mapped file; what is needed again is still cached.

        Most of it is not: matrices have been repacked elsewhere when the file was read, and for a rare
        piece's row of the embedding the kernel maps all that stands around it.
        """
        for start, size in self._mapped:
            _libc.madvise(start, size, _DONT_NEED)

    def close(self) -> None:
        """Free the weights. Idempotent; no context may be left."""
        with self._in_use:
            self._mapped = set()
            if self.handle:
                llama_cpp.llama_model_free(self.handle)
                self.handle = None


def _mapped_ranges(path: Path) -> set[tuple[int, int]]:
    """Where a file is mapped in this process: first address and size. Linux only; else nowhere."""
    maps = Path("/proc/self/maps")
    if not maps.is_file():
        return set()
    real = str(path.resolve())
    ranges = set()
    for line in maps.read_text(errors="replace").splitlines():
        addresses, *_, name = line.split(maxsplit=5)
        if name == real:
            start, end = (int(address, 16) for address in addresses.split("-"))
            ranges.add((start, end - start))
    return ranges


def _pointer(array: npt.NDArray[Any], kind: Any) -> Any:
    return ctypes.cast(array.ctypes.data, ctypes.POINTER(kind))


class LlamaContext:
    """Memory and work space for at most ``tokens`` new tokens and ``rows`` hidden states at once.

    ``sequences`` independent texts live in it beside each other, after ``shared`` cells that some of
    them have in common. A model with a sliding window forgets the cells behind it, unless
    ``keep_window``: then the end of a sequence may be taken off and another put in its place.
    ``cell_type`` is how keys and values are stored. Without ``flash_attention`` a few tokens after a
    long text are computed faster on a CPU, and many tokens slower. ``give_way`` is called after each
    layer until it returns false.
    """

    def __init__(
        self,
        model: LlamaModel,
        *,
        tokens: int,
        shared: int,
        sequences: int,
        rows: int,
        threads: int,
        keep_window: bool = False,
        flash_attention: bool = True,
        cell_type: int = F16,
        give_way: Callable[[], bool] | None = None,
    ) -> None:
        self._model = model
        self._give_way = give_way
        self._since_release = 0
        self._rows = np.empty((rows, model.hidden_size), np.float32)
        self._filled = 0
        self._asked = 0
        self._names_from = 0
        self._problems: list[str] = []
        # The library calls this as long as the context lives; ctypes keeps no reference of its own.
        self._on_node = llama_cpp.ggml_backend_sched_eval_callback(self._node_callback())
        self._allocate_batch(tokens)
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = shared + tokens
        params.n_batch = params.n_ubatch = tokens
        params.n_seq_max = sequences
        params.n_outputs_max = max(rows, sequences)  # the library asserts one a sequence
        params.n_threads = params.n_threads_batch = threads
        params.kv_unified = True
        params.swa_full = keep_window
        if not flash_attention:
            params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.type_k = params.type_v = cell_type
        params.no_perf = True
        params.offload_kqv = params.op_offload = False
        params.cb_eval = self._on_node
        self.handle = llama_cpp.llama_init_from_model(model.handle, params)
        if not self.handle:
            raise LlamaError(f"no context for {tokens} tokens in {sequences} sequences")
        self._memory = llama_cpp.llama_get_memory(self.handle)

    def _allocate_batch(self, tokens: int) -> None:
        """``llama_batch`` over numpy arrays, filled by slices; one sequence a token."""
        self.tokens = np.zeros(tokens, np.int32)
        self.positions = np.zeros(tokens, np.int32)
        self.sequences = np.zeros(tokens, np.int32)
        self.marks = np.zeros(tokens, np.int8)
        self._counts = np.ones(tokens, np.int32)
        step = self.sequences.itemsize
        first = self.sequences.ctypes.data
        self._pointers = np.arange(first, first + tokens * step, step, dtype=np.uintp)
        batch = llama_cpp.llama_batch()
        batch.token = _pointer(self.tokens, llama_cpp.llama_token)
        batch.pos = _pointer(self.positions, llama_cpp.llama_pos)
        batch.n_seq_id = _pointer(self._counts, ctypes.c_int32)
        batch.seq_id = _pointer(self._pointers, ctypes.POINTER(llama_cpp.llama_seq_id))
        batch.logits = _pointer(self.marks, ctypes.c_int8)
        self._batch = batch

    def _node_callback(self) -> Callable[[int, bool, object], bool]:
        """Asked for each of some 700 nodes, so it must be cheap: names are read near the end only."""
        name_at = Tensor.name.offset
        string_at, length = ctypes.string_at, len(_FINAL_NORM)

        def on_node(tensor: int, ask: bool, _user_data: object) -> bool:  # noqa: FBT001  as in C
            if ask:
                self._asked += 1
                if self._give_way is not None:
                    name = string_at(tensor + name_at, length)
                    return name == _FINAL_NORM or name.startswith(_LAYER)
                if self._asked < self._names_from:
                    return False
                return string_at(tensor + name_at, length) == _FINAL_NORM
            if self._give_way is not None and string_at(tensor + name_at, length) != _FINAL_NORM:
                if not self._give_way():
                    self._give_way = None
                return True  # on with the graph
            self._keep(tensor)
            return False

        return on_node

    def _keep(self, address: int) -> None:
        tensor = Tensor.from_address(address)
        width, count = tensor.ne[0], tensor.ne[1]
        end = self._filled + count
        if tensor.type != _F32 or width != self._rows.shape[1] or end > len(self._rows):
            self._problems.append(f"hidden states of type {tensor.type}, {count} x {width}")
            return
        target = self._rows[self._filled : end]
        _tensor_get(address, target.ctypes.data, 0, target.nbytes)
        self._filled = end

    def decode(self, count: int) -> HiddenStates:
        """Run the first ``count`` tokens of the batch arrays; one row for each marked token, in order.

        The rows are a view that the next call overwrites.
        """
        self._filled = self._asked = 0
        self._problems.clear()
        self._batch.n_tokens = count
        status = llama_cpp.llama_decode(self.handle, self._batch)
        if status:
            raise LlamaError(f"llama_decode returned {status}")
        if self._filled != int(np.count_nonzero(self.marks[:count])):
            self._names_from = 0
            raise LlamaError(f"{self._filled} hidden states came out {self._problems}")
        # Graphs of other sizes may differ by a few nodes, never by a tenth of them.
        self._names_from = self._asked * 9 // 10
        self._since_release += count
        if self._since_release >= _TOKENS_A_RELEASE:
            self._since_release = 0
            self._model.release_pages()
        return self._rows[: self._filled]

    def share(self, source: int, sequences: Sequence[int]) -> None:
        """Let ``sequences`` begin with what ``source`` holds; no data is copied."""
        for sequence in sequences:
            llama_cpp.llama_memory_seq_cp(self._memory, source, sequence, -1, -1)

    def forget(self, sequence: int, start: int) -> None:
        """Free the cells of a sequence from position ``start`` on."""
        llama_cpp.llama_memory_seq_rm(self._memory, sequence, start, -1)

    def state(self, sequence: int) -> npt.NDArray[np.uint8]:
        """What the memory holds of a sequence, to be brought back with :meth:`restore`."""
        size = llama_cpp.llama_state_seq_get_size(self.handle, sequence)
        state = np.empty(size, np.uint8)
        pointer = _pointer(state, ctypes.c_uint8)
        if llama_cpp.llama_state_seq_get_data(self.handle, pointer, size, sequence) != size:
            raise LlamaError(f"the {size} bytes of sequence {sequence} could not be read")
        return state

    def restore(self, sequence: int, state: npt.NDArray[np.uint8]) -> None:
        """Put back what :meth:`state` gave; the sequence must be empty."""
        pointer = _pointer(state, ctypes.c_uint8)
        if not llama_cpp.llama_state_seq_set_data(self.handle, pointer, state.size, sequence):
            raise LlamaError(f"sequence {sequence} could not be put back from {state.size} bytes")

    def clear(self) -> None:
        llama_cpp.llama_memory_clear(self._memory, False)  # noqa: FBT003

    def close(self) -> None:
        """Free the context. Idempotent."""
        if self.handle:
            llama_cpp.llama_free(self.handle)
            self.handle = None
