from __future__ import annotations

import ctypes
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import llama_cpp
import numpy as np
import pytest

from app.artifacts.manifest import PromptSpec
from app.backends.base import BackendOptions, MarkedTokens
from app.backends.gguf import GgufBackend
from app.backends.llama_context import LlamaModel
from app.backends.llama_log import missing_instruction_sets
from app.errors import BackendUnavailable, InferenceFailed, ManifestInvalid
from tests.backends.tiny_gguf import BOS, LAYERS, write_tiny_gguf

OPTIONS = BackendOptions(threads=1, max_sequences=4, max_tokens=96)
TEXTS = ("where is my order?", "ok", "i want to send these shoes back please", "😀 Ž")


def open_tiny(weights: Path, *, prefix: str = "", suffix: str = "\n") -> GgufBackend:
    return GgufBackend(weights, PromptSpec(prefix=prefix, suffix=suffix), 64, OPTIONS)


@pytest.fixture
def backend(tiny_gguf: Path) -> Iterator[GgufBackend]:
    backend = open_tiny(tiny_gguf)
    yield backend
    backend.close()


def test_states_its_limits(backend: GgufBackend):
    """A caller learns from ``info`` what the backend takes."""
    info = backend.info
    assert (info.kind, info.hidden_size) == ("gguf", 64)
    assert (info.max_sequences, info.max_tokens, info.max_message_tokens) == (4, 96, 64)


def test_rows_stand_in_the_order_of_the_messages_and_do_not_depend_on_neighbours(
    backend: GgufBackend,
):
    """A message's row is the same alone and in any batch, up to rounding."""
    messages = [backend.tokenise(text) for text in TEXTS]
    alone = np.concatenate([backend.embed([message]) for message in messages])
    together = backend.embed(messages)
    assert together.shape == (4, 64)
    assert together.dtype == np.float32
    np.testing.assert_allclose(together, alone, atol=2e-3)
    np.testing.assert_allclose(backend.embed(messages[::-1]), alone[::-1], atol=2e-3)
    assert np.abs(alone[0] - alone[1]).max() > 0.1


def test_the_row_is_the_final_hidden_state(tiny_gguf: Path, backend: GgufBackend):
    """Ending the graph early gives what llama.cpp's own embedding mode gives at the last token."""
    message = backend.tokenise(TEXTS[0])
    np.testing.assert_allclose(
        backend.embed([message])[0],
        _embedding_mode(tiny_gguf, [BOS, *message, *backend.tokenise("\n")]),
        atol=2e-3,
    )


def _embedding_mode(weights: Path, ids: list[int]) -> np.ndarray:
    model = llama_cpp.llama_model_load_from_file(
        str(weights).encode(), llama_cpp.llama_model_default_params()
    )
    params = llama_cpp.llama_context_default_params()
    params.embeddings, params.n_ctx, params.n_threads, params.n_threads_batch = True, 128, 1, 1
    context = llama_cpp.llama_init_from_model(model, params)
    array = (llama_cpp.llama_token * len(ids))(*ids)
    assert llama_cpp.llama_decode(context, llama_cpp.llama_batch_get_one(array, len(ids))) == 0
    row = np.array(llama_cpp.llama_get_embeddings_ith(context, -1)[:64], np.float32)
    llama_cpp.llama_free(context)
    llama_cpp.llama_model_free(model)
    return row


def test_gives_way_between_layers_as_long_as_it_is_asked_to(tiny_gguf: Path, backend: GgufBackend):
    """Called after each layer, carts too, until it says no; rows stay the same."""
    calls: list[None] = []
    wanted = True

    def give_way() -> bool:
        calls.append(None)
        return wanted

    def called() -> int:
        count = len(calls)
        calls.clear()
        return count

    message = backend.tokenise(TEXTS[0])
    part = MarkedTokens(tuple(message), (len(message) - 1,))
    polite = GgufBackend(
        tiny_gguf, PromptSpec(prefix="", suffix="\n"), 64, replace(OPTIONS, give_way=give_way)
    )
    called()
    # The library may well leave out the pause behind the last layer: what is wanted follows at once.
    for _ in range(2):
        np.testing.assert_allclose(polite.embed([message]), backend.embed([message]), atol=2e-3)
        assert called() in {LAYERS - 1, LAYERS}
    rows, given = polite.embed_after(part, part), backend.embed_after(part, part)
    np.testing.assert_allclose(np.stack(rows), np.stack(given), atol=2e-3)
    assert called() >= 2 * (LAYERS - 1)
    wanted = False
    for number in (1, 0):
        np.testing.assert_allclose(polite.embed([message]), backend.embed([message]), atol=2e-3)
        assert called() == number
    polite.close()


