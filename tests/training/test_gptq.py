"""Quantising a small random model: what is checked before, and what is written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.train,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
torch = pytest.importorskip("torch")
gptq = pytest.importorskip("training.gptq")

from safetensors.torch import load_file  # noqa: E402

from app.backends.gptq_checkpoint import Checkpoint  # noqa: E402
from app.backends.torch_attention import causal  # noqa: E402
from app.backends.torch_decoder import load_decoder  # noqa: E402
from app.errors import BackendUnavailable, InputError  # noqa: E402
from tests.backends.tiny_checkpoint import AUTO_GPTQ, write_tiny_llama  # noqa: E402

IDS = torch.tensor([[1, 40, 41, 42, 43, 44, 100]])


def prompts(count: int, seed: int = 1) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [
        [1, *torch.randint(3, 259, (8 + i % 9,), generator=generator).tolist()]
        for i in range(count)
    ]


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return write_tiny_llama(tmp_path_factory.mktemp("llama") / "merged")


@pytest.fixture(scope="module")
def quantised(merged: Path) -> Path:
    out = merged.with_name("quantised")
    gptq.quantise(
        merged, prompts(48), gptq.GptqConfig(bits=4, plain=("down_proj",)), out, threads=1
    )
    return out


@pytest.mark.parametrize(
    ("widths", "expected"), [((640, 2048), 128), ((576, 1536), 64), ((96, 64), 32)]
)
def test_the_group_size_divides_every_width(widths: tuple[int, ...], expected: int):
    """The largest that does: Gemma's 640 takes 128, SmolLM2's 576 only 64."""
    named = {f"layers.0.{width}": width for width in widths}
    assert gptq.fitting_group_size(named) == expected


def test_a_group_size_that_does_not_fit_is_refused_by_name():
    """Before minutes of work: which matrix, and what would fit."""
    widths = {"layers.0.q_proj": 640, "layers.0.down_proj": 2048}
    with pytest.raises(InputError, match=r"256 columns divides the 640 of layers\.0\.q_proj; 128"):
        gptq.fitting_group_size(widths, 256)
    with pytest.raises(InputError, match="128 or 64 or 32 columns divides the 100"):
        gptq.fitting_group_size({"layers.0.q_proj": 100})


def test_the_checkpoint_is_laid_out_as_auto_gptq_lays_it_out(quantised: Path):
    """The same fields in quantize_config.json and config.json, the same tensors of the same types."""
    theirs = json.loads((AUTO_GPTQ / "quantize_config.json").read_text())
    ours = json.loads((quantised / "quantize_config.json").read_text())
    assert set(ours) == {*theirs, "checkpoint_format", "modules_in_block_to_quantize"}
    assert json.loads((quantised / "config.json").read_text())["quantization_config"] == ours
    assert (ours["bits"], ours["group_size"], ours["quant_method"]) == (4, 64, "gptq")
    expected = load_file(AUTO_GPTQ / "gptq_model-4bit-32g.safetensors")
    written = load_file(quantised / "model.safetensors")
    for part in ("qweight", "qzeros", "scales", "g_idx"):
        name = f"model.layers.0.self_attn.q_proj.{part}"
        assert written[name].dtype == expected[name].dtype
        assert written[name].ndim == expected[name].ndim
    assert {path.name for path in quantised.iterdir()} >= {"tokenizer.json", "config.json"}


def test_kinds_that_are_named_keep_16_bits(quantised: Path):
    """And are told to readers of the format, so that they look for packed weights only where some are."""
    tensors, matrices = Checkpoint(quantised).read()
    assert not any(name.endswith("down_proj") for name in matrices)
    assert tensors["layers.1.mlp.down_proj.weight"].dtype == torch.float16
    scheme = json.loads((quantised / "quantize_config.json").read_text())
    assert ["mlp.up_proj"] in scheme["modules_in_block_to_quantize"]
    assert ["mlp.down_proj"] not in scheme["modules_in_block_to_quantize"]


def test_the_states_stay_near(merged: Path, quantised: Path):
    """4 bits cost something, and not much."""
    cpu = torch.device("cpu")
    with torch.inference_mode():
        before, after = (load_decoder(d, cpu, torch.float32)(IDS)[0] for d in (merged, quantised))
    assert float(torch.cosine_similarity(before, after, dim=1).min()) > 0.95


def test_transformers_itself_reads_it(quantised: Path):
    """The public way of loading a GPTQ checkpoint gives the states that the backend gives."""
    from transformers import AutoModelForCausalLM

    with torch.compiler.set_stance("force_eager"), torch.inference_mode():
        model = AutoModelForCausalLM.from_pretrained(quantised, dtype=torch.bfloat16)
        expected = model.model(IDS).last_hidden_state.float()
        given = load_decoder(quantised, torch.device("cpu"), torch.float32)(IDS)
    assert float((given - expected).norm() / expected.norm()) < 0.05


def test_attention_with_a_soft_cap_is_refused():
    """No supported base has one, and leaving it out would only look right."""
    states = torch.zeros(1, 1, 2, 4)
    with pytest.raises(BackendUnavailable, match="soft cap"):
        causal(None, states, states, states, None, softcap=30.0)
