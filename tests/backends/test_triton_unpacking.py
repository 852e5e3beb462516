"""Weights that Triton unpacks beside other steps: the same to the last bit, and so are the states."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.backends.tiny_checkpoint import write_tiny_gemma

pytestmark = [
    pytest.mark.train,
    pytest.mark.skipif(
        not find_spec("triton"), reason="Triton is not installed: it comes with CUDA's torch"
    ),
]

STEPS = """
import torch
from app.backends import torch_steps, triton_steps
from app.backends.gptq_triton import ByteLinear
from app.backends.torch_gemma import Angles
from app.backends.torch_steps import Share, Table

torch.manual_seed(1)
kind = torch.bfloat16
wide, branch = torch.randn(3, 5, 96).to(kind), torch.randn(3, 5, 96).to(kind)
angles, norms = Angles(1e4, 32).of(5, torch.device("cpu")), (torch.randn(32), torch.randn(32))
ids = torch.randint(0, 7, (3, 5))
rows = torch.randint(-127, 128, (7, 96), dtype=torch.int8)
calls = {
    "begin": (ids, Table(torch.randn(7, 96).to(kind), None, 9.5, kind), torch.randn(96), 1e-6),
    "begin of codes": (ids, Table(rows, torch.rand(7, 3).half(), 9.5, kind), torch.randn(96), 1e-6),
    "join": (wide, branch, torch.randn(96), torch.randn(96), 1e-6),
    "turn": (torch.randn(3, 5, 192).to(kind), norms, angles, (4, 1), 1e-6),
    "gate": (torch.randn(3, 5, 4000).to(kind),),
}


def several(found):
    return found if isinstance(found, tuple) else (found,)


for group in (32, 64, 96, 128):
    count = group * 77  # more than one program, and the last is not full
    codes = torch.randint(-128, 128, (count,), dtype=torch.int8)
    scales, around = torch.rand(77).half(), torch.full((count + 64,), torch.nan).to(kind)
    exact, rounded = torch.empty(count), torch.empty(count, dtype=kind)
    expected = Share(codes, scales, torch.empty(count))
    torch_steps.unpack(expected)
    ByteLinear.unpack(codes, scales, exact)
    assert torch.equal(exact, expected.plain)
    ByteLinear.unpack(codes, scales, rounded)  # the interpreter rounds in a way of its own
    for name, given in calls.items():
        share = Share(codes, scales, around.fill_(torch.nan)[32:-32])
        with_it = several(getattr(triton_steps, name.split()[0])(*given, share))
        without = several(getattr(triton_steps, name.split()[0])(*given))
        assert all(map(torch.equal, with_it, without)), name
        assert torch.equal(share.plain, rounded), (name, group)
        assert around[:32].isnan().all() and around[-32:].isnan().all(), name
print("all alike")
"""
PASSES = """
import sys
import torch
from safetensors.torch import load_file
from transformers import AutoConfig
from app.backends import triton_steps
from app.backends.gptq_triton import triton_linear
from app.backends.torch_embedding import Embedding
from app.backends.torch_gemma import Gemma, Tensors, joined
from tests.backends.test_torch_gemma import packed

stored = load_file(sys.argv[1] + "/model.safetensors")
names = [name.removesuffix(".weight") for name in stored if "_proj" in name]
matrices = {name: packed(name, stored.pop(name + ".weight"), 32, mixed=False) for name in names}
kind, cpu = torch.bfloat16, torch.device("cpu")
linears = {name: triton_linear(m, kind, cpu) for name, m in joined(matrices).items()}
embedding = Embedding(stored.pop("embed_tokens.weight"), kind, 8.0)
config = AutoConfig.from_pretrained(sys.argv[1])
model = Gemma(config, Tensors(stored, "tiny"), linears, embedding, kind, triton_steps)
ids = torch.randint(0, 300, (4, 25), generator=torch.Generator().manual_seed(1))
with torch.inference_mode():
    model._unpacking.beside = False
    apart = model(ids)
    assert torch.isfinite(apart).all()
    model._unpacking.beside = True
    model.room.fill_(torch.nan)
    assert torch.equal(model(ids), apart)
print("all alike")
"""


@pytest.mark.parametrize("code", [STEPS, PASSES], ids=["steps", "passes"])
def test_unpacking_beside_changes_nothing(code: str, tmp_path: Path):
    """In its interpreter: each step with groups of several sizes, and whole passes."""
    ran = subprocess.run(
        [sys.executable, "-c", code, str(write_tiny_gemma(tmp_path))],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert ran.stdout == "all alike\n", ran.stderr
