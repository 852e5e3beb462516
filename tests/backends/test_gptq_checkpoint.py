from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

pytestmark = pytest.mark.train
torch = pytest.importorskip("torch")

from app.backends.gptq_checkpoint import Checkpoint, QuantisedMatrix, pack  # noqa: E402
from app.errors import FileDamaged, ManifestInvalid  # noqa: E402
from tests.backends.tiny_checkpoint import AUTO_GPTQ  # noqa: E402


def random_matrix(
    rows: int, columns: int, group: int, *, mixed: bool = False, plain_zeros: bool = False
) -> tuple[QuantisedMatrix, torch.Tensor]:
    """A matrix in GPTQ's layout, and the plain weights that it stands for."""
    generator = torch.Generator().manual_seed(rows + columns)
    codes = torch.randint(0, 16, (rows, columns), generator=generator)
    zeros = torch.randint(1, 16, (columns // group, rows), generator=generator)
    scales = torch.rand(columns // group, rows, generator=generator).half() + 0.01
    group_of = torch.arange(columns, dtype=torch.int32) // group
    if mixed:
        group_of = group_of[torch.randperm(columns, generator=generator)]
    matrix = QuantisedMatrix(
        bits=4,
        qweight=pack(codes, 4).T.contiguous(),
        qzeros=pack(zeros if plain_zeros else zeros - 1, 4),
        scales=scales,
        group_of=group_of,
        bias=None,
        plain_zeros=plain_zeros,
    )
    place = group_of.long()
    return matrix, (codes - zeros[place].T) * scales.float()[place].T


@pytest.mark.parametrize("plain_zeros", [False, True])
@pytest.mark.parametrize("mixed", [False, True])
def test_codes_zeros_and_groups_are_read_as_they_were_written(mixed: bool, plain_zeros: bool):
    """Both layouts of zero points, groups side by side or not."""
    matrix, weights = random_matrix(24, 64, 16, mixed=mixed, plain_zeros=plain_zeros)
    assert (matrix.rows, matrix.columns, matrix.group_size) == (24, 64, 16)
    torch.testing.assert_close(matrix.dense(), weights)
    assert matrix.in_order is not mixed


def test_columns_brought_into_the_order_of_their_groups():
    """The same product, with states in that order too."""
    matrix, weights = random_matrix(16, 64, 16, mixed=True)
    ordered, order = matrix.in_group_order()
    assert order is not None
    assert ordered.in_order
    torch.testing.assert_close(ordered.dense(), weights[:, order])
    assert ordered.in_group_order() == (ordered, None)


def test_a_checkpoint_of_auto_gptq_is_read():
    """File name, config and tensors as auto-gptq 0.7.1 wrote them, its empty biases included."""
    checkpoint = Checkpoint(AUTO_GPTQ)
    tensors, matrices = checkpoint.read()
    assert len(matrices) == 7
    assert matrices["layers.0.mlp.down_proj"].group_size == 32
    assert not matrices["layers.0.mlp.down_proj"].in_order
    assert all(matrix.bias is None for matrix in matrices.values())
    assert {"embed_tokens.weight", "norm.weight"} <= set(tensors)
    assert not any("lm_head" in name or "bias" in name for name in tensors)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(AUTO_GPTQ, tmp_path / "copy"))


@pytest.mark.parametrize(
    "change",
    [
        {"bits": 3},
        {"bits": "4"},
        {"quant_method": "awq"},
        {"checkpoint_format": "marlin"},
        {"is_marlin_format": True},
        {"group_size": None},
    ],
)
def test_other_quantisations_are_refused(copy: Path, change: dict[str, object]):
    """By name, at load; never read as something they are not."""
    path = copy / "quantize_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ManifestInvalid, match="only GPTQ weights"):
        Checkpoint(copy)


def test_the_scheme_may_stand_in_the_models_config(copy: Path):
    """As transformers writes it, without a file of its own."""
    (copy / "quantize_config.json").unlink()
    assert len(Checkpoint(copy).read()[1]) == 7


def test_packed_weights_without_a_scheme_are_refused(copy: Path):
    """Nobody guesses bits and groups."""
    (copy / "quantize_config.json").unlink()
    path = copy / "config.json"
    config = json.loads(path.read_text())
    del config["quantization_config"]
    path.write_text(json.dumps(config))
    with pytest.raises(ManifestInvalid, match="how it was quantised"):
        Checkpoint(copy).read()


@pytest.mark.parametrize("damage", ["cut", "none", "part", "groups"])
def test_damaged_tensors_are_refused(copy: Path, damage: str):
    """Cut off, not there, a part missing, groups beyond the last one."""
    from safetensors.torch import load_file, save_file

    path = copy / "gptq_model-4bit-32g.safetensors"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:50_000])
    elif damage == "none":
        path.unlink()
    else:
        tensors = load_file(path)
        if damage == "part":
            del tensors["model.layers.0.mlp.up_proj.scales"]
        else:
            tensors["model.layers.0.mlp.up_proj.g_idx"][5] = 99
        save_file(tensors, path)
    with pytest.raises(FileDamaged):
        Checkpoint(copy).read()
