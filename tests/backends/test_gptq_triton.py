"""Kernels in Triton: what its compiler asks of their source, read without it, and what they compute.

Few machines have Triton, and fewer a GPU; where it is installed its interpreter runs the kernels on a CPU.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

BACKENDS = Path(__file__).parents[2] / "app" / "backends"
KERNELS = {
    function.name: function
    for file in ("triton_products.py", "triton_steps.py", "triton_unpacking.py")
    for function in ast.parse((BACKENDS / file).read_text(encoding="utf-8")).body
    if isinstance(function, ast.FunctionDef)
    and "triton.jit" in map(ast.unparse, function.decorator_list)
}
INTERPRETED = """
from dataclasses import replace
import torch
from app.backends import torch_gemma, torch_steps, triton_steps
from app.backends.gptq_checkpoint import QuantisedMatrix, pack
from app.backends import gptq_triton
from app.backends.gptq_triton import ByteLinear, triton_linear

CPU = torch.device("cpu")
for dtype in (torch.float32, torch.bfloat16):
    torch_gemma.prove_steps(triton_steps, CPU, dtype)
rows, columns, group = 48, 256, 64
gptq_triton._LONG, gptq_triton._PARTS = 256, 2
for bits in (4, 8):
    for middle in (True, False):
        codes = torch.randint(0, 1 << bits, (rows, columns))
        zeros = torch.randint(1, 1 << bits, (columns // group, rows))
        if middle:
            zeros.fill_(1 << bits - 1)
        scales = torch.rand(columns // group, rows).half() + 0.01
        group_of = (torch.randperm(columns) // group).to(torch.int32)
        words, packed_zeros = pack(codes, bits).T.contiguous(), pack(zeros - 1, bits)
        bias = torch.randn(rows)
        matrix = QuantisedMatrix(bits, words, packed_zeros, scales, group_of, bias)
        layer = triton_linear(matrix, torch.float32, CPU)
        signed = isinstance(layer, ByteLinear)
        assert signed == (bits == 8 and middle)
        states = torch.randn(37, columns)
        expected = states @ matrix.dense().T + bias
        for few in (1 << 18, 0):
            layer.few_states = few
            torch.testing.assert_close(layer(states), expected, rtol=1e-4, atol=1e-3)
            layer.plain = layer.unpacked(torch.float32)
            torch.testing.assert_close(layer(states), expected, rtol=1e-4, atol=1e-3)
            layer.plain = None
        if not signed:
            continue
        assert layer.gated(states) is layer.summands(states) is None  # mixed columns, and a bias
        straight = replace(matrix, bias=None, group_of=torch.arange(columns).int() // group)
        layer = triton_linear(straight, torch.float32, CPU)
        for count in (37, 60, 120):
            states = torch.randn(1, count, columns) / 100
            expected = states @ straight.dense().T
            parts = layer.summands(states)
            assert len(parts) == 2 if count < 100 else 1
            torch.testing.assert_close(parts.sum(0), expected, rtol=1e-4, atol=1e-4)
            expected = torch_steps.gate(expected)
            torch.testing.assert_close(layer.gated(states), expected, rtol=1e-4, atol=1e-4)
        layer.few_states = 0
        assert layer.gated(states) is layer.summands(states) is None
print("all alike")
"""


def test_kernels_were_found():
    assert {"multiply_kernel", "byte_kernel", "turn_kernel", "join_kernel"} <= set(KERNELS)


@pytest.mark.parametrize("name", KERNELS)
def test_only_constants_are_annotated(name: str):
    """The compiler takes an annotation for a global constant, and fails on ``Any``."""
    arguments = KERNELS[name].args.args
    said = {a.arg: ast.unparse(a.annotation) for a in arguments if a.annotation is not None}
    assert set(said.values()) <= {"tl.constexpr"}
    assert [a.arg for a in arguments if a.arg.isupper()] == list(said)


@pytest.mark.train
@pytest.mark.skipif(
    not find_spec("triton"), reason="Triton is not installed: it comes with CUDA's torch"
)
def test_kernels_compute_what_plain_torch_does():
    """Steps and products, in its interpreter."""
    ran = subprocess.run(
        [sys.executable, "-c", INTERPRETED],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert ran.stdout == "all alike\n", ran.stderr
