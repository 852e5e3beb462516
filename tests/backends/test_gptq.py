"""The GPTQ backend on a CPU: what it computes, with which kernels, and what it does when things fail."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = [
    pytest.mark.train,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
torch = pytest.importorskip("torch")

from app import metrics  # noqa: E402
from app.artifacts.manifest import PromptSpec  # noqa: E402
from app.backends.base import BackendOptions  # noqa: E402
from app.backends.gptq import GptqBackend  # noqa: E402
from app.backends.gptq_kernels import (  # noqa: E402
    KERNELS,
    DenseLinear,
    HalfLinear,
    Int4Linear,
    choose_kernel,
)
from app.backends.torch_decoder import load_decoder  # noqa: E402
from app.backends.torch_embedding import Embedding  # noqa: E402
from app.errors import (  # noqa: E402
    BackendUnavailable,
    FileDamaged,
    InferenceFailed,
    ManifestInvalid,
)
from app.main import backend_options  # noqa: E402
from app.settings import Settings  # noqa: E402
from tests.backends.test_gptq_checkpoint import random_matrix  # noqa: E402
from tests.backends.tiny_checkpoint import (  # noqa: E402
    AUTO_GPTQ,
    write_tiny_gemma,
    write_tiny_llama,
)

OPTIONS = BackendOptions(threads=1, max_sequences=4, max_tokens=96, max_prefix_tokens=64)
CPU = torch.device("cpu")


def open_backend(checkpoint: Path = AUTO_GPTQ, **given: Any) -> GptqBackend:
    prompt = PromptSpec(prefix=given.pop("prefix", ""), suffix=given.pop("suffix", "\n"))
    return GptqBackend(checkpoint, prompt, given.pop("longest", 64), OPTIONS, **given)


@pytest.fixture
def backend() -> Iterator[GptqBackend]:
    backend = open_backend()
    yield backend
    backend.close()


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("llama") / "plain")


def test_a_checkpoint_of_auto_gptq_gives_the_states_of_its_own_reader():
    """What auto-gptq 0.7.1 quantised, saved and read is computed alike here, five years on."""
    expected = json.loads((AUTO_GPTQ / "expected.json").read_text())
    decoder = load_decoder(AUTO_GPTQ, CPU, torch.float32)
    for row, states in zip(expected["rows"], expected["states"], strict=True):
        with torch.inference_mode():
            given = decoder(torch.tensor([row]))[0, -1]
        np.testing.assert_allclose(given.numpy(), states, atol=1e-4)


def test_unquantised_weights_give_what_transformers_computes(llama: Path):
    """The same code is the 16-bit baseline: weights in their places, attention as it should be."""
    from transformers import AutoModel

    ids = torch.tensor([[1, 40, 41, 42, 43, 44]])
    with torch.inference_mode():
        expected = AutoModel.from_pretrained(llama, dtype=torch.float32)(ids).last_hidden_state
        decoder = load_decoder(llama, CPU, torch.float32)
        torch.testing.assert_close(decoder(ids), expected, atol=1e-4, rtol=1e-4)
    assert decoder.kernel == "unquantised"


@pytest.mark.parametrize("joined", [True, False])
def test_a_sliding_window_is_kept(tmp_path: Path, joined: bool):
    """Beyond the window a token is not seen: as transformers masks it."""
    from transformers import Gemma3TextModel

    model = Gemma3TextModel.from_pretrained(write_tiny_gemma(tmp_path), dtype=torch.float32)
    ids = torch.randint(5, 300, (2, 30))
    with torch.inference_mode():
        expected = model(ids).last_hidden_state
        given = load_decoder(tmp_path, CPU, torch.float32, joined=joined)(ids)
    torch.testing.assert_close(given, expected, atol=1e-4, rtol=1e-4)


def test_states_its_limits(backend: GptqBackend):
    """A caller learns from ``info`` what the backend takes."""
    info = backend.info
    assert (info.kind, info.hidden_size, info.max_sequences) == ("gptq", 64, 4)
    assert (info.max_tokens, info.max_message_tokens, info.max_prefix_tokens) == (96, 64, 64)


def test_padding_and_neighbours_change_nothing(backend: GptqBackend):
    """In float32 a row is the same alone, padded, and among longer ones, to the sixth digit."""
    messages = [backend.tokenise(text) for text in ("where?", "ok", "a" * 40, "i send it back")]
    alone = np.concatenate([backend.embed([message]) for message in messages])
    np.testing.assert_allclose(backend.embed(messages), alone, atol=1e-5)
    np.testing.assert_allclose(backend.embed(messages[::-1]), alone[::-1], atol=1e-5)


def test_the_prompt_stands_around_the_message():
    """Prefix and suffix are as if the message carried them."""
    with_prompt, without = open_backend(prefix="where "), open_backend(suffix="")
    np.testing.assert_allclose(
        with_prompt.embed([with_prompt.tokenise("is it")]),
        without.embed([without.tokenise("where is it\n")]),
        atol=1e-5,
    )
    with_prompt.close()
    without.close()


@pytest.mark.parametrize("typed", ["<s>", "</s> ignore that", "<unk>"])
def test_control_tokens_typed_by_a_customer_are_text(backend: GptqBackend, typed: str):
    """Nobody can begin or end a text from inside a message."""
    assert not set(backend.tokenise(typed)) & {0, 1, 2}


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize(("kernel", "dtype"), [("int4", "float32"), ("torch", "bfloat16")])
def test_kernels_multiply_alike(kernel: str, dtype: str, mixed: bool):
    """Each against the plain weights, with groups side by side or not; the choice proves it too."""
    matrix, weights = random_matrix(32, 128, 32, mixed=mixed)
    precision = getattr(torch, dtype)
    states = torch.randn(3, 5, 128, generator=torch.Generator().manual_seed(2)).to(precision)
    # gptqmodel has its own compiled first, for a minute; it computes the same without.
    with torch.compiler.set_stance("force_eager"), torch.inference_mode():
        name, build = choose_kernel([matrix], precision, CPU, kernel)
        given = build(matrix, precision, CPU)(states).float()
    expected = states.float() @ weights.T
    assert name == kernel
    assert given.shape == expected.shape
    assert float((given - expected).norm() / expected.norm()) < 0.02


def test_the_next_kernel_is_taken_and_the_choice_is_logged(caplog: pytest.LogCaptureFixture):
    """A kernel that computes something else is not believed."""
    matrix, _ = random_matrix(32, 128, 32)

    class Wrong(Int4Linear):
        def forward(self, states: Any) -> Any:
            return super().forward(states) * 1.1

    with pytest.MonkeyPatch.context() as patch, caplog.at_level(logging.INFO):
        patch.setattr("app.backends.gptq_kernels.PREFERRED", {"cpu": ("int4", "dense")})
        patch.setattr(
            "app.backends.gptq_kernels.KERNELS",
            {"int4": Wrong, "dense": _dense()},
        )
        assert choose_kernel([matrix], torch.float32, CPU)[0] == "dense"
    assert "the kernel int4 is not used: wrong by 10.0% on a matrix of 32 x 128" in caplog.messages
    assert "the kernel dense multiplies by 1 matrices" in caplog.messages


def test_weights_that_fit_are_made_plain(monkeypatch: pytest.MonkeyPatch):
    """A kernel that multiplies packed weights is for those that do not."""
    matrix, _ = random_matrix(32, 128, 32)
    monkeypatch.setattr("app.backends.gptq_kernels.PREFERRED", {"cpu": ("int4", "dense")})

    def chosen(plain_bytes: int, name: str | None = None) -> str:
        return choose_kernel([matrix, matrix], torch.float32, CPU, name, plain_bytes)[0]

    enough = 2 * 32 * 128 * 4
    assert (chosen(enough), chosen(enough - 1), chosen(enough, "int4")) == ("dense", "int4", "int4")
    without = {name: build for name, build in KERNELS.items() if name != "dense"}
    monkeypatch.setattr("app.backends.gptq_kernels.KERNELS", {**without, "dense": _no_room})
    assert chosen(enough) == "int4"


@pytest.mark.parametrize(("megabytes", "kernel"), [(1, "dense"), (0, "int4")])
def test_an_operator_says_how_much_is_made_plain(
    megabytes: int, kernel: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr("app.backends.gptq_kernels.PREFERRED", {"cpu": ("int4", "dense")})
    options = backend_options(Settings(gpu_plain_mb=megabytes, threads=1))
    with caplog.at_level(logging.INFO):
        prompt = PromptSpec(prefix="", suffix="\n")
        GptqBackend(AUTO_GPTQ, prompt, 64, options).close()
    assert any(message.startswith(f"the kernel {kernel} multiplies") for message in caplog.messages)


def _no_room(*_: object) -> Any:
    raise torch.OutOfMemoryError


def _dense() -> Any:
    from app.backends.gptq_kernels import KERNELS

    return KERNELS["dense"]


@pytest.mark.parametrize("kernel", ["marlin", "exllama_v2", "triton", "no such"])
def test_a_named_kernel_that_does_not_load_is_an_error(kernel: str):
    """What was asked for is not silently replaced."""
    with pytest.raises(BackendUnavailable, match=kernel):
        open_backend(kernel=kernel)


def test_a_batch_that_does_not_fit_is_computed_in_halves(
    backend: GptqBackend, monkeypatch: pytest.MonkeyPatch
):
    """Out of memory is answered by a smaller batch, with the same states, and counted."""
    messages = [backend.tokenise(text) for text in ("one", "two", "three", "four")]
    before = backend.embed(messages)
    counted = metrics.REGISTRY.get_sample_value("intent_out_of_memory_total")
    narrow(backend, monkeypatch, rows=1)
    np.testing.assert_allclose(backend.embed(messages), before, atol=1e-5)
    assert metrics.REGISTRY.get_sample_value("intent_out_of_memory_total") == counted + 3


def test_a_message_that_does_not_fit_fails_alone(
    backend: GptqBackend, monkeypatch: pytest.MonkeyPatch
):
    """Then there is nothing to halve: an error with a name, and the backend serves on."""
    with monkeypatch.context() as patch:
        narrow(backend, patch, rows=0)
        with pytest.raises(InferenceFailed, match="does not fit into memory"):
            backend.embed([backend.tokenise("one")])
    assert backend.embed([backend.tokenise("one")]).shape == (1, 64)


def narrow(backend: GptqBackend, patch: pytest.MonkeyPatch, rows: int) -> None:
    """Let the memory hold only so many rows."""
    runner = backend._runner

    def run(ids: Any) -> Any:
        if len(ids) > rows:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return runner(ids)

    patch.setattr(backend, "_runner", run)


def test_states_that_are_not_finite_are_refused(
    backend: GptqBackend, monkeypatch: pytest.MonkeyPatch
):
    """Weights that overflow answer nothing rather than nonsense."""
    runner: Callable[[Any], Any] = backend._runner
    monkeypatch.setattr(backend, "_runner", lambda ids: runner(ids) * float("inf"))
    with pytest.raises(InferenceFailed, match="finite"):
        backend.embed([[5]])


@pytest.mark.parametrize("token", [-1, 259, 999_999])
def test_a_token_that_the_model_has_not_is_refused(backend: GptqBackend, token: int):
    """Before it reaches a GPU, which would not compute anything any more."""
    with pytest.raises(InferenceFailed, match="does not have"):
        backend.embed([[5], [token]])


def test_what_the_library_raises_gets_a_name(backend: GptqBackend, monkeypatch: pytest.MonkeyPatch):
    """No bare RuntimeError leaves the backend, and it says what was being done."""

    def broken(_ids: Any) -> Any:
        raise RuntimeError("an illegal memory access")

    monkeypatch.setattr(backend, "_runner", broken)
    with pytest.raises(InferenceFailed, match="torch failed while computing 1 messages"):
        backend.embed([[5]])


def test_closed_is_closed():
    """``close`` may be called twice; after it there are errors with a name."""
    backend = open_backend()
    backend.close()
    backend.close()
    with pytest.raises(InferenceFailed, match="closed"):
        backend.embed([[5]])
    with pytest.raises(InferenceFailed, match="closed"):
        backend.tokenise("hello")


def test_a_prompt_beyond_the_models_context_is_refused():
    """Found at load, not with the first long message."""
    with pytest.raises(ManifestInvalid, match="do not fit"):
        open_backend(longest=300)


def test_a_checkpoint_that_lacks_a_tensor_is_refused(tmp_path: Path):
    """Nothing random is served in its place."""
    from safetensors.torch import load_file, save_file

    copy = Path(shutil.copytree(AUTO_GPTQ, tmp_path / "copy"))
    path = copy / "gptq_model-4bit-32g.safetensors"
    tensors = load_file(path)
    norm = tensors.pop("model.norm.weight")
    save_file(tensors, path)
    with pytest.raises(FileDamaged, match=r"norm\.weight is nothing"):
        open_backend(copy)
    save_file({**tensors, "model.norm.weight": norm, "model.extra": norm.clone()}, path)
    with pytest.raises(FileDamaged, match="no place for extra"):
        open_backend(copy)


def test_an_embedding_table_of_bytes_is_kept_in_bytes():
    """Tables that came from 8-bit codes take half of 16 bits, and give the same; others stay."""
    generator = torch.Generator().manual_seed(4)
    codes = torch.randint(-127, 128, (50, 2, 32), generator=generator)
    codes[:, :, 0] = 127
    scales = torch.rand(50, 2, 1, generator=generator).half().float() * 0.01
    table = torch.nn.Embedding.from_pretrained((codes * scales).flatten(1).half())
    ids = torch.tensor([[3, 49, 3]])
    kept = Embedding.in_bytes(table.weight, torch.float32)
    torch.testing.assert_close(kept(ids), table(ids).float(), atol=1e-5, rtol=2e-3)
    assert sum(buffer.nbytes for buffer in kept.buffers()) < 0.6 * table.weight.nbytes
    with pytest.raises(ValueError, match="not made of 8-bit codes"):
        Embedding.in_bytes(torch.randn(50, 64), torch.float32)


def test_a_table_of_bytes_stays_one_in_a_model_of_bfloat16(tmp_path: Path):
    """bfloat16 rounds the numbers off the grid of their codes: it must be looked for before."""
    from safetensors.torch import load_file, save_file

    copy = shutil.copytree(AUTO_GPTQ, tmp_path / "copy")
    (path,) = copy.glob("*.safetensors")
    tensors = load_file(path)
    name = "model.embed_tokens.weight"
    count, hidden = tensors[name].shape
    codes = torch.randint(-127, 128, (count, hidden // 32, 32))
    codes[:, :, 0] = 127
    # Far above the least of float16.
    scales = torch.rand(count, hidden // 32, 1) * 0.01 + 0.002
    tensors[name] = (codes * scales).flatten(1).half()
    save_file(tensors, path)
    decoder = load_decoder(copy, torch.device("cpu"), torch.bfloat16)
    kept = decoder.module.inner.get_input_embeddings()  # type: ignore[union-attr]
    assert isinstance(kept, Embedding)
    assert kept.rows.dtype == torch.int8
    ids = torch.arange(count)
    torch.testing.assert_close(kept(ids), tensors[name].bfloat16(), atol=1e-5, rtol=1e-2)


def test_a_kernel_of_float16_serves_a_model_of_bfloat16_beyond_its_own_range():
    weight = torch.full((3, 64), 40.0)
    states = torch.full((2, 64), 60.0, dtype=torch.bfloat16)
    bias = torch.tensor([1024.0, 0.0, -1024.0], dtype=torch.bfloat16)
    expected = states.float() @ weight.T + bias.float()
    assert expected.max() > torch.finfo(torch.float16).max
    inner = DenseLinear(weight.half(), None)
    given = HalfLinear(inner, bias)(states)
    assert given.dtype == torch.bfloat16
    torch.testing.assert_close(given.float(), expected, rtol=1e-2, atol=1.0)
