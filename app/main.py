"""The application: what it is made of, in which order it comes up and goes down."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version

import structlog
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from app import metrics
from app.api import (
    admin,
    cart,
    classify,
    feedback,
    inference_v2,
    models,
    pages,
    probes,
    problems,
    rasa,
)
from app.api.auth import Access, Guard, choose_access
from app.api.hangup import CallerGone, on_caller_gone
from app.api.middleware import BodyLimit, RequestContext, Unforeseen
from app.api.openapi import document
from app.api.rates import Rates
from app.api.state import State
from app.artifacts.shares import published_shares
from app.artifacts.store import Store
from app.backends.base import BackendOptions
from app.classification.loading import load_classifier
from app.cpu import cpu_budget
from app.errors import ShopintentError
from app.feedback.desk import FeedbackDesk
from app.feedback.sqlite import SqliteFeedback
from app.serving.background import GiveWay
from app.serving.batcher import Load, Loaded
from app.serving.cache import PredictionCache
from app.serving.lifecycle import Lifecycle
from app.serving.limits import Limits
from app.serving.registry import Registry
from app.serving.rollouts import Rollouts
from app.serving.service import Service
from app.serving.watch import StoreWatch
from app.settings import Settings
from app.tracing import Traces, traces_to

log = structlog.get_logger()

CLOSE_SECONDS = 60.0
"""The longest that closing waits for admitted work."""
_ROUTERS = tuple(
    module.router
    for module in (classify, cart, feedback, rasa, inference_v2, models, admin, probes, pages)
)


def create_app(
    settings: Settings | None = None,
    *,
    lifecycle: Lifecycle | None = None,
    load: Load | None = None,
) -> FastAPI:
    """The service. ``lifecycle`` is shared with the server that runs it; ``load`` is for tests.

    Raises :class:`app.api.auth.UnsafeExposure` rather than to listen beyond loopback without keys,
    :class:`app.errors.FeedbackLost` when the feedback file cannot be used, and
    :class:`app.tracing.TracingUnavailable`.
    """
    settings = settings or Settings()
    lifecycle = lifecycle or Lifecycle()
    access = _access(settings)
    desk = _feedback_desk(settings)
    traces = traces_to(settings.traces_endpoint) if settings.traces_endpoint else None
    limits = Limits(
        text_chars=settings.max_text_chars,
        batch_messages=settings.max_batch,
        body_bytes=settings.max_body_bytes,
        queue_tokens=settings.queue_tokens,
        catalog_entries=settings.max_catalog,
        entry_chars=settings.max_entry_chars,
        deadline=settings.deadline_ms / 1e3,
    )
    app = FastAPI(
        title="Shopintent",
        version=_version(),
        lifespan=_lifespan(
            settings, limits, lifecycle, load or model_loader(settings), desk, traces
        ),
        docs_url=None,
        openapi_url=None,  # app.api.pages serves it
        redoc_url=None,
        redirect_slashes=False,  # the target would be made from the caller's own Host header
        middleware=_middleware(settings, access, limits, lifecycle),
        exception_handlers={
            ShopintentError: problems.on_failure,
            RequestValidationError: problems.on_invalid_request,
            HTTPException: problems.on_http_exception,
            CallerGone: on_caller_gone,
        },
    )
    app.openapi = partial(document, app, access)  # type: ignore[method-assign]
    for router in _ROUTERS:
        app.include_router(router)
    return app


def _access(settings: Settings) -> Access:
    return choose_access(
        settings.auth,
        settings.host,
        settings.keys,
        settings.keys_file,
        public_metrics=settings.public_metrics,
    )


def _middleware(
    settings: Settings, access: Access, limits: Limits, lifecycle: Lifecycle
) -> list[Middleware]:
    """From the outside in."""
    cors = Middleware(
        CORSMiddleware,
        allow_origins=settings.cors_origins,
        allow_methods=("GET", "POST"),
        allow_headers=("Authorization", "Content-Type", "Request-Timeout-Ms", "X-Request-Id"),
        expose_headers=("Retry-After", "X-Request-Id"),
    )
    return [
        Middleware(
            RequestContext,
            lifecycle=lifecycle,
            routes=[route for router in _ROUTERS for route in router.routes],
        ),
        # Before the guard: a browser asks without a key whether it may ask with one.
        *([cors] if settings.cors_origins else []),
        Middleware(Unforeseen),
        Middleware(
            Guard, access=access, rates=Rates(settings.rate_per_second, settings.rate_burst)
        ),
        Middleware(BodyLimit, max_bytes=limits.body_bytes, seconds=settings.read_seconds),
    ]


def _lifespan(
    settings: Settings,
    limits: Limits,
    lifecycle: Lifecycle,
    load: Load,
    desk: FeedbackDesk | None,
    traces: Traces | None,
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

        metrics.READY.set_function(lambda: not (lifecycle.draining or registry.unready))
        store = open_store(settings)
        registry.start(settled)
        watch = StoreWatch(registry, store, settings.watch_seconds)
        purging = asyncio.create_task(desk.purge_hourly()) if desk else None
        watching = asyncio.create_task(watch.run()) if settings.watch_seconds else None
        try:
            yield State(
                service=Service(registry, cache, limits, lifecycle, settings.cascade),
                rollouts=Rollouts(registry, store),
                desk=desk,
                traces=traces,
            )
        finally:
            lifecycle.draining = True
            if purging is not None:
                purging.cancel()
            if watching is not None:
                watching.cancel()
            await registry.close(CLOSE_SECONDS)
            if desk is not None:
                await desk.close()
            if traces is not None:
                await asyncio.to_thread(traces.close)

    return lifespan


def backend_options(settings: Settings) -> BackendOptions:
    """The operator's options; threads by default from what this process may use."""
    return BackendOptions(
        threads=settings.threads or cpu_budget().model_threads,
        max_sequences=settings.max_sequences,
        max_tokens=settings.max_tokens,
        max_prefix_tokens=settings.cart_catalog_tokens,
        kept_prefix_tokens=settings.cart_cache_tokens,
        plain_bytes=settings.gpu_plain_mb * 1_000_000,
    )


def _feedback_desk(settings: Settings) -> FeedbackDesk | None:
    """Raises :class:`app.errors.FeedbackLost` when the file cannot be used."""
    if settings.feedback_file is None:
        return None
    return FeedbackDesk(
        SqliteFeedback(settings.feedback_file),
        keep_text=settings.feedback_text,
        days=settings.feedback_days,
        recent_bytes=settings.feedback_recent_bytes,
    )


def model_loader(settings: Settings) -> Load:
    """Loads a version of a name from the store, with the operator's options."""
    options = backend_options(settings)
    store = open_store(settings)

    def load(name: str, version: str | None = None, give_way: GiveWay | None = None, /) -> Loaded:
        artifact = store.resolve(name, version)
        classifier = load_classifier(
            artifact, replace(options, give_way=give_way), settings.backend
        )
        if settings.cascade in ("careful", "fast") and classifier.model.cascade is None:
            log.warning(
                "no cascade was fitted for this model; both halves answer everything", model=name
            )
        return Loaded(artifact.manifest, classifier, published_shares(artifact))

    return load


def open_store(settings: Settings) -> Store:
    """The store, which serves only signed models where there is a key.

    Raises :class:`app.errors.ManifestInvalid` when the key cannot be read.
    """
    return Store.open(settings.store_dir, settings.signing_key_file)


def _version() -> str:
    try:
        return version("shopintent")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "0"
