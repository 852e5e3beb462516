"""The OpenAPI document: our problems in place of the framework's error shapes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from app.api.auth import Access
from app.api.problems import FAILURES, FRAMEWORK, MEDIA_TYPE, Kind, Problem
from app.api.tensors import InferRequest

DESCRIPTION = """Tells a storefront what its customer wants. A message goes in; a decision comes out: an
intent with a calibrated probability, or an honest "out of scope". Errors are RFC 9457 problems."""

_RETRY_AFTER = {
    "description": "Seconds after which to try again, from the measured pace of the service; where a "
    "rate is used up, exactly so many.",
    "schema": {"type": "integer", "minimum": 1},
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Responses of a route that may fail with ``statuses``."""
    return {status: _response(status) for status in statuses}


def all_kinds() -> Mapping[str, Kind]:
    """Every kind of problem by its slug."""
    kinds = [*FRAMEWORK.values(), *FAILURES.values()]
    return {kind.slug: kind for kind in sorted(kinds, key=lambda kind: (kind.status, kind.slug))}


def _response(status: int) -> dict[str, Any]:
    kinds = [kind for kind in all_kinds().values() if kind.status == status]
    response: dict[str, Any] = {
        "description": "; ".join(f"{kind.title} (`{kind.slug}`)" for kind in kinds),
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
    if status in {429, 503}:
        response["headers"] = {"Retry-After": _RETRY_AFTER}
    return response


def document(app: FastAPI, access: Access) -> dict[str, Any]:
    """Build the document once; afterwards the application keeps it."""
    if app.openapi_schema is None:
        schema = get_openapi(
            title=app.title, version=app.version, description=DESCRIPTION, routes=app.routes
        )
        schemas = schema.setdefault("components", {}).setdefault("schemas", {})
        for model in (Problem, InferRequest):  # those that the framework does not see
            described = model.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas |= described.pop("$defs")
            schemas[model.__name__] = described
        _drop_null_parameters(schema)
        _declare_empty_bodies(schema)
        _drop_framework_errors(schema)
        if access.ring is not None:
            _declare_keys(schema, access)
        schema["x-problems"] = [
            {"slug": kind.slug, "status": kind.status, "title": kind.title}
            for kind in all_kinds().values()
        ]
        app.openapi_schema = schema
    return app.openapi_schema


def _declare_keys(schema: dict[str, Any], access: Access) -> None:
    """Say which operations ask for a key."""
    schema["components"]["securitySchemes"] = {
        "key": {"type": "http", "scheme": "bearer", "description": "A key of this service."}
    }
    for path, operations in schema["paths"].items():
        if not access.is_public(path):
            for operation in operations.values():
                operation["security"] = [{"key": []}]


def _declare_empty_bodies(schema: dict[str, Any]) -> None:
    """Routes without a body of their own ask for JSON too, so that no page of another site can post."""
    for operations in schema["paths"].values():
        for operation in operations.values():
            if "415" in operation["responses"] and "requestBody" not in operation:
                operation["requestBody"] = {
                    "description": "Not read; its type must be JSON.",
                    "required": True,
                    "content": {"application/json": {"schema": {}, "example": {}}},
                }


def _drop_null_parameters(schema: dict[str, Any]) -> None:
    """Headers and queries that may be left out cannot be null, whatever their Python type says."""
    for operations in schema["paths"].values():
        for operation in operations.values():
            for parameter in operation.get("parameters", ()):
                choices = parameter["schema"].pop("anyOf", ())
                for choice in choices:
                    if choice != {"type": "null"}:
                        parameter["schema"] |= choice


def _drop_framework_errors(schema: dict[str, Any]) -> None:
    """Take out the 422 that the framework adds to routes that declare none: they cannot give it."""
    for operations in schema["paths"].values():
        for operation in operations.values():
            if "HTTPValidationError" in str(operation["responses"].get("422", "")):
                del operation["responses"]["422"]
    for unused in ("HTTPValidationError", "ValidationError"):
        schema["components"]["schemas"].pop(unused, None)