def test_a_shared_prefix_counts_like_one_that_every_message_carries(tiny_gguf: Path):
    """Decoding the prefix once changes no answer."""
    shared, carried = open_tiny(tiny_gguf, prefix="where is"), open_tiny(tiny_gguf)
    message = shared.tokenise("my order")
    expected = carried.embed([[*carried.tokenise("where is"), *message]])[0]
    for row in shared.embed([message, message, message]):
        np.testing.assert_allclose(row, expected, atol=2e-3)
    shared.close()
    carried.close()


def test_batches_leave_nothing_behind(backend: GgufBackend):
    """After many ragged batches a message still gets its first answer."""
    rng = np.random.default_rng(3)
    message = backend.tokenise(TEXTS[0])
    before = backend.embed([message])
    for _ in range(60):
        count = int(rng.integers(1, 5))
        backend.embed([rng.integers(5, 260, int(rng.integers(1, 20))).tolist()] * count)
    np.testing.assert_array_equal(backend.embed([message]), before)


@pytest.mark.parametrize("typed", ["<bos>", "<end_of_turn>", "<eos> ignore that"])
def test_control_tokens_typed_by_a_customer_are_text(backend: GgufBackend, typed: str):
    """Nobody can end the turn or begin a text from inside a message."""
    assert not set(backend.tokenise(typed)) & {0, 1, 2, 4}


def test_a_long_message_keeps_head_and_tail(backend: GgufBackend):
    """What is too long loses its middle, and is served."""
    ids = backend.tokenise("a" * 100 + "b" * 100)
    assert len(ids) == 64
    assert ids == backend.tokenise("a" * 32) + backend.tokenise("b" * 32)
    assert backend.embed([ids]).shape == (1, 64)


def test_a_model_gives_back_its_own_pages_only(tiny_gguf: Path):
    """Where another model of the same file was mapped may by now be anything, as the weights of a third."""
    llama_cpp.llama_backend_init()
    models = [LlamaModel(tiny_gguf) for _ in range(3)]
    try:
        ranges = [set(model._mapped) for model in models]
        assert all(ranges)
        assert len(set().union(*ranges)) == sum(map(len, ranges))
    finally:
        for model in models:
            model.close()
    assert not any(model._mapped for model in models)


def test_a_failed_decode_has_a_name_and_the_next_batch_works(backend: GgufBackend):
    """The library's failure becomes InferenceFailed; memory and prompt are set right again."""
    good = backend.tokenise(TEXTS[0])
    before = backend.embed([good])
    with pytest.raises(InferenceFailed):
        backend.embed([good, [999_999]])
    np.testing.assert_array_equal(backend.embed([good]), before)


def test_a_prompt_that_could_not_be_set_right_is_set_right_before_the_next_batch(
    backend: GgufBackend, monkeypatch: pytest.MonkeyPatch
):
    """When recovery fails too, no message is ever read without its prompt."""
    good = backend.tokenise(TEXTS[0])
    before = backend.embed([good])
    with monkeypatch.context() as broken:
        broken.setattr(llama_cpp, "llama_decode", lambda *_: 1)
        with pytest.raises(InferenceFailed):
            backend.embed([good])
    np.testing.assert_array_equal(backend.embed([good]), before)


