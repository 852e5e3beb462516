"""The OpenAPI document tells the truth, errors included."""

from __future__ import annotations

import re

import pytest

from app.api.problems import MEDIA_TYPE
from tests.conftest import Running


@pytest.fixture(scope="module")
def document(service: Running) -> dict:
    return service.client.get("/openapi.json").json()


def test_every_route_of_the_contract_is_declared(document: dict) -> None:
    """Paths and their stable operation ids."""
    declared = {
        (method, path): operation["operationId"]
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    }
    assert declared == {
        ("post", "/v1/classify"): "classify",
        ("post", "/v1/classify/batch"): "classifyBatch",
        ("get", "/v1/models"): "listModels",
        ("get", "/v1/models/{name}"): "getModel",
        ("post", "/v1/cart"): "readCart",
        ("get", "/v1/admin/models/{name}"): "getServedModel",
        ("post", "/v1/admin/models/{name}/activate"): "activateVersion",
        ("post", "/v1/admin/models/{name}/rollback"): "rollBack",
        ("post", "/v1/admin/models/{name}/reload"): "reloadModel",
        ("put", "/v1/admin/models/{name}/shadow"): "beginShadow",
        ("delete", "/v1/admin/models/{name}/shadow"): "endShadow",
        ("get", "/livez"): "livez",
        ("get", "/readyz"): "readyz",
        ("get", "/startupz"): "startupz",
        ("get", "/health"): "health",
        ("get", "/metrics"): "metrics",
        ("post", "/v1/feedback"): "giveFeedback",
        ("delete", "/v1/feedback/{id}"): "deleteFeedback",
        ("post", "/model/parse"): "parseMessage",
        ("get", "/v2"): "v2Server",
        ("get", "/v2/health/live"): "v2Live",
        ("get", "/v2/health/ready"): "v2Ready",
        ("get", "/v2/models/{name}"): "v2Model",
        ("get", "/v2/models/{name}/versions/{version}"): "v2ModelVersion",
        ("get", "/v2/models/{name}/ready"): "v2ModelReady",
        ("get", "/v2/models/{name}/versions/{version}/ready"): "v2ModelVersionReady",
        ("post", "/v2/models/{name}/infer"): "v2Infer",
        ("post", "/v2/models/{name}/versions/{version}/infer"): "v2InferVersion",
    }


def test_classify_declares_its_failures_as_problems(document: dict) -> None:
    """Every status that a caller may meet has the media type and schema of a problem."""
    for path in ("/v1/classify", "/v1/classify/batch", "/v1/cart"):
        responses = document["paths"][path]["post"]["responses"]
        assert set(responses) == {
            "200", "400", "401", "403", "404", "408", "413", "415", "422", "429", "500", "503", "504",
        }  # fmt: skip
        for status, response in responses.items():
            if status != "200":
                schema = response["content"][MEDIA_TYPE]["schema"]
                assert schema == {"$ref": "#/components/schemas/Problem"}
        for status in ("429", "503"):
            assert "Retry-After" in responses[status]["headers"]


def test_no_framework_error_shape_is_left(document: dict) -> None:
    """The shapes that this service never sends are not declared, and no reference dangles."""
    text = str(document)
    assert "HTTPValidationError" not in text
    for name in document["components"]["schemas"]:
        assert f"#/components/schemas/{name}'" in text
    assert {"Problem", "FieldProblem"} <= set(document["components"]["schemas"])


def test_problem_kinds_are_listed(document: dict) -> None:
    """The reference page and clients find each kind with its status."""
    kinds = {kind["slug"]: kind["status"] for kind in document["x-problems"]}
    assert kinds["queue-full"] == 429
    assert kinds["deadline-exceeded"] == 504
    assert kinds["body-too-large"] == 413


def test_every_parameter_and_operation_is_described(document: dict) -> None:
    """With words, and with an example of what stands in an address; so a client needs no guess."""
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            where = (method, path)
            assert all(operation[word] for word in ("summary", "description", "tags")), where
            for parameter in operation.get("parameters", ()):
                assert parameter["description"], (where, parameter["name"])
                if parameter["in"] == "path":
                    assert parameter["schema"]["examples"] or parameter["examples"], where
            declared = {p["name"] for p in operation.get("parameters", ()) if p["in"] == "path"}
            assert declared == set(re.findall(r"\{(\w+)\}", path)), where
