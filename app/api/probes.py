"""Probes and metrics, for machines."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Request
from prometheus_client.exposition import choose_encoder
from starlette.responses import Response

from app.api.auth import require_metrics
from app.api.openapi import problems
from app.api.schemas import Health
from app.api.state import service_of
from app.errors import NotReady
from app.metrics import REGISTRY

router = APIRouter(tags=["operations"])


@router.head("/livez", include_in_schema=False)
@router.get("/livez", operation_id="livez", summary="Does the process answer?")
async def livez() -> Health:
    """200 as long as the event loop turns, also while models load and while it drains."""
    return Health(status="ok")


@router.head("/startupz", include_in_schema=False)
@router.get(
    "/startupz", operation_id="startupz", summary="Has it started?", responses=problems(503)
)
async def startupz(request: Request) -> Health:
    """200 once every model has come to life or failed, and at least one lives."""
    if not service_of(request).registry.started:
        raise NotReady("models are loading", retry_after=2.0)
    return Health(status="ok")


@router.head("/health", include_in_schema=False)
@router.get(
    "/health",
    operation_id="health",
    summary="Alias of /readyz",
    responses=problems(503),
)
@router.head("/readyz", include_in_schema=False)
@router.get(
    "/readyz",
    operation_id="readyz",
    summary="May it be sent work?",
    responses=problems(503),
)
async def readyz(request: Request) -> Health:
    """200 when every model has been loaded, warmed up and checked, and the service is not stopping."""
    service = service_of(request)
    if service.lifecycle.draining:
        raise NotReady("the service is stopping", retry_after=5.0)
    if unready := service.registry.unready:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in unready.items())
        raise NotReady(reasons, retry_after=2.0)
    return Health(status="ok")


@router.get(
    "/metrics",
    operation_id="metrics",
    summary="Prometheus metrics",
    response_class=Response,
    dependencies=[Depends(require_metrics)],
    responses={
        200: {"content": {"text/plain": {"schema": {"type": "string"}}}},
        **problems(401, 403, 429),
    },
)
async def metrics(request: Request) -> Response:
    """In the text format, or OpenMetrics where the scraper asks for it."""
    try:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
    except (TypeError, ValueError):  # a version that is none, which the library does not expect
        encode, content_type = choose_encoder("")
    return Response(encode(REGISTRY), headers={"content-type": content_type})
