"""The Open Inference Protocol (v2), as KServe and Triton's clients speak it."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Path, Request
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.responses import Response

from app.api.auth import require_scope
from app.api.classify import decide
from app.api.openapi import problems
from app.api.probes import readyz
from app.api.schemas import ModelPath
from app.api.state import service_of
from app.api.tensors import (
    DATATYPES,
    EXAMPLE,
    INPUT,
    InferRequest,
    Tensor,
    read_request,
    write_response,
)
from app.domain import OUT_OF_SCOPE, ModelRef
from app.errors import InputError, UnknownModel
from app.serving.service import Decision

_JSON_LENGTH = "Inference-Header-Content-Length"
_FAILURES = problems(401, 403, 404, 429, 503)

router = APIRouter(tags=["open inference protocol"])
models = APIRouter(
    prefix="/v2", dependencies=[Depends(require_scope("classify"))], responses=_FAILURES
)

Version = Annotated[str, Path(description="The version that is served.", examples=["1"])]
JsonLength = Annotated[
    int | None,
    Header(
        alias=_JSON_LENGTH,
        ge=0,
        le=1 << 40,
        description="Where the JSON ends, when the messages follow it as bytes.",
    ),
]


class ServerMetadata(BaseModel):
    """What serves."""

    name: str = Field(examples=["shopintent"])
    version: str
    extensions: list[str] = Field(examples=[["binary_tensor_data"]])


class TensorMetadata(BaseModel):
    """A tensor; -1 is any number."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, Any] | None = None


class ModelMetadata(BaseModel):
    """A served model and its tensors."""

    name: str
    versions: list[str]
    platform: str = Field(examples=["shopintent_gguf"])
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class Liveness(BaseModel):
    """The answer of a probe that says yes."""

    live: bool = True


class Readiness(BaseModel):
    """The answer of a probe that says yes."""

    ready: bool = True
    name: str | None = None


class InferredTensor(TensorMetadata):
    """An output; `data` is missing where its bytes follow the JSON."""

    data: list[Any] | None = None


class InferResponse(BaseModel):
    """One row a message in every output."""

    model_name: str
    model_version: str
    id: str | None = None
    outputs: list[InferredTensor]


@router.head("/v2/health/live", include_in_schema=False)
@router.get("/v2/health/live", operation_id="v2Live", summary="Does the process answer?")
async def live() -> Liveness:
    """As /livez."""
    return Liveness()


@router.head("/v2/health/ready", include_in_schema=False, response_model_exclude_none=True)
@router.get(
    "/v2/health/ready",
    operation_id="v2Ready",
    summary="May it be sent work?",
    responses=problems(503),
    response_model_exclude_none=True,
)
async def ready(request: Request) -> Readiness:
    """As /readyz."""
    await readyz(request)
    return Readiness()


@models.get("", operation_id="v2Server", summary="What serves here?")
async def server(request: Request) -> ServerMetadata:
    """Name, version and extensions."""
    return ServerMetadata(
        name="shopintent", version=request.app.version, extensions=["binary_tensor_data"]
    )


@models.get(
    "/models/{name}",
    operation_id="v2Model",
    summary="What goes in and out?",
    response_model_exclude_none=True,
)
async def model(request: Request, name: ModelPath) -> ModelMetadata:
    """Inputs and outputs. The columns of `scores` are told in its parameter `labels`."""
    return _metadata(*_served(request, name, None))


@models.get(
    "/models/{name}/versions/{version}",
    operation_id="v2ModelVersion",
    summary="What goes in and out of this version?",
    response_model_exclude_none=True,
)
async def model_version(request: Request, name: ModelPath, version: Version) -> ModelMetadata:
    """As without the version; 404 when it is not the one that is served."""
    return _metadata(*_served(request, name, version))


def _metadata(ref: ModelRef, labels: tuple[str, ...]) -> ModelMetadata:
    shapes = {"scores": [-1, len(labels)]}
    return ModelMetadata(
        name=ref.name,
        versions=[ref.version],
        platform=f"shopintent_{ref.backend}",
        inputs=[TensorMetadata(name=INPUT, datatype="BYTES", shape=[-1])],
        outputs=[
            TensorMetadata(
                name=output,
                datatype=datatype,
                shape=shapes.get(output, [-1]),
                parameters=_labels(labels) if output == "scores" else None,
            )
            for output, datatype in DATATYPES.items()
        ],
    )


