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
FEEDBACK = Counter(
    "intent_feedback",
    "Decisions that a caller told the right intent of: agrees, corrects.",
    ("verdict",),
    registry=REGISTRY,
)
CLIENT_REQUESTS = Counter(
    "intent_client_requests",
    "Requests by the name of the caller's key; anonymous where no key is asked for.",
    ("client",),
    registry=REGISTRY,
)
KEYS_UNREADABLE = Gauge(
    "intent_keys_unreadable",
    "1 while the key file cannot be read and the keys read last are in force.",
    registry=REGISTRY,
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
CART_DECISIONS = Counter(
    "intent_cart_decisions",
    "Cart decisions given out, from the cache or computed, by what they came to.",
    ("model", "version", "outcome"),
    registry=REGISTRY,
)
CART_CONSIDERED = Histogram(
    "intent_cart_considered_products",
    "Products that the model read for one cart decision, after the shortlist.",
    ("model",),
    buckets=(1, 2, 4, 8, 12, 16, 24, 32, 48, 64),
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
FIRST_STAGE = Counter(
    "intent_first_stage",
    "Messages that n-grams were asked about before the language model: answered, passed on.",
    ("model", "result"),
    registry=REGISTRY,
)
MODEL_LOADS = Counter(
    "intent_model_loads",
    "Attempts to bring a model to life: live, failed.",
    ("model", "result"),
    registry=REGISTRY,
)
MODEL_LOAD_SECONDS = Gauge(
    "intent_model_load_seconds",
    "What the last successful load took: verifying, loading, warming up and checking.",
    ("model",),
    registry=REGISTRY,
)
MODEL_CHANGES = Counter(
    "intent_model_changes",
    "Changes of the served version by what asked for them (activate, rollback, reload, watch) and "
    "result: live, or refused, and then the version before serves on.",
    ("model", "kind", "result"),
    registry=REGISTRY,
)
GPU_MEMORY = Gauge(
    "intent_gpu_memory_bytes",
    "GPU memory in use by tensors (allocated), and held for them (reserved); none on a CPU.",
    ("kind",),
    registry=REGISTRY,
)
OUT_OF_MEMORY = Counter(
    "intent_out_of_memory",
    "Batches that did not fit into the GPU's memory and were computed in halves.",
    registry=REGISTRY,
)
READY = Gauge(
    "intent_ready", "1 when every model is live and the service is not stopping.", registry=REGISTRY
)
QUEUE_LIMIT = Gauge(
    "intent_queue_limit_tokens",
    "Bound on intent_queue_tokens, for each model.",
    registry=REGISTRY,
)
DRIFT = Gauge(
    "intent_drift_psi",
    "Population stability index of the last decisions' intents against the shares the model was "
    "published with (published) or the first window since it went live (first); NaN until enough.",
    ("model", "reference"),
    registry=REGISTRY,
)
SHADOW_MESSAGES = Counter(
    "intent_shadow_messages",
    "Messages for a candidate beside the live model: agreed or differed on the intent, dropped "
    "under load, failed.",
    ("model", "version", "result"),
    registry=REGISTRY,
)
SHADOW_DIFFERENCE = Histogram(
    "intent_shadow_confidence_difference",
    "How far the candidate's confidence in its decision is from the live model's.",
    ("model", "version"),
    buckets=(0.005, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0),
    registry=REGISTRY,
)
