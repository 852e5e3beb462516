"""Checkpoints as AutoGPTQ, GPTQModel and transformers write them: read and checked, nothing of them is run.

A directory holds ``config.json``, tensors in safetensors and, where they are quantised,
``quantize_config.json`` or the same under ``quantization_config`` in ``config.json``. Layout of a
quantised matrix: https://github.com/AutoGPTQ/AutoGPTQ (0.7.1, ``qlinear_cuda_old.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from app.artifacts.manifest import read_json
from app.errors import FileDamaged, ManifestInvalid

CONFIG, QUANTISE_CONFIG = "config.json", "quantize_config.json"
_PACKED = ("qweight", "qzeros", "scales", "g_idx")
_UNUSED = ("lm_head.",)


@dataclass(frozen=True, slots=True)
class QuantisedMatrix:
    """A matrix of ``bits``-bit codes: ``weight[row, column] = scale * (code - zero)``.

    ``qweight`` int32 (columns * bits / 32, rows) and ``qzeros`` int32 (groups, rows * bits / 32) are
    packed, the lowest bits first; ``scales`` (groups, rows); ``group_of`` int32 (columns,) names the
    group of each column. Zero points are stored less one, unless ``plain_zeros``.
    """

    bits: int
    qweight: torch.Tensor
    qzeros: torch.Tensor
    scales: torch.Tensor
    group_of: torch.Tensor
    bias: torch.Tensor | None
    plain_zeros: bool = False

    @property
    def columns(self) -> int:
        return len(self.group_of)

    @property
    def rows(self) -> int:
        return int(self.qweight.shape[1])

    @property
    def group_size(self) -> int:
        return -(-self.columns // len(self.scales))

    @property
    def in_order(self) -> bool:
        """Whether the columns of a group stand side by side (quantised without ``desc_act``)."""
        places = torch.arange(self.columns, dtype=self.group_of.dtype) // self.group_size
        return bool(torch.equal(self.group_of.cpu(), places))

    def in_group_order(self) -> tuple[QuantisedMatrix, torch.Tensor | None]:
        """The same matrix with its columns sorted by group, and the order to bring states into.

        Raises ``ValueError`` where that leaves groups of unlike sizes.
        """
        if self.in_order:
            return self, None
        order = torch.argsort(self.group_of.long(), stable=True)
        words = pack(self.codes()[:, order], self.bits).T.contiguous()
        ordered = replace(self, qweight=words, group_of=self.group_of[order])
        if not ordered.in_order:
            raise ValueError("the groups are of unlike sizes")
        return ordered, order

    def codes(self) -> torch.Tensor:
        """uint8 (rows, columns)."""
        return _unpack(self.qweight.T, self.bits)

    def zeros(self) -> torch.Tensor:
        """uint8 (groups, rows)."""
        stored = _unpack(self.qzeros, self.bits)
        return stored if self.plain_zeros else (stored + 1) & (2**self.bits - 1)

    @staticmethod
    def stacked(parts: Sequence[QuantisedMatrix]) -> QuantisedMatrix | None:
        """The rows of all as one matrix; None where their columns are not in the same groups."""
        first = parts[0]
        alike = all(
            (p.bits, p.plain_zeros, p.scales.dtype)
            == (first.bits, first.plain_zeros, first.scales.dtype)
            and torch.equal(p.group_of, first.group_of)
            for p in parts
        )
        if not alike:
            return None
        biases = [p.bias if p.bias is not None else p.scales.new_zeros(p.rows) for p in parts]
        return replace(
            first,
            qweight=torch.cat([p.qweight for p in parts], dim=1),
            qzeros=torch.cat([p.qzeros for p in parts], dim=1),
            scales=torch.cat([p.scales for p in parts], dim=1),
            bias=torch.cat(biases) if any(p.bias is not None for p in parts) else None,
        )

    def dense(self) -> torch.Tensor:
        """float32 (rows, columns)."""
        groups = self.group_of.long()
        offset = self.codes().float() - self.zeros().float()[groups].T
        return offset * self.scales.float()[groups].T


def _unpack(packed: torch.Tensor, bits: int) -> torch.Tensor:
    """Codes (n, m * 32 / bits) uint8 of int32 words (n, m)."""
    shifts = torch.arange(0, 32, bits, dtype=torch.int32, device=packed.device)
    codes = (packed.unsqueeze(-1) >> shifts) & (2**bits - 1)
    return codes.flatten(1).to(torch.uint8)


def pack(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """int32 words (n, m * bits / 32) of codes (n, m), the first code in the lowest bits."""
    shifts = torch.arange(0, 32, bits, dtype=torch.int64, device=codes.device)
    words = (codes.long().view(len(codes), -1, 32 // bits) << shifts).sum(dim=2)
    return torch.where(words < 2**31, words, words - 2**32).to(torch.int32)


@dataclass(frozen=True, slots=True)
class QuantisationScheme:
    """What a quantised checkpoint says of itself."""

    bits: int
    group_size: int
    plain_zeros: bool


class Checkpoint:
    """A model directory, open for reading. Raises :class:`app.errors.ArtifactError` on what is not one."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.config = read_json(directory / CONFIG)
        self.scheme = self._scheme()

    @property
    def bos_token_id(self) -> int | None:
        given = self.config.get("bos_token_id")
        return given if isinstance(given, int) else None

    def _scheme(self) -> QuantisationScheme | None:
        separate = self.directory / QUANTISE_CONFIG
        found = (
            read_json(separate) if separate.is_file() else self.config.get("quantization_config")
        )
        if not isinstance(found, dict):
            return None
        bits, group_size = found.get("bits"), found.get("group_size", -1)
        form = found.get("checkpoint_format") or found.get("format") or "gptq"
        method = found.get("quant_method", "gptq")
        known = method == "gptq" and form in {"gptq", "gptq_v2"}
        if (
            not known
            or found.get("is_marlin_format")
            or not isinstance(group_size, int)
            or not isinstance(bits, int)
            or bits not in {2, 4, 8}
        ):
            raise ManifestInvalid(
                f"{self.directory.name}: {bits} bits of {method!r} in the format {form!r}: "
                "only GPTQ weights of 2, 4 or 8 bits are read, not repacked for one kernel"
            )
        return QuantisationScheme(bits, group_size, plain_zeros=form == "gptq_v2")

    def read(self) -> tuple[dict[str, torch.Tensor], dict[str, QuantisedMatrix]]:
        """Plain tensors by name, and quantised matrices by the name of their module."""
        tensors: dict[str, torch.Tensor] = {}
        for path in sorted(self.directory.glob("*.safetensors")):
            with _open(path) as stored:
                for name in stored.keys():  # noqa: SIM118 - no dictionary
                    if not name.startswith(_UNUSED):
                        tensors[name.removeprefix("model.")] = stored.get_tensor(name)
        if not tensors:
            raise FileDamaged(f"{self.directory.name} holds no tensors (*.safetensors)")
        modules = sorted(n.removesuffix(".qweight") for n in tensors if n.endswith(".qweight"))
        if modules and self.scheme is None:
            raise ManifestInvalid(f"{self.directory.name} does not say how it was quantised")
        return tensors, {module: self._matrix(module, tensors) for module in modules}

    def _matrix(self, module: str, tensors: dict[str, torch.Tensor]) -> QuantisedMatrix:
        assert self.scheme
        try:
            qweight, qzeros, scales = (tensors.pop(f"{module}.{part}") for part in _PACKED[:3])
        except KeyError as error:
            raise FileDamaged(f"{self.directory.name}: {module} lacks {error}") from error
        bits, per_word = self.scheme.bits, 32 // self.scheme.bits
        columns, rows = qweight.shape[0] * per_word, qweight.shape[1]
        size = columns if self.scheme.group_size == -1 else self.scheme.group_size
        group_of = tensors.pop(f"{module}.g_idx", None)
        if group_of is None:
            group_of = torch.arange(columns, dtype=torch.int32) // size
        # AutoGPTQ gives every matrix a bias, of zeros where the model has none.
        bias = tensors.pop(f"{module}.bias", None)
        groups = -(-columns // size)
        expected = ((groups, rows // per_word), (groups, rows), (columns,))
        if tuple(tuple(t.shape) for t in (qzeros, scales, group_of)) != expected or (
            not 0 <= int(group_of.min()) <= int(group_of.max()) < groups
        ):
            raise FileDamaged(f"{self.directory.name}: the parts of {module} do not fit each other")
        return QuantisedMatrix(
            bits,
            qweight,
            qzeros,
            scales,
            group_of,
            bias if bias is not None and bool(bias.any()) else None,
            self.scheme.plain_zeros,
        )


def _open(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (OSError, SafetensorError) as error:
        raise FileDamaged(f"{path.name} is unreadable: {error}") from error
