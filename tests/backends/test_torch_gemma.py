"""Gemma in few steps: what ``transformers`` computes, from the same files, packed or not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

pytestmark = pytest.mark.train
torch = pytest.importorskip("torch")

from safetensors.torch import load_file, save_file  # noqa: E402

from app.backends import gptq_kernels, torch_gemma, torch_steps, torch_unpacking  # noqa: E402
from app.backends.gptq_checkpoint import QuantisedMatrix, pack  # noqa: E402
from app.backends.torch_decoder import load_decoder  # noqa: E402
from app.backends.torch_gemma import Angles, joined, prove_steps  # noqa: E402
from app.errors import FileDamaged  # noqa: E402
from tests.backends.tiny_checkpoint import write_tiny_gemma  # noqa: E402

CPU = torch.device("cpu")
IDS = torch.arange(5, 65).view(2, 30)


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gemma(tmp_path_factory.mktemp("gemma"))


def packed(name: str, weight: torch.Tensor, group: int, *, mixed: bool) -> QuantisedMatrix:
    """A weight rounded to 8 bits around the middle."""
    rows, columns = weight.shape
    order = torch.arange(columns)
    if mixed:
        order = torch.randperm(columns, generator=torch.Generator().manual_seed(sum(name.encode())))
    group_of = (torch.argsort(order) // group).to(torch.int32)
    scales = torch.stack(
        [weight[:, group_of == g].abs().amax(1) / 127 for g in range(columns // group)]
    ).half()
    codes = (weight / scales.float()[group_of.long()].T).round().clamp(-127, 127).long() + 128
    zeros = torch.full((columns // group, rows), 128)
    return QuantisedMatrix(
        8, pack(codes, 8).T.contiguous(), pack(zeros - 1, 8), scales, group_of, None
    )


@pytest.fixture
def quantised(gemma: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """The same in GPTQ's files; ``mixed`` orders the columns of each matrix in its own way."""
    tensors = load_file(gemma / "model.safetensors")
    stored = {}
    for name, tensor in tensors.items():
        if "_proj" not in name:
            stored[name] = tensor
            continue
        module = name.removesuffix(".weight")
        matrix = packed(module, tensor, 32, mixed=request.param)
        for part in ("qweight", "qzeros", "scales"):
            stored[f"{module}.{part}"] = getattr(matrix, part)
        stored[f"{module}.g_idx"] = matrix.group_of
    save_file(stored, tmp_path / "model.safetensors")
    config = json.loads((gemma / "config.json").read_text())
    config["quantization_config"] = {"bits": 8, "group_size": 32, "quant_method": "gptq"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


def states_of(directory: Path, *, joined: bool) -> torch.Tensor:
    with torch.inference_mode():
        return load_decoder(directory, CPU, torch.float32, joined=joined)(IDS)


def test_plain_weights_give_what_transformers_computes(gemma: Path):
    torch.testing.assert_close(states_of(gemma, joined=True), states_of(gemma, joined=False))


@pytest.mark.parametrize("quantised", [False, True], indirect=True)
def test_packed_weights_give_what_transformers_computes(quantised: Path):
    """Whether three matrices could be made one, or stay three because their columns are mixed."""
    together, apart = (states_of(quantised, joined=j) for j in (True, False))
    torch.testing.assert_close(together, apart, atol=1e-4, rtol=1e-4)


class Unpacked(torch.nn.Module):
    """Multiplies by the plain weights that it is given, else by its own; counts how often."""

    ready = 0

    def __init__(self, matrix: QuantisedMatrix, dtype: torch.dtype, _device: torch.device) -> None:
        super().__init__()
        self.plain: torch.Tensor | None = None
        self.register_buffer("own", matrix.dense().to(dtype))
        self.register_buffer("codes", (matrix.codes().to(torch.int16) - 128).to(torch.int8))
        self.register_buffer("row_scales", matrix.scales.T.contiguous())

    @staticmethod
    def unpack(codes: torch.Tensor, scales: torch.Tensor, out: torch.Tensor) -> None:
        out.copy_((codes.view(len(scales), -1) * scales[:, None].float()).flatten())

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        Unpacked.ready += self.plain is not None
        return states @ (self.own if self.plain is None else self.plain).T


@pytest.mark.parametrize("quantised", [False], indirect=True)
@pytest.mark.parametrize(("rows", "narrow", "ready"), [(1, 16, 0), (1, 32, 12), (4, 16, 12)])
def test_many_states_meet_plain_weights(
    quantised: Path, monkeypatch: pytest.MonkeyPatch, rows: int, narrow: int, ready: int
):
    """Four matrices in each of three layers, whether beside other steps or before each layer.

    With groups as narrow as these, of 32, few states do too.
    """
    monkeypatch.setattr(torch_unpacking, "NARROW", narrow)
    ids = torch.arange(5, 35).expand(rows, 30)
    with torch.inference_mode():
        expected = load_decoder(quantised, CPU, torch.float32)(ids)
        monkeypatch.setattr(gptq_kernels, "KERNELS", {"unpacked": Unpacked})
        decoder = load_decoder(quantised, CPU, torch.float32, "unpacked")
        monkeypatch.setattr(Unpacked, "ready", 0)
        torch.testing.assert_close(decoder(ids), expected, atol=1e-5, rtol=1e-5)
        assert Unpacked.ready == ready
        together = decoder(ids)
        monkeypatch.setattr(decoder.module._unpacking, "beside", False)
        assert torch.equal(decoder(ids), together)


@pytest.mark.parametrize(("quantised", "sides"), [(False, 0), (True, 6)], indirect=["quantised"])
def test_matrices_are_joined_where_they_read_the_same_columns(
    quantised: Path, sides: int, monkeypatch: pytest.MonkeyPatch
):
    """Four for seven in each of three layers, made plain always; packed unless their columns are mixed."""
    assert [_kinds(quantised).count(kind) for kind in ("DenseLinear", "Side")] == [12, 0]
    monkeypatch.setattr("app.backends.gptq_kernels.KERNELS", {"dense": Unpacked})
    count = 12 + 3 * sides // 2
    assert [_kinds(quantised).count(kind) for kind in ("Unpacked", "Side")] == [count, sides]


def _kinds(directory: Path) -> list[str]:
    decoder = load_decoder(directory, CPU, torch.float32)
    return [type(module).__name__ for module in decoder.module.modules()]


def test_rows_of_joined_matrices_are_those_of_the_parts():
    weights = [torch.randn(rows, 64) for rows in (8, 4, 4)]
    names = ("q_proj", "k_proj", "v_proj")
    parts = {
        f"layers.0.self_attn.{name}": replace(
            packed(name, weight, 32, mixed=False), bias=torch.ones(8) if name == "q_proj" else None
        )
        for name, weight in zip(names, weights, strict=True)
    }
    parts["layers.0.self_attn.o_proj"] = packed("o_proj", torch.randn(64, 32), 32, mixed=False)
    found = joined(parts)
    assert set(found) == {"layers.0.self_attn.qkv_proj", "layers.0.self_attn.o_proj"}
    whole = found["layers.0.self_attn.qkv_proj"]
    expected = torch.cat([parts[f"layers.0.self_attn.{name}"].dense() for name in names])
    torch.testing.assert_close(whole.dense(), expected)
    assert whole.bias is not None
    assert whole.bias.tolist() == [1.0] * 8 + [0.0] * 8


@pytest.mark.parametrize(
    ("name", "said"), [("norm.weight", "norm.weight is nothing"), (None, "no place for extra")]
)
def test_a_checkpoint_that_is_not_whole_is_refused(
    gemma: Path, tmp_path: Path, name: str | None, said: str
):
    tensors = load_file(gemma / "model.safetensors")
    if name:
        del tensors[name]
    else:
        tensors["extra"] = torch.ones(3)
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes((gemma / "config.json").read_bytes())
    with pytest.raises(FileDamaged, match=said):
        load_decoder(tmp_path, CPU, torch.float32)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model_type", "llama"),
        ("attn_logit_softcapping", 50.0),
        ("rope_parameters", {"full_attention": {"rope_type": "linear", "factor": 8.0}}),
    ],
)
def test_what_is_not_computed_here_is_left_to_transformers(gemma: Path, field: str, value: object):
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(gemma)
    assert torch_gemma.fits(config)
    changed = SimpleNamespace(**{**vars(config), "model_type": config.model_type, field: value})
    assert not torch_gemma.fits(changed)


