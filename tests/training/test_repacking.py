"""The numbers that a CPU serves, packed for GPUs: nothing about them may change."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytestmark = [
    pytest.mark.train,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
torch = pytest.importorskip("torch")
repacking = pytest.importorskip("training.repacking")

from gguf import GGMLQuantizationType  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

from app.backends.gguf_quantise import dequantise, quantise  # noqa: E402
from app.backends.gptq_checkpoint import Checkpoint, QuantisedMatrix  # noqa: E402
from tests.training.tiny_checkpoints import write_tiny_llama  # noqa: E402
from training.gptq import GptqConfig  # noqa: E402
from training.hf_gguf import write_checkpoint  # noqa: E402

RNG = np.random.default_rng(1)


def matrix(codes: np.ndarray, scales: np.ndarray) -> np.ndarray:
    parts = repacking.packed(codes, scales)
    read = QuantisedMatrix(
        8, parts["qweight"], parts["qzeros"], parts["scales"], parts["g_idx"], bias=None
    )
    return read.dense().numpy()


@pytest.mark.parametrize("kind", ["Q8_0", "IQ4_NL"])
def test_numbers_stay_the_same(kind: str):
    """What a reader of the checkpoint unpacks is what llama.cpp unpacks, to the last bit."""
    stored = quantise(RNG.normal(size=(24, 96)), GGMLQuantizationType[kind])
    packed = matrix(*repacking.split_blocks(stored, GGMLQuantizationType[kind]))
    assert np.array_equal(packed, dequantise(stored, GGMLQuantizationType[kind]))


@pytest.mark.parametrize("kind", ["F16", "Q4_K"])
def test_other_types_are_stored_in_eight_bits(kind: str):
    """Nearer than a hundredth of each block's largest number."""
    stored = quantise(RNG.normal(size=(8, 256)), GGMLQuantizationType[kind])
    before = dequantise(stored, GGMLQuantizationType[kind])
    packed = matrix(*repacking.split_blocks(stored, GGMLQuantizationType[kind]))
    most = (
        np.abs(before).reshape(8, -1, repacking.BLOCK).max(axis=2).repeat(repacking.BLOCK, axis=1)
    )
    assert np.all(np.abs(packed - before) <= 0.01 * most)


def test_rows_of_turned_heads_come_back(tmp_path: Path):
    """A Llama's query rows lie elsewhere in GGUF files; the checkpoint has them where they were."""
    torch.set_num_threads(1)
    merged = write_tiny_llama(tmp_path / "llama")
    write_checkpoint(merged, tmp_path / "llama.gguf")
    config = GptqConfig(repacked=True)
    repacking.repack(tmp_path / "llama.gguf", merged, config, tmp_path / "repacked")
    before = load_file(merged / "model.safetensors")
    tensors, matrices = Checkpoint(tmp_path / "repacked").read()
    assert len(matrices) == 3 * 7
    for name, packed in matrices.items():
        wanted = before[f"model.{name}.weight"]
        assert torch.allclose(packed.dense(), wanted.float(), atol=0.01 * float(wanted.abs().max()))
    assert torch.equal(tensors["norm.weight"], before["model.norm.weight"].half())
