"""Fewer layers than the base has: which tensors stay, and the names that they get.

llama.cpp counts the layers of a file from 0. Where some of them attend to everything and the others to
the last few hundred tokens, with another base of the rotary positions, it tells them apart by these
numbers alone: Gemma 3 attends everywhere in every sixth layer. A layer put where the other kind belongs
would compute something that it was never trained to, and nothing would say so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from app.backends.gguf_file import GgufFile
from app.errors import ManifestInvalid

_PERIODS = {"gemma3": 6, "llama": 1}
"""By architecture: after how many layers the kinds of layers repeat; the last of each period is global."""
_ARCHITECTURE = "general.architecture"


@dataclass(frozen=True, slots=True)
class Layers:
    """The layers that are kept, by their numbers in the base, in the order in which they are computed.

    None: all.
    """

    kept: tuple[int, ...] | None

    def check(self, base: GgufFile) -> None:
        """Raises :class:`ManifestInvalid` unless llama.cpp would compute each as the base does."""
        if self.kept is None:
            return
        architecture, count = _architecture(base), _count(base)
        missing = [layer for layer in self.kept if layer >= count]
        if missing:
            raise ManifestInvalid(
                f"layer {missing[0]} cannot be kept: the base has 0 to {count - 1}"
            )
        period = _PERIODS.get(architecture)
        if period is None:
            raise ManifestInvalid(
                f"layers can be picked of {' and '.join(sorted(_PERIODS))} only, not of "
                f"{architecture!r}: it is not known how its layers differ"
            )
        for place, layer in enumerate(self.kept):
            if _is_global(place, period) != _is_global(layer, period):
                ours, theirs = _kind(layer, period), _kind(place, period)
                raise ManifestInvalid(
                    f"layer {layer} of the base attends {ours} and would stand at place {place}, where "
                    f"{architecture} attends {theirs}: every {period}th layer must be one of "
                    f"{', '.join(map(str, range(period - 1, count, period)))}, and no other may"
                )

    def tensors(self, base: GgufFile) -> dict[str, str]:
        """The name of each tensor of the built file, and its name in the base."""
        if self.kept is None:
            return {name: name for name in base.tensors}
        found = {}
        for name in base.tensors:
            layer = _layer(name)
            if layer is None:
                found[name] = name
            elif layer in self.kept:
                found[_numbered(name, self.kept.index(layer))] = name
        return found

    def values(self, base: GgufFile) -> Mapping[str, int]:
        """The metadata that changes with them."""
        return {} if self.kept is None else {_count_key(base): len(self.kept)}

    def in_base(self, name: str) -> str:
        """The name that a tensor of the built file has in the base."""
        layer = _layer(name)
        return name if self.kept is None or layer is None else _numbered(name, self.kept[layer])


def _architecture(base: GgufFile) -> str:
    return base.string(_ARCHITECTURE) or ""


def _count_key(base: GgufFile) -> str:
    return f"{_architecture(base)}.block_count"


def _count(base: GgufFile) -> int:
    return base.uint32(_count_key(base)) or 0


def _is_global(number: int, period: int) -> bool:
    return number % period == period - 1


def _kind(number: int, period: int) -> str:
    return "to everything" if _is_global(number, period) else "nearby"


def _layer(name: str) -> int | None:
    block, _, rest = name.partition(".")
    return int(rest.partition(".")[0]) if block == "blk" else None


def _numbered(name: str, layer: int) -> str:
    return f"blk.{layer}.{name.split('.', 2)[2]}"
