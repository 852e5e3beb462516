"""``/v1/admin``: which version is served. For operators, and closed to everybody else."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import datetime
from time import perf_counter
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from app.api.auth import require_scope
from app.api.classify import require_json
from app.api.openapi import problems
from app.api.schemas import ModelPath
from app.api.state import rollouts_of, service_of
from app.artifacts.manifest import Version
from app.errors import CandidateRefused
from app.serving.live_model import State
from app.serving.shadow import Shadow
from app.serving.slot import Change, ChangeState, Slot

Wait = Annotated[
    float,
    Query(ge=0, le=600, description="Seconds to wait for the end of the change; then 202."),
]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class VersionRequest(_Body):
    """A version in the store."""

    version: Version = Field(examples=["2"])


class ShadowRequest(VersionRequest):
    """A version in the store, and how much of the traffic it is shown."""

    share: float = Field(gt=0, le=1, examples=[0.1])


class ChangeStatus(BaseModel):
    """The last change of the served version, or the one under way."""

    kind: str = Field(description="`activate`, `rollback`, `reload` or `watch`.")
    version: str
    state: str = Field(description="`loading`, `live` or `refused`.")
    reason: str | None = Field(description="Why it was refused.")
    kept: bool | None = Field(description="Whether the store remembers it after a restart.")
    began: datetime
    seconds: float | None = Field(description="Until the switch or the refusal.")


class ShadowStatus(BaseModel):
    """A candidate beside the live version, and how its decisions compare so far."""

    version: str
    share: float
    state: str
    reason: str | None
    agreed: int
    differed: int
    dropped: int
    failed: int


class ServedModel(BaseModel):
    """A served name: what is live, what is in the store, what is going on."""

    name: str
    state: str
    reason: str | None
    version: str | None
    digest: str | None
    live_since: datetime | None
    before: list[str] = Field(description="Live before it in this process, the last one last.")
    stored: list[str] = Field(description="Published versions in the store.")
    active: str | None = Field(description="The version that the store names to be served.")
    change: ChangeStatus | None
    shadow: ShadowStatus | None


_LOOK_EVERY = 0.1
"""Seconds between two looks whether the service is stopping."""


async def _while_open(request: Request) -> None:
    """Nothing is loaded into a service that is stopping."""
    service_of(request).check_open()


# A page of another origin cannot send JSON unasked, so no browser can be tricked into a change.
_CHANGES = [Depends(require_json), Depends(_while_open)]
_CHANGE_RESPONSES: dict[int | str, dict[str, Any]] = {
    202: {"description": "Still under way", "model": ServedModel},
    **problems(400, 408, 409, 413, 415, 422),
}

router = APIRouter(
    prefix="/v1/admin",
    tags=["admin"],
    dependencies=[Depends(require_scope("admin"))],
    responses=problems(401, 403, 404, 429, 500, 503),
)


@router.get(
    "/models/{name}", operation_id="getServedModel", summary="Which version, and since when?"
)
async def get_model(name: ModelPath, request: Request) -> ServedModel:
    """The state of one served name; poll it while a change is under way."""
    return await _served(request, name)


@router.post(
    "/models/{name}/activate",
    operation_id="activateVersion",
    summary="Serve this version",
    dependencies=_CHANGES,
    responses=_CHANGE_RESPONSES,
)
async def activate(
    name: ModelPath, body: VersionRequest, request: Request, response: Response, wait: Wait = 30.0
) -> ServedModel:
    """Load, verify, warm up and check a version; when it passes, it takes over.

    200 when it serves, 409 when it was refused and the one before serves on, 202 when it is still
    under way after `wait` seconds.
    """
    change = await rollouts_of(request).activate(name, body.version)
    return await _ended(request, response, name, change, wait)


@router.post(
    "/models/{name}/rollback",
    operation_id="rollBack",
    summary="Serve the version before",
    dependencies=_CHANGES,
    responses=_CHANGE_RESPONSES,
)
async def roll_back(
    name: ModelPath, request: Request, response: Response, wait: Wait = 30.0
) -> ServedModel:
    """Go back to the version that was live before this one. Answers as `activate` does."""
    change = await rollouts_of(request).roll_back(name)
    return await _ended(request, response, name, change, wait)


@router.post(
    "/models/{name}/reload",
    operation_id="reloadModel",
    summary="Serve what the store says",
    dependencies=_CHANGES,
    responses=_CHANGE_RESPONSES,
)
async def reload(
    name: ModelPath, request: Request, response: Response, wait: Wait = 30.0
) -> ServedModel:
    """Load the store's active version anew. Answers as `activate` does."""
    change = await rollouts_of(request).reload(name)
    return await _ended(request, response, name, change, wait)


@router.put(
    "/models/{name}/shadow",
    operation_id="beginShadow",
    summary="Compare a version on live messages",
    status_code=202,
    dependencies=_CHANGES,
    responses=problems(400, 408, 409, 413, 415, 422),
)
async def begin_shadow(name: ModelPath, body: ShadowRequest, request: Request) -> ServedModel:
    """Show a version a share of the messages, after their answers; it answers for nobody.

    Ends with the next change of the served version.
    """
    await rollouts_of(request).begin_shadow(name, body.version, body.share)
    return await _served(request, name)


@router.delete("/models/{name}/shadow", operation_id="endShadow", summary="Stop comparing")
async def end_shadow(name: ModelPath, request: Request) -> ServedModel:
    """Take the shadow down, if there is one."""
    rollouts_of(request).end_shadow(name)
    return await _served(request, name)


async def _ended(
    request: Request, response: Response, name: str, change: Change, wait: float
) -> ServedModel:
    lifecycle = service_of(request).lifecycle
    end = perf_counter() + wait
    # The server stops when its requests have ended: one that waits must not hold that up.
    while not (change.ended.is_set() or lifecycle.draining or (left := end - perf_counter()) <= 0):
        with suppress(TimeoutError):
            async with asyncio.timeout(min(left, _LOOK_EVERY)):
                await change.ended.wait()
    if not change.ended.is_set() or change.state is ChangeState.LOADING:  # closed beside it
        service_of(request).check_open()
        response.status_code = 202
    if change.state is ChangeState.REFUSED:
        raise CandidateRefused(f"version {change.version} was refused: {change.reason}")
    return await _served(request, name)


async def _served(request: Request, name: str) -> ServedModel:
    rollouts = rollouts_of(request)
    slot = rollouts.registry.slot(name)
    stored, active = await asyncio.to_thread(rollouts.in_store, name)
    model = slot.current
    live = model.state is State.LIVE
    return ServedModel(
        name=name,
        state=model.state.value,
        reason=model.reason,
        version=model.ref.version if live else None,
        digest=model.digest if live else None,
        live_since=slot.live_since if live else None,
        before=slot.history,
        stored=list(stored),
        active=active,
        change=_change(slot),
        shadow=_shadow(slot.shadow) if slot.shadow else None,
    )


def _change(slot: Slot) -> ChangeStatus | None:
    change = slot.change
    if change is None:
        return None
    return ChangeStatus(
        kind=change.kind,
        version=change.version,
        state=change.state.value,
        reason=change.reason,
        kept=change.kept,
        began=change.began,
        seconds=round(change.seconds, 3) if change.seconds is not None else None,
    )


def _shadow(shadow: Shadow) -> ShadowStatus:
    counts = shadow.counts
    return ShadowStatus(
        version=shadow.version,
        share=shadow.share,
        state=shadow.candidate.state.value,
        reason=shadow.candidate.reason,
        agreed=counts["agreed"],
        differed=counts["differed"],
        dropped=counts["dropped"],
        failed=counts["failed"],
    )
