"""A Prometheus of our own on the shipped rules, and what the dashboard asks of it."""

from __future__ import annotations

import json
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import httpx
import yaml

DOCKER = Path(__file__).parents[2] / "docker"
DASHBOARD = DOCKER / "grafana" / "dashboards" / "shopintent.json"
RULES = DOCKER / "prometheus"

Series = list[dict[str, Any]]


@dataclass(frozen=True)
class Query:
    """One line of a panel."""

    panel: str
    kind: str
    expression: str
    legend: str


def dashboard_queries(window: str) -> list[Query]:
    """Every query of the dashboard, with Grafana's variable for the window of a rate filled in."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [
        Query(
            panel["title"],
            panel["type"],
            target["expr"].replace("$__rate_interval", window),
            target["legendFormat"],
        )
        for panel in panels
        if panel["type"] != "row"
        for target in panel["targets"]
    ]


class Prometheus:
    """Scrapes one service every second, with the shipped configuration otherwise."""

    def __init__(self, folder: Path, service_port: int, log: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        config = yaml.safe_load((RULES / "prometheus.yml").read_text())
        config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        config["rule_files"] = [str(RULES / name) for name in config["rule_files"]]
        for job in config["scrape_configs"]:
            job["static_configs"] = [{"targets": [f"127.0.0.1:{service_port}"]}]
            job.pop("dns_sd_configs", None)
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v1", timeout=30)
        with log.open("w") as stream:
            self.process = subprocess.Popen(
                [
                    "prometheus",
                    f"--config.file={folder / 'prometheus.yml'}",
                    f"--storage.tsdb.path={folder / 'data'}",
                    f"--web.listen-address=127.0.0.1:{port}",
                ],
                stdout=stream,
                stderr=stream,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self.process.terminate()
        self.process.wait(30)

    def get(self, path: str, **parameters: object) -> dict[str, Any]:
        """The data of an answer; empty while it is not up."""
        try:
            answer = self.client.get(path, params=parameters)
        except httpx.TransportError:
            return {}
        content = answer.json() if answer.status_code != 503 else {}
        assert content.get("status", "success") == "success", content
        return content.get("data", {})

    def ask(self, expression: str) -> Series:
        return self.get("/query", query=expression).get("result", [])

    def ask_range(self, expression: str, start: float, end: float, step: float) -> Series:
        found = self.get("/query_range", query=expression, start=start, end=end, step=step)
        return found.get("result", [])

    def rules(self) -> list[dict[str, Any]]:
        return [rule for group in self.get("/rules").get("groups", []) for rule in group["rules"]]