@models.get("/models/{name}/ready", operation_id="v2ModelReady", summary="Does this model answer?")
async def model_ready(request: Request, name: ModelPath) -> Readiness:
    """200 when it is live."""
    ref, _ = _served(request, name, None)
    return Readiness(name=ref.name)


@models.get(
    "/models/{name}/versions/{version}/ready",
    operation_id="v2ModelVersionReady",
    summary="Does this version answer?",
)
async def model_version_ready(request: Request, name: ModelPath, version: Version) -> Readiness:
    """200 when it is live, 404 when another version is."""
    ref, _ = _served(request, name, version)
    return Readiness(name=ref.name)


_INFER: dict[str, Any] = {
    "response_model": InferResponse,
    "responses": problems(400, 408, 413, 415, 422, 500, 504),
    "openapi_extra": {
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": {"$ref": "#/components/schemas/InferRequest"},
                    "example": EXAMPLE,
                },
                "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            },
        }
    },
}


@models.post(
    "/models/{name}/infer",
    operation_id="v2Infer",
    summary="What do these customers want?",
    **_INFER,
)
async def infer(request: Request, name: ModelPath, json_length: JsonLength = None) -> Response:
    """Decide on a tensor of messages, sent as JSON or as bytes behind JSON."""
    return await _infer(request, name, None, json_length)


@models.post(
    "/models/{name}/versions/{version}/infer",
    operation_id="v2InferVersion",
    summary="What do these customers want, by this version?",
    **_INFER,
)
async def infer_version(
    request: Request, name: ModelPath, version: Version, json_length: JsonLength = None
) -> Response:
    """As without the version; 404 when it is not the one that is served."""
    return await _infer(request, name, version, json_length)


async def _infer(
    request: Request, name: str, version: str | None, json_length: int | None
) -> Response:
    if request.headers.get("content-encoding", "identity") != "identity":
        raise HTTPException(415)
    content = await request.body()
    _, labels = _served(request, name, version)  # another may have become live while the body came
    asked, texts = read_request(content, json_length)
    decisions = await decide(request, texts, name, _timeout_ms(asked))
    ref = decisions[0].model
    _must_be(ref, version)  # or while it was taken in
    head = {"model_name": ref.name, "model_version": ref.version}
    if asked.id is not None:
        head["id"] = asked.id
    body, length = write_response(asked, head, _tensors(decisions, labels))
    if length is None:
        return Response(body, media_type="application/json")
    return Response(
        body, media_type="application/octet-stream", headers={_JSON_LENGTH: str(length)}
    )


def _timeout_ms(asked: InferRequest) -> int | None:
    """Of Triton's parameter ``timeout``, in microseconds; 0 and less, as no number, sets none."""
    limit = asked.parameters.get("timeout")
    if isinstance(limit, bool) or not isinstance(limit, int | float) or limit <= 0:
        return None
    # More than Triton's clients can send: JSON can say infinity, and digits without end.
    if not limit < 1 << 64:
        raise InputError("#/parameters/timeout: microseconds in at most 64 bits")
    return max(1, int(limit / 1e3))


def _served(request: Request, name: str, version: str | None) -> tuple[ModelRef, tuple[str, ...]]:
    """The live model of that name and its in-scope labels. Raises :class:`UnknownModel`."""
    found = service_of(request).registry.get(name)
    manifest = found.loaded.manifest
    _must_be(found.ref, version)
    return found.ref, tuple(
        label.intent for label in manifest.labels if label.intent != OUT_OF_SCOPE
    )


def _must_be(ref: ModelRef, version: str | None) -> None:
    if version is not None and version != ref.version:
        raise UnknownModel(f"the version served here is {ref.version}")


def _labels(labels: tuple[str, ...]) -> dict[str, Any]:
    return {"labels": list(labels)}


def _tensors(decisions: list[Decision], labels: tuple[str, ...]) -> list[Tensor]:
    n = len(decisions)
    predictions = [decision.prediction for decision in decisions]
    scores: list[float] = []
    for found in predictions:
        by_intent = {score.intent: score.confidence for score in found.ranking}
        scores += [by_intent.get(label, 0.0) for label in labels]
    return [
        Tensor("intent", (n,), [found.intent for found in predictions], {}),
        Tensor("confidence", (n,), [found.confidence for found in predictions], {}),
        Tensor("in_scope", (n,), [found.in_scope for found in predictions], {}),
        Tensor("scores", (n, len(labels)), scores, _labels(labels)),
    ]


router.include_router(models)
