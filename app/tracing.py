"""Traces of answered requests over OTLP: what waited, what computed. Optional, and off by default.

The provider is our own and no global one is set, so no library adds spans, and none can carry a
customer's words: what is told is counts, names and times.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

Step: TypeAlias = tuple[str, float, float]
"""A name, and when it began and ended, on the clock ``perf_counter``."""


class TracingUnavailable(ValueError):
    """The packages for traces are not installed."""


class Traces:
    """Records whole requests after their answer; sending is a thread's of its own."""

    def __init__(self, exporter: SpanExporter) -> None:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        resource = Resource.create({"service.name": "shopintent"})
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("shopintent")

    def record(
        self,
        headers: Mapping[str, str],
        request: Step,
        steps: Iterable[Step],
        attributes: Mapping[str, str | int],
    ) -> None:
        """A span for ``request`` with one below it for each step.

        It continues the caller's trace where ``headers`` hold a ``traceparent``.
        """
        from opentelemetry.trace import SpanKind, set_span_in_context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        # Spans want the time of day; the clock of the steps has another zero.
        zero = time.time() - time.perf_counter()

        def nanoseconds(moment: float) -> int:
            return round((zero + moment) * 1e9)

        context = TraceContextTextMapPropagator().extract(dict(headers))
        name, began, ended = request
        parent = self._tracer.start_span(
            name, context, SpanKind.SERVER, attributes=attributes, start_time=nanoseconds(began)
        )
        below = set_span_in_context(parent, context)
        for step, start, end in steps:
            span = self._tracer.start_span(step, below, start_time=nanoseconds(start))
            span.end(nanoseconds(end))
        parent.end(nanoseconds(ended))

    def close(self) -> None:
        """Send what is left."""
        self._provider.shutdown()


def traces_to(endpoint: str) -> Traces:
    """Traces sent to an OTLP/HTTP address. Raises :class:`TracingUnavailable`."""
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError:
        raise TracingUnavailable(
            "INTENT_TRACES_ENDPOINT needs packages: pip install 'shopintent[otel]'"
        ) from None
    return Traces(OTLPSpanExporter(endpoint=endpoint))
