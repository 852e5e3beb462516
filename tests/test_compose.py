"""The Compose files against the Compose specification's schema, and what they promise."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.settings import Settings

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "docker").glob("compose*.yaml"))
CHECK = Path(sys.executable).with_name("check-jsonschema")
REPLICAS = {"shopintent", "shopintent-2"}


def services(name: str = "compose.yaml") -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "docker" / name).read_text())[
        "services"
    ]
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_file_follows_the_specification(path: Path) -> None:
    """Every key is one that Compose knows, with a value of the right kind."""
    done = subprocess.run(
        [CHECK, "--builtin-schema", "vendor.compose-spec", path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", services())
def test_nothing_is_published_beyond_this_machine(name: str) -> None:
    """Whoever wants more says so: keys first."""
    for port in services()[name].get("ports", []):
        assert port.startswith("127.0.0.1:")


@pytest.mark.parametrize("name", services())
def test_no_service_has_rights_to_spare(name: str) -> None:
    """No capabilities, no way to new ones."""
    service = services()[name]
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]


@pytest.mark.parametrize("name", sorted(REPLICAS))
def test_replicas_are_alike(name: str) -> None:
    """The second differs from the first only in being optional and behind the door."""
    own = {"ports", "profiles"}
    first, this = services()["shopintent"], services()[name]
    assert {key: value for key, value in this.items() if key not in own} == {
        key: value for key, value in first.items() if key not in own
    }
    assert this["read_only"]
    assert set(this["environment"]) <= {f"INTENT_{key.upper()}" for key in Settings.model_fields}


def test_second_replica_and_nginx_are_optional() -> None:
    """`docker compose up` alone brings up one replica, Prometheus and Grafana."""
    plain = {name for name, service in services().items() if "profiles" not in service}
    assert plain == {"shopintent", "prometheus", "grafana"}
    assert services()["nginx"]["profiles"] == services()["shopintent-2"]["profiles"]


def test_gpu_override_changes_every_replica() -> None:
    """None of them stays on the CPU."""
    override = services("compose.gpu.yaml")
    assert set(override) == REPLICAS
    for service in override.values():
        assert service["build"]["dockerfile"] == "Dockerfile.gpu"
        devices = service["deploy"]["resources"]["reservations"]["devices"]
        assert devices[0]["capabilities"] == ["gpu"]


def test_every_replica_is_balanced_and_watched() -> None:
    """nginx and Prometheus know both by name."""
    upstream = (ROOT / "docker" / "nginx" / "upstream.conf").read_text()
    prometheus = (ROOT / "docker" / "prometheus" / "prometheus.yml").read_text()
    for name in REPLICAS:
        assert upstream.count(f"server {name}:8080 ") == 2  # the first try and the second
        assert f"{name}:8080" in prometheus or f"names: [{name}]" in prometheus
