"""Rules, alerts and dashboard against the metrics that the service has."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path
from time import perf_counter
from typing import Any

import pytest
import yaml
from prometheus_client import Gauge

from app.classification.classifier import Message
from app.errors import QueueFull
from app.metrics import REGISTRY
from app.serving.queue import TokenQueue
from app.serving.ticket import Ticket
from app.settings import Settings

ROOT = Path(__file__).parent.parent
DOCKER = ROOT / "docker"
RULES = sorted((DOCKER / "prometheus").glob("*.yaml"))


def rules() -> list[dict[str, object]]:
    files = [path for path in RULES if not path.name.endswith(".test.yaml")]
    groups = [group for path in files for group in yaml.safe_load(path.read_text())["groups"]]
    return [rule for group in groups for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    dashboard = json.loads((DOCKER / "grafana" / "dashboards" / "shopintent.json").read_text())
    found: list[dict[str, Any]] = dashboard["panels"]
    return found


def expressions() -> list[str]:
    drawn = [target["expr"] for panel in panels() for target in panel.get("targets", ())]
    return [*(str(rule["expr"]) for rule in rules()), *drawn]


def exposed() -> set[str]:
    suffixes = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
    return {
        metric.name + suffix for metric in REGISTRY.collect() for suffix in suffixes[metric.type]
    }


def test_every_metric_asked_for_exists() -> None:
    """A renamed metric does not leave an alert that never fires or a panel that stays empty."""
    asked = {name for one in expressions() for name in re.findall(r"\bintent_\w+", one)}
    assert asked - exposed() == set()


def test_every_panel_has_an_id_of_its_own() -> None:
    """Grafana finds a panel by its id: a link to one opens that one."""
    ids = [panel["id"] for panel in panels()]
    assert sorted(ids) == sorted(set(ids))


def test_every_recorded_series_asked_for_is_recorded() -> None:
    """Alerts and panels use recording rules by names that exist."""
    recorded = {str(rule["record"]) for rule in rules() if "record" in rule}
    asked = {name for one in expressions() for name in re.findall(r"\bshopintent:[\w:]+", one)}
    assert asked - recorded == set()


def test_every_alert_has_its_runbook() -> None:
    """Who is woken finds what to do."""
    operations = (ROOT / "docs" / "operations.md").read_text()
    alerts = [rule for rule in rules() if "alert" in rule]
    assert alerts
    for alert in alerts:
        assert f"\n### {alert['alert']}\n" in operations
        anchor = f"docs/operations.md#{str(alert['alert']).lower()}"
        assert alert["annotations"]["runbook"] == anchor  # type: ignore[index]


def test_every_setting_is_documented() -> None:
    """No setting has to be looked up in the code."""
    operations = (ROOT / "docs" / "operations.md").read_text()
    names = {f"INTENT_{field.upper()}" for field in Settings.model_fields}
    assert {name for name in names if f"`{name}`" not in operations} == set()


@pytest.mark.anyio
async def test_a_queue_can_be_as_full_as_the_alert_says() -> None:
    """What would come after its deadline is not let in: two cores drain 43 messages a second."""
    limits = Settings.model_construct()
    queue = TokenQueue(limits.queue_tokens, Gauge("tokens", "", registry=None))
    queue._tokens_per_second = 43.1 * 18
    message = Message("where is my order", range(18))
    with suppress(QueueFull):
        while True:
            queue.enter(Ticket([(0, message)], perf_counter() + limits.deadline_ms / 1000))
    (alert,) = (rule for rule in rules() if rule.get("alert") == "IntentQueueNearlyFull")
    threshold = float(str(alert["expr"]).rpartition(">")[2])
    assert queue.tokens / queue.limit > threshold


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_alerts_fire_when_they_should() -> None:
    """The scenarios of alerts.test.yaml, played by Prometheus's own tool."""
    scenarios = DOCKER / "prometheus" / "alerts.test.yaml"
    done = subprocess.run(
        ["promtool", "test", "rules", scenarios], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_compose_files_mount_what_is_there() -> None:
    """Each folder and Dockerfile that the compose files name exists."""
    for path in DOCKER.glob("compose*.yaml"):
        for service in yaml.safe_load(path.read_text())["services"].values():
            for volume in service.get("volumes", []):
                source = volume.split(":")[0]
                if source.startswith("."):
                    assert (DOCKER / source).is_dir(), source
            if "build" in service:
                assert (ROOT / service["build"]["dockerfile"]).is_file()
