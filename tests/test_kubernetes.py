"""The Kubernetes manifests against the API's own schemas, and against what the service does."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from app.cpu import CpuBudget
from app.main import CLOSE_SECONDS
from app.metrics import REGISTRY
from app.settings import Settings

ROOT = Path(__file__).parent.parent
KUBERNETES = ROOT / "docker" / "kubernetes"
BASE = sorted(path for path in (KUBERNETES / "base").glob("*.yaml") if path.stem != "kustomization")
VERSIONS = ("1.30", "1.37")
"""The oldest that is promised, and the newest that the schemas know."""
OUR_LABEL = {"app.kubernetes.io/name": "shopintent"}
EXTENSION = {
    "minReplicas", "maxReplicas", "scaleMetric", "scaleTarget", "timeout", "containerConcurrency",
    "canaryTrafficPercent", "logger", "batcher", "labels", "annotations", "deploymentStrategy",
}  # fmt: skip
"""What KServe's predictor has beside the fields of a pod."""


def load(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(path.read_text())
    return content


def of_kind(kind: str) -> dict[str, Any]:
    return next(one for one in map(load, BASE) if one["kind"] == kind)


def pod() -> dict[str, Any]:
    found: dict[str, Any] = of_kind("Deployment")["spec"]["template"]["spec"]
    return found


def predictor() -> dict[str, Any]:
    found: dict[str, Any] = load(KUBERNETES / "kserve" / "inferenceservice.yaml")["spec"][
        "predictor"
    ]
    return found


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("path", BASE, ids=lambda path: path.stem)
def test_manifest_is_what_the_api_takes(path: Path, version: str) -> None:
    """No field is misspelt or misplaced: unknown ones count as errors."""
    kubernetes_validate.validate(load(path), version, strict=True)


@pytest.mark.parametrize("version", VERSIONS)
def test_kserve_predictor_is_a_pod(version: str) -> None:
    """KServe's predictor is a pod's specification and fields of its own; both are well formed."""
    content = load(KUBERNETES / "kserve" / "inferenceservice.yaml")
    assert (content["apiVersion"], content["kind"]) == (
        "serving.kserve.io/v1beta1",
        "InferenceService",
    )
    spec = {key: value for key, value in predictor().items() if key not in EXTENSION}
    assert [one["name"] for one in spec["containers"]] == ["kserve-container"]
    as_pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": spec}
    kubernetes_validate.validate(as_pod, version, strict=True)


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_kustomize_builds_the_base() -> None:
    """`kubectl apply -k` has every manifest in hand, and an image with a version."""
    built = subprocess.run(
        ["kubectl", "kustomize", KUBERNETES / "base"], capture_output=True, text=True, check=True
    )
    resources = list(yaml.safe_load_all(built.stdout))
    assert sorted(one["kind"] for one in resources) == sorted(load(path)["kind"] for path in BASE)
    deployment = next(one for one in resources if one["kind"] == "Deployment")
    assert deployment["spec"]["template"]["spec"]["containers"][0]["image"] != "shopintent"


def test_kustomization_names_every_manifest() -> None:
    """None lies about unused."""
    named = load(KUBERNETES / "base" / "kustomization.yaml")["resources"]
    assert sorted(named) == [path.name for path in BASE]


def test_selectors_mean_our_pods_only() -> None:
    """An empty selector would be all pods of the namespace."""
    assert of_kind("Service")["spec"]["selector"] == OUR_LABEL
    for kind in ("Deployment", "PodDisruptionBudget"):
        assert of_kind(kind)["spec"]["selector"]["matchLabels"] == OUR_LABEL
    assert of_kind("NetworkPolicy")["spec"]["podSelector"]["matchLabels"] == OUR_LABEL
    assert of_kind("Deployment")["spec"]["template"]["metadata"]["labels"] == OUR_LABEL


@pytest.mark.parametrize("spec", [pod(), predictor()], ids=["deployment", "kserve"])
class TestPod:
    def test_cpus_are_whole_and_its_own(self, spec: dict[str, Any]) -> None:
        """Every CPU that is paid for computes: the quota is a whole number of threads."""
        resources = spec["containers"][0]["resources"]
        assert resources["requests"] == resources["limits"]
        cpus = float(resources["limits"]["cpu"])
        assert CpuBudget(affinity=64, quota=cpus).model_threads == cpus

    def test_nobody_special(self, spec: dict[str, Any]) -> None:
        """No root, no rights, no writable root, no token of the cluster."""
        container = spec["containers"][0]
        assert spec["securityContext"]["runAsNonRoot"]
        assert (
            f"USER {spec['securityContext']['runAsUser']}" in (ROOT / "Dockerfile.cpu").read_text()
        )
        assert container["securityContext"]["readOnlyRootFilesystem"]
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert not spec["automountServiceAccountToken"]

    def test_grace_covers_the_drain(self, spec: dict[str, Any]) -> None:
        """Nobody is killed while the longest admitted work may still be answered."""
        pause = float(spec["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][1])
        drain = Settings.model_fields["drain_seconds"].default
        assert spec["terminationGracePeriodSeconds"] > pause + drain + CLOSE_SECONDS

    def test_settings_exist(self, spec: dict[str, Any]) -> None:
        """A renamed setting does not leave a variable that nobody reads."""
        names = {one["name"] for one in spec["containers"][0]["env"]}
        assert names <= {f"INTENT_{field.upper()}" for field in Settings.model_fields}

    def test_probes_ask_what_is_there(self, spec: dict[str, Any]) -> None:
        """Each probe's path is a route."""
        from app.main import create_app

        routes = set(create_app(Settings()).openapi()["paths"])
        kinds = ("startupProbe", "readinessProbe", "livenessProbe")
        probes = [spec["containers"][0][kind] for kind in kinds]
        assert {probe["httpGet"]["path"] for probe in probes} <= routes


def test_autoscaler_asks_for_a_metric_that_is_exposed() -> None:
    """By the name that the adapter's rule gives it, from a gauge that the service has."""
    metrics = of_kind("HorizontalPodAutoscaler")["spec"]["metrics"]
    asked = next(one["pods"]["metric"]["name"] for one in metrics if one["type"] == "Pods")
    rules = load(KUBERNETES / "prometheus-adapter-values.yaml")["rules"]["custom"]
    rule = next(one for one in rules if one["name"]["as"] == asked)
    assert rule["seriesQuery"].split("{")[0] in {metric.name for metric in REGISTRY.collect()}
