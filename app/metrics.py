"""Every metric of the service, with its labels and buckets. No label takes free text."""

from __future__ import annotations

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)

disable_created_metrics()  # type: ignore[no-untyped-call]

REGISTRY = CollectorRegistry()
ProcessCollector(namespace="intent", registry=REGISTRY)

SECONDS = (
    0.001, 0.0015, 0.002, 0.003, 0.004, 0.005, 0.0075, 0.01, 0.0125, 0.015, 0.02, 0.025, 0.03, 0.035,
    0.04, 0.05, 0.06, 0.075, 0.1, 0.125, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 10.0, 30.0,
)  # fmt: skip
"""Dense between 1 ms and 1 s, where the answers lie."""

REQUESTS = Counter(
    "intent_requests",
    "HTTP requests by route template and status; 499 means that the caller hung up.",
    ("route", "status"),
    registry=REGISTRY,
)
REQUEST_DURATION = Histogram(
    "intent_request_duration_seconds",
    "From the request's head to the end of its answer.",
    ("route",),
    buckets=SECONDS,
    registry=REGISTRY,
)
IN_FLIGHT = Gauge(
    "intent_requests_in_flight", "HTTP requests being answered now.", registry=REGISTRY
)
QUEUE_DURATION = Histogram(
    "intent_queue_duration_seconds",
    "A message's wait from admission to the start of its batch.",
    ("model",),
    buckets=SECONDS,
    registry=REGISTRY,
)
INFERENCE_DURATION = Histogram(
    "intent_inference_duration_seconds",
    "Time to compute one batch.",
    ("model",),
    buckets=SECONDS,
    registry=REGISTRY,
)
BATCH_MESSAGES = Histogram(
    "intent_batch_messages",
    "Messages in one batch.",
    ("model",),
    buckets=(1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 128, 256),
    registry=REGISTRY,
)
QUEUE_TOKENS = Gauge(
    "intent_queue_tokens",
    "Message tokens that are admitted and not yet answered.",
    ("model",),
    registry=REGISTRY,
)
REJECTIONS = Counter(
    "intent_rejections",
    "Requests refused or given up, by reason: the slug of the problem they were answered with.",
    ("reason",),
    registry=REGISTRY,
)
PREDICTIONS = Counter(
    "intent_predictions",
    "Decisions given out, from the cache or computed.",
    ("model", "version", "intent"),
    registry=REGISTRY,
)
CONFIDENCE = Histogram(
    "intent_confidence",
    "Confidence of the decisions given out.",
    ("model", "version"),
    buckets=tuple(step / 20 for step in range(1, 21)),
    registry=REGISTRY,
)
CACHE_REQUESTS = Counter(
    "intent_cache_requests",
    "Messages looked up in the result cache: hit, miss, or off.",
    ("result",),
    registry=REGISTRY,
)
CACHE_BYTES = Gauge(
    "intent_cache_bytes", "Memory that the result cache accounts for.", registry=REGISTRY
)
MODEL_INFO = Gauge(
    "intent_model_info",
    "1 for each live model.",
    ("model", "version", "backend"),
    registry=REGISTRY,
)
MODEL_LOADS = Counter(
    "intent_model_loads",
    "Attempts to bring a model to life: live, failed.",
    ("model", "result"),
    registry=REGISTRY,
)
