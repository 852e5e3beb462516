"""The application: what it is made of, in which order it comes up and goes down."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from importlib.metadata import PackageNotFoundError, version

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware

from app.api import classify, models, pages, probes, problems
from app.api.hangup import CallerGone, on_caller_gone
from app.api.middleware import BodyLimit, RequestContext
from app.api.openapi import document
from app.api.state import State
from app.artifacts.store import Store
from app.backends.base import BackendOptions
from app.classification.loading import load_classifier
from app.cpu import cpu_budget
from app.errors import ShopintentError
from app.serving.batcher import Load, Loaded
from app.serving.cache import PredictionCache
from app.serving.lifecycle import Lifecycle
from app.serving.limits import Limits
from app.serving.registry import Registry
from app.serving.service import Service
from app.settings import Settings

CLOSE_SECONDS = 60.0
"""The longest that closing waits for admitted work."""


def create_app(
    settings: Settings | None = None,
    *,
    lifecycle: Lifecycle | None = None,
    load: Load | None = None,
) -> FastAPI:
    """The service. ``lifecycle`` is shared with the server that runs it; ``load`` is for tests."""
    settings = settings or Settings()
    lifecycle = lifecycle or Lifecycle()
    limits = Limits(
        text_chars=settings.max_text_chars,
        batch_messages=settings.max_batch,
        body_bytes=settings.max_body_bytes,
        queue_tokens=settings.queue_tokens,
        deadline=settings.deadline_ms / 1e3,
    )
    app = FastAPI(
        title="Shopintent",
        version=_version(),
        lifespan=_lifespan(settings, limits, lifecycle, load or model_loader(settings)),
        docs_url=None,
        redoc_url=None,
        middleware=[
            Middleware(RequestContext, lifecycle=lifecycle),
            Middleware(BodyLimit, max_bytes=limits.body_bytes),
        ],
        exception_handlers={
            ShopintentError: problems.on_failure,
            RequestValidationError: problems.on_invalid_request,
            HTTPException: problems.on_http_exception,
            CallerGone: on_caller_gone,
        },
    )
    app.openapi = partial(document, app)  # type: ignore[method-assign]
    for router in (classify.router, models.router, probes.router, pages.router):
        app.include_router(router)
    return app


def _lifespan(
    settings: Settings, limits: Limits, lifecycle: Lifecycle, load: Load
) -> Callable[[FastAPI], AbstractAsyncContextManager[State]]:
    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[State]:
        cache = PredictionCache(settings.cache_bytes)
        registry = Registry(settings.models, load, limits.queue_tokens)

        def settled() -> None:
            lifecycle.live = registry.started
            # What stands now stays: later collections need not walk it, so none holds up an answer.
            gc.collect()
            gc.freeze()
            if not registry.started:
                lifecycle.failure = "; ".join(
                    f"{name}: {reason}" for name, reason in registry.unready.items()
                )

        registry.start(settled)
        try:
            yield State(service=Service(registry, cache, limits, lifecycle))
        finally:
            lifecycle.draining = True
            await registry.close(CLOSE_SECONDS)

    return lifespan


def model_loader(settings: Settings) -> Load:
    """Loads the active version of a name from the store, with the operator's options."""
    options = BackendOptions(
        threads=settings.threads or cpu_budget().model_threads,
        max_sequences=settings.max_sequences,
        max_tokens=settings.max_tokens,
    )
    store = Store(settings.store_dir)

    def load(name: str) -> Loaded:
        artifact = store.resolve(name)
        return Loaded(artifact.manifest, load_classifier(artifact, options, settings.backend))

    return load


def _version() -> str:
    try:
        return version("shopintent")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "0"
