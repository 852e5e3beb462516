"""What the machine tells of itself."""

from __future__ import annotations

from pathlib import Path

from study.machine import EnergyCounter, conditions, memory


def counter(root: Path, name: str, value: int, largest: int = 1000) -> None:
    zone = root / name
    zone.mkdir(exist_ok=True)
    (zone / "energy_uj").write_text(f"{value}\n")
    (zone / "max_energy_range_uj").write_text(f"{largest}\n")


def test_packages_are_summed_and_their_parts_are_not(tmp_path: Path) -> None:
    """Two packages count, the cores inside one do not count again."""
    for name, value in (("intel-rapl:0", 100), ("intel-rapl:1", 200), ("intel-rapl:0:0", 50)):
        counter(tmp_path, name, value)
    energy = EnergyCounter(tmp_path)
    before = energy.read()
    counter(tmp_path, "intel-rapl:0", 600)
    counter(tmp_path, "intel-rapl:0:0", 900)
    assert energy.joules_since(before) == 500 / 1e6


def test_a_counter_that_began_anew_is_put_right(tmp_path: Path) -> None:
    """It counts to its range and starts from nothing."""
    counter(tmp_path, "intel-rapl:0", 900)
    energy = EnergyCounter(tmp_path)
    before = energy.read()
    counter(tmp_path, "intel-rapl:0", 100)
    assert energy.joules_since(before) == 200 / 1e6


def test_no_counter_is_no_energy(tmp_path: Path) -> None:
    """A machine without one says none, not zero."""
    energy = EnergyCounter(tmp_path / "absent")
    assert energy.joules_since(energy.read()) is None


def test_memory_is_in_megabytes(tmp_path: Path) -> None:
    """Of the fields that count; elsewhere than Linux there are none."""
    status = tmp_path / "status"
    status.write_text("Name:\tpython\nVmHWM:\t  2000 kB\nVmRSS:\t  1000 kB\n")
    assert memory(status) == {"peak_mb": 2.0, "rss_mb": 1.0}
    assert memory(tmp_path / "absent") == {}


def test_conditions_name_what_figures_depend_on() -> None:
    """CPU, threads, versions and commit stand beside every result."""
    given = conditions(2)
    assert given["threads"] == 2
    assert given["cpu"]
    assert given["versions"]["numpy"]
    assert "commit" in given
