"""Weights of 4 or 8 bits by GPTQ (Frantar et al. 2023), in AutoGPTQ's checkpoint format.

GPTQModel does the work (docs/decisions/0004); what it writes is brought to the names and fields that
auto-gptq 0.7.1 wrote, so that every reader of that format finds its way.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from app.artifacts.manifest import read_json
from app.errors import InputError

GROUP_SIZES = (128, 64, 32)
TENSORS = "model.safetensors"


@dataclass(frozen=True, slots=True)
class GptqConfig:
    """Knobs of one quantisation."""

    bits: int = 8
    """4 or 8. A model of 270 million parameters has nothing to spare for 4 (docs/decisions/0004)."""
    group_size: int | None = None
    """Columns that share a scale; by default the largest of 128, 64, 32 that divides every width."""
    desc_act: bool = False
    """Quantise the most active columns first: a little better, slower to serve."""
    plain: tuple[str, ...] = ()
    """Kinds of matrices that keep 16 bits, for example ``down_proj``."""
    messages: int = 1024
    """Training messages to calibrate on."""
    carts: int = 48
    """Catalogs with a cart message beside them, where the model reads carts: about as many tokens."""
    damping: float = 0.05
    """Added to the Hessian's diagonal, as a share of its mean."""
    mse: float = 0.0
    """Search each group's scale for the least error of this power; 0 takes the largest weight."""
    repacked: bool = False
    """The GGUF weights' numbers instead, of 8 bits (:mod:`training.repacking`); all else is left aside."""


def fitting_group_size(widths: Mapping[str, int], wanted: int | None = None) -> int:
    """A group size that divides the width (input columns) of every matrix.

    Raises :class:`InputError` naming a matrix that the wanted one, or any, does not divide.
    """
    sizes = (wanted,) if wanted else GROUP_SIZES
    for size in sizes:
        if all(width % size == 0 for width in widths.values()):
            return size
    tried = sizes[-1]
    name, width = next((name, width) for name, width in widths.items() if width % tried)
    fits = [str(size) for size in GROUP_SIZES if all(w % size == 0 for w in widths.values())]
    raise InputError(
        f"no group of {' or '.join(map(str, sizes))} columns divides the {width} of {name}"
        + (f"; {' and '.join(fits)} would" if fits else "")
    )


def matrix_widths(model: torch.nn.Module, plain: Sequence[str] = ()) -> dict[str, int]:
    """Input columns of every matrix that is to be quantised, by name."""
    return {
        name: module.in_features
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
        and "layers." in name
        and name.rpartition(".")[2] not in plain
    }


def quantise(
    merged: Path, prompts: Sequence[Sequence[int]], config: GptqConfig, out: Path, threads: int
) -> None:
    """Quantise the model directory ``merged`` into ``out``; ``prompts`` are token ids to calibrate on.

    ``merged`` must hold a causal language model that ``transformers`` loads, tokeniser included.
    """
    merged, out = merged.resolve(), out.resolve()
    out.mkdir()
    with _quiet(out.with_name(f"{out.name}.log"), threads):
        from gptqmodel import GPTQModel, QuantizeConfig

        asked = QuantizeConfig(
            bits=config.bits,
            group_size=config.group_size or GROUP_SIZES[0],
            desc_act=config.desc_act,
            sym=True,
            damp_percent=config.damping,
            mse=config.mse,
            dynamic={rf"-:.*\.({'|'.join(config.plain)})$": {}} if config.plain else None,
            offload_to_disk=False,
            pack_impl="original",  # the others compile first
        )
        # In float32: a CPU without matrix units for bfloat16 emulates it, many times slower.
        model = GPTQModel.load(str(merged), asked, device="cpu", dtype=torch.float32)
        size = fitting_group_size(matrix_widths(model.model, config.plain), config.group_size)
        model.quantize_config.group_size = size
        rows = [{"input_ids": [*p], "attention_mask": [1] * len(p)} for p in prompts]
        model.quantize(rows, batch_size=32, calibration_data_min_length=1)
        model.save(str(out))
    _as_auto_gptq(merged, out, config, size)


def _as_auto_gptq(merged: Path, out: Path, config: GptqConfig, group_size: int) -> None:
    """Rewrite config and tensors the way auto-gptq 0.7.1 wrote them, and drop everything else."""
    tensors: dict[str, torch.Tensor] = {}
    for path in sorted(out.glob("*.safetensors")):
        tensors |= load_file(path)
    shutil.rmtree(out)
    out.mkdir()
    write_auto_gptq(tensors, merged, out, config, group_size)


def write_auto_gptq(
    tensors: Mapping[str, torch.Tensor],
    merged: Path,
    out: Path,
    config: GptqConfig,
    group_size: int,
) -> None:
    """A checkpoint of these tensors in ``out``, with what ``merged`` says of the model beside them."""
    scheme: dict[str, Any] = {
        "bits": config.bits,
        "group_size": group_size,
        "damp_percent": config.damping,
        "desc_act": config.desc_act,
        "static_groups": False,
        "sym": True,
        "true_sequential": True,
        "model_name_or_path": None,
        "model_file_base_name": TENSORS.removesuffix(".safetensors"),
        "is_marlin_format": False,
        "quant_method": "gptq",
        "checkpoint_format": "gptq",
    }
    described = {**read_json(merged / "config.json"), "dtype": "float16"}
    if config.plain:
        # Which matrices are quantised, by block, as transformers and optimum read it.
        kinds = {n.rpartition(".layers.")[2].split(".", 1)[1] for n in _quantised(tensors)}
        scheme["modules_in_block_to_quantize"] = [[kind] for kind in sorted(kinds)]
    described["quantization_config"] = scheme
    stored = {name: _half(tensor) for name, tensor in tensors.items()}
    save_file(stored, out / TENSORS, {"format": "pt"})
    (out / TENSORS).chmod(0o644)
    (out / "config.json").write_text(json.dumps(described, indent=1) + "\n")
    (out / "quantize_config.json").write_text(json.dumps(scheme, indent=1) + "\n")
    for path in sorted(merged.glob("*token*")):
        shutil.copyfile(path, out / path.name)


def _quantised(tensors: Mapping[str, torch.Tensor]) -> list[str]:
    return [n.removesuffix(".qweight") for n in tensors if n.endswith(".qweight")]


def _half(tensor: torch.Tensor) -> torch.Tensor:
    return (tensor.half() if tensor.is_floating_point() else tensor).contiguous()


@contextmanager
def _quiet(log: Path, threads: int) -> Iterator[None]:
    """GPTQModel tells all it does on standard output, keeps logs where it is run, and takes every core.

    For as long as it works: the first into a file, the second beside that, and not so.
    """
    kept: Any = os.environ.get("GPTQMODEL_CPU_WORKERS")
    os.environ.setdefault("GPTQMODEL_CPU_WORKERS", str(max(threads, 2)))  # it refuses to run on one
    with log.open("w") as stream, redirect_stdout(stream), chdir(log.parent):
        try:
            yield
        finally:
            if kept is None:
                os.environ.pop("GPTQMODEL_CPU_WORKERS", None)
