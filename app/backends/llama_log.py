"""llama.cpp's messages through our own logging, and what its build lacks of this CPU."""

from __future__ import annotations

import ctypes
import logging
from pathlib import Path

import llama_cpp

logger = logging.getLogger("llama.cpp")

_LEVELS = {1: logging.DEBUG, 2: logging.DEBUG, 3: logging.WARNING, 4: logging.ERROR}
"""As ``enum ggml_log_level`` counts; a model's whole header comes at info, which is our debug."""
_CONTINUED = 5
_HARMLESS = ("control-looking token", "using full-size SWA cache")
"""Gemma's vocabulary holds HTML's ``</s>`` as an ordinary token, and a warning would say that the model
is broken; the second is what we ask for, see :mod:`app.backends.gguf_prefix`."""

_INSTRUCTION_SETS = {
    "AVX2": "avx2",
    "FMA": "fma",
    "F16C": "f16c",
    "AVX512": "avx512f",
    "AVX512_VNNI": "avx512_vnni",
    "AVX512_BF16": "avx512_bf16",
    "AVX_VNNI": "avx_vnni",
    "DOTPROD": "asimddp",
    "MATMUL_INT8": "i8mm",
    "SVE": "sve",
}
"""Name in ``llama_print_system_info`` -> flag in /proc/cpuinfo; those that the hot kernels use."""


class _LogRouter:
    """Joins the pieces that llama.cpp sends to lines."""

    def __init__(self) -> None:
        self._level = logging.DEBUG
        self._line = ""
        # ctypes keeps no reference of its own: without this one the library would call freed memory.
        self.callback = llama_cpp.llama_log_callback(self._receive)

    def _receive(self, level: int, text: bytes | None, _user_data: object) -> None:
        if level != _CONTINUED:
            self._level = _LEVELS.get(level, logging.DEBUG)
        *lines, self._line = (self._line + (text or b"").decode(errors="replace")).split("\n")
        for line in lines:
            if line.strip(" ."):
                harmless = any(words in line for words in _HARMLESS)
                level = logging.DEBUG if harmless else self._level
                logger.log(level, "%s", line.rstrip())


_router = _LogRouter()


def route_logs() -> None:
    """From now on llama.cpp writes to the logger ``llama.cpp`` instead of standard error."""
    llama_cpp.llama_log_set(_router.callback, ctypes.c_void_p(0))


def missing_instruction_sets(
    system_info: str | None = None, cpuinfo: Path = Path("/proc/cpuinfo")
) -> tuple[str, ...]:
    """Instruction sets that the CPU has and the build of llama.cpp was made without."""
    if system_info is None:
        system_info = llama_cpp.llama_print_system_info().decode()
    built = {
        name.split(":")[-1].strip()
        for name, _, value in (item.partition("=") for item in system_info.split("|"))
        if value.strip() == "1"
    }
    try:
        lines = cpuinfo.read_text(errors="replace").splitlines()
    except OSError:
        return ()
    flags = {
        flag
        for line in lines
        if line.split(":")[0].strip() in {"flags", "Features"}
        for flag in line.partition(":")[2].split()
    }
    return tuple(n for n, flag in _INSTRUCTION_SETS.items() if flag in flags and n not in built)
