"""``GET /v1/models`` and ``/v1/models/{name}``."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Request

from app.api.auth import require_scope
from app.api.openapi import problems
from app.api.schemas import IntentInfo, ModelDetails, ModelList, ModelPath, ModelSummary
from app.api.state import service_of
from app.domain import OUT_OF_SCOPE
from app.serving.live_model import LiveModel, State

router = APIRouter(
    prefix="/v1",
    tags=["models"],
    dependencies=[Depends(require_scope("classify"))],
    responses=problems(401, 403, 429),
)


@router.get("/models", operation_id="listModels", summary="Which models are served?")
async def list_models(request: Request) -> ModelList:
    """Every served model, the default one first."""
    registry = service_of(request).registry
    return ModelList(
        models=[_summary(model, registry.default) for model in registry.models.values()]
    )


@router.get(
    "/models/{name}",
    operation_id="getModel",
    summary="What does this model know?",
    responses=problems(404),
)
async def get_model(name: ModelPath, request: Request) -> ModelDetails:
    """One served model: its intents, its evaluation, what it was trained on."""
    registry = service_of(request).registry
    model = registry.get(name)
    summary = _summary(model, registry.default).model_dump()
    if model.state is not State.LIVE:
        return ModelDetails(**summary)
    manifest, classifier = model.loaded.manifest, model.loaded.classifier
    return ModelDetails(
        **summary,
        digest=model.digest,
        created=manifest.created,
        threshold=classifier.model.calibration.threshold,
        max_message_tokens=classifier.backend.info.max_message_tokens,
        intents=[
            IntentInfo(intent=label.intent, group=label.group, description=label.description)
            for label in manifest.labels
        ],
        evaluation=manifest.evaluation,
        trained_on=list(manifest.trained_on),
        licence=manifest.licence,
    )


def _summary(model: LiveModel, default: str) -> ModelSummary:
    if model.state is not State.LIVE:
        return ModelSummary(
            name=model.name,
            state=model.state.value,
            default=model.name == default,
            reason=model.reason,
        )
    manifest = model.loaded.manifest
    return ModelSummary(
        name=model.name,
        state=model.state.value,
        default=model.name == default,
        reason=None,
        version=manifest.version,
        backend=model.ref.backend,
        languages=list(manifest.languages),
        intent_count=sum(label.intent != OUT_OF_SCOPE for label in manifest.labels),
        tasks=["intent", "cart"] if model.reads_carts else ["intent"],
    )
