"""What Triton's compiler asks of the kernels' source, read without Triton, which few machines have."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "app" / "backends" / "gptq_triton.py"
KERNELS = {
    function.name: function
    for function in ast.parse(SOURCE.read_text(encoding="utf-8")).body
    if isinstance(function, ast.FunctionDef)
    and "triton.jit" in map(ast.unparse, function.decorator_list)
}


@pytest.mark.parametrize("name", ["_weights", "multiply_kernel", "unpack_kernel"])
def test_only_constants_are_annotated(name: str):
    """The compiler takes an annotation for a global constant, and fails on ``Any``."""
    arguments = KERNELS[name].args.args
    said = {a.arg: ast.unparse(a.annotation) for a in arguments if a.annotation is not None}
    assert set(said.values()) == {"tl.constexpr"}
    assert [a.arg for a in arguments if a.arg.isupper()] == list(said)
