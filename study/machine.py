"""What the machine tells of itself: memory of a process, an energy counter, and the conditions of a run."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from app.bench.report import cpu_model
from app.cpu import cpu_budget

_POWERCAP = Path("/sys/class/powercap")
_KILOBYTES = {"VmRSS": "rss_mb", "RssAnon": "anonymous_mb", "VmHWM": "peak_mb"}
PACKAGES = (
    "llama-cpp-python", "torch", "transformers", "gptqmodel", "optimum", "numpy", "scikit-learn",
    "shopintent",
)  # fmt: skip


def memory(status: Path = Path("/proc/self/status")) -> dict[str, float]:
    """Resident megabytes (10**6 bytes) of this process now and at most; empty where /proc is not."""
    try:
        lines = status.read_text().splitlines()
    except OSError:
        return {}
    return {
        _KILOBYTES[name]: round(int(value.split()[0]) * 1024 / 1e6, 1)
        for name, _, value in (line.partition(":") for line in lines)
        if name in _KILOBYTES
    }


def forget_peak() -> None:
    """Let the peak count from now on. Linux only; elsewhere nothing happens."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


@dataclass(frozen=True, slots=True)
class EnergyCounter:
    """The package counters of the powercap interface, in microjoules; none on most virtual machines."""

    root: Path = _POWERCAP

    def zones(self) -> list[Path]:
        """Whole packages; their sub-zones are part of them."""
        found = sorted(self.root.glob("intel-rapl:*"))
        return [zone for zone in found if zone.name.count(":") == 1 and self._value(zone)]

    def read(self) -> dict[str, int]:
        """Empty where there is no counter that may be read."""
        return {zone.name: int(self._value(zone) or 0) for zone in self.zones()}

    def joules_since(self, before: Mapping[str, int]) -> float | None:
        """None without a counter. A counter that began anew is put right by its range."""
        total = 0
        for name, value in self.read().items():
            spent = value - before.get(name, value)
            if spent < 0:
                spent += int((self.root / name / "max_energy_range_uj").read_text())
            total += spent
        return total / 1e6 if before else None

    @staticmethod
    def _value(zone: Path) -> str | None:
        try:
            return (zone / "energy_uj").read_text().strip()
        except OSError:
            return None


def conditions(threads: int) -> dict[str, Any]:
    """What all figures depend on."""
    budget = cpu_budget()
    counters = EnergyCounter().zones()
    return {
        "cpu": cpu_model(),
        "cpus": budget.affinity,
        "cpu_quota": budget.quota,
        "threads": threads,
        "memory_mb": _total_memory(),
        "energy_counter": [zone.name for zone in counters] or None,
        "load_average_before": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": versions(),
        "commit": _commit(),
    }


def versions() -> dict[str, str | None]:
    """Of the packages that figures depend on."""
    found: dict[str, str | None] = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def _total_memory() -> int | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e6)
    except (ValueError, OSError):
        return None


def _commit() -> str | None:
    """The checked-out commit, ``+`` behind it where files differ from it; None outside a checkout."""
    try:
        told = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--abbrev=12"],  # noqa: S607 - where PATH has it
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:
        return None
    return told.stdout.strip() or None