def test_tables_of_angles_stay_where_they_are():
    """A recorded graph goes on reading them after a longer row has come."""
    angles = Angles(1e4, 8)
    before = [part.data_ptr() for part in angles.of(10, CPU)]
    longer = angles.of(100, CPU)
    assert [part.data_ptr() for part in angles.of(9, CPU)] == before
    assert longer[0].shape == (100, 4)
    torch.testing.assert_close(longer[0][:10], angles.of(10, CPU)[0])


def test_steps_that_compute_something_else_are_found():
    """A compiler's mistake must not become a wrong answer."""
    prove_steps(torch_steps, CPU, torch.bfloat16)
    wrong = SimpleNamespace(
        **{**vars(torch_steps), "gate": lambda both, _: both.chunk(2, dim=-1)[0]}
    )
    with pytest.raises(ValueError, match="the step gate is wrong"):
        prove_steps(wrong, CPU, torch.float32)  # type: ignore[arg-type]


def test_steps_that_do_not_unpack_their_share_are_found():
    lazy = SimpleNamespace(
        **{**vars(torch_steps), "begin": lambda *given: torch_steps.begin(*given[:4])}
    )
    with pytest.raises(ValueError, match="the step begin is wrong"):
        prove_steps(lazy, CPU, torch.float32)  # type: ignore[arg-type]


def test_parts_of_a_branch_are_added_up():
    states, parts = torch.randn(2, 3, 8), torch.randn(4, 2, 3, 8)
    norms = torch.randn(8), torch.randn(8)
    together = torch_steps.join(states, parts.sum(0), *norms, 1e-6)
    for one, other in zip(torch_steps.join(states, parts, *norms, 1e-6), together, strict=True):
        torch.testing.assert_close(one, other)