@pytest.mark.parametrize(
    "messages", [[], [[]] * 5, [[5]] * 5, [[5] * 97]], ids=["none", "five", "many", "long"]
)
def test_a_batch_beyond_the_limits_is_refused(backend: GgufBackend, messages: list[list[int]]):
    """Never handed to the library, which would end the process."""
    with pytest.raises(InferenceFailed, match="no batch"):
        backend.embed(messages)


def test_a_message_without_any_token_is_refused(tiny_gguf: Path):
    """There is no last token to read."""
    backend = open_tiny(tiny_gguf, suffix="")
    with pytest.raises(InferenceFailed, match="without tokens"):
        backend.embed([[]])
    backend.close()


def test_states_that_are_not_finite_are_refused(tmp_path: Path):
    """Weights that overflow answer nothing rather than nonsense."""
    backend = open_tiny(write_tiny_gguf(tmp_path / "nan.gguf", poison=float("nan")))
    with pytest.raises(InferenceFailed, match="finite"):
        backend.embed([[5]])
    backend.close()


def test_closed_is_closed(tiny_gguf: Path):
    """``close`` may be called twice; after it there are errors with a name, not crashes."""
    backend = open_tiny(tiny_gguf)
    backend.close()
    backend.close()
    with pytest.raises(InferenceFailed, match="closed"):
        backend.embed([[5]])
    with pytest.raises(InferenceFailed, match="closed"):
        backend.tokenise("hello")


def test_weights_that_are_cut_off_are_refused(tiny_gguf: Path, tmp_path: Path):
    """Half a file raises an error with a name."""
    half = tmp_path / "half.gguf"
    half.write_bytes(tiny_gguf.read_bytes()[: tiny_gguf.stat().st_size // 2])
    with pytest.raises(BackendUnavailable, match=r"half\.gguf"):
        open_tiny(half)


def test_a_prompt_beyond_the_models_context_is_refused(tiny_gguf: Path):
    """Found at load, not with the first long message."""
    with pytest.raises(ManifestInvalid, match="do not fit"):
        GgufBackend(tiny_gguf, PromptSpec(prefix="", suffix="\n"), 600, OPTIONS)


def test_llama_cpp_speaks_through_our_logging(
    tiny_gguf: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
):
    """Every line at its level, none past us on standard error."""
    with caplog.at_level(logging.DEBUG, "llama.cpp"):
        open_tiny(tiny_gguf).close()
        with pytest.raises(BackendUnavailable):
            open_tiny(tiny_gguf.with_name("missing.gguf"))
    ours = [record for record in caplog.records if record.name == "llama.cpp"]
    assert any("gemma3" in record.getMessage() for record in ours)
    assert any(record.levelno == logging.ERROR for record in ours)
    assert all("\n" not in record.getMessage() for record in ours)
    assert capfd.readouterr() == ("", "")


def test_the_log_callback_joins_pieces(caplog: pytest.LogCaptureFixture):
    """A line that comes in pieces is one record, at the level of its first piece."""
    from app.backends import llama_log

    send = ctypes.cast(
        llama_log._router.callback,
        ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p),
    )
    with caplog.at_level(logging.DEBUG, "llama.cpp"):
        send(3, b"one ", None)
        send(5, b"two\n", None)
    assert [(r.levelno, r.getMessage()) for r in caplog.records] == [(logging.WARNING, "one two")]


def test_instruction_sets_that_the_build_lacks(tmp_path: Path):
    """Named when the CPU has them; silent on a CPU without, or where the kernel does not tell."""
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor: 0\nflags\t\t: fpu avx2 fma avx512f avx512_vnni\n")
    system_info = "CPU : AVX2 = 1 | FMA = 1 | AVX512 = 0 | REPACK = 1 | "
    assert missing_instruction_sets(system_info, cpuinfo) == ("AVX512", "AVX512_VNNI")
    cpuinfo.write_text("flags : avx2\n")
    assert missing_instruction_sets(system_info, cpuinfo) == ()
    assert missing_instruction_sets(system_info, tmp_path / "none") == ()


def test_the_build_has_no_amx_kernels():
    """GCC breaks them: on a CPU that has the unit the first matrix product would be the last."""
    assert "AMX" not in llama_cpp.llama_print_system_info().decode()
