"""Traces: a span for each request, as part of the client's trace (W3C trace context), with spans for queue, run and encode.

If tracing is off, its cost is the lookup of a context variable. It needs the extra `tracing`. OpenTelemetry's variables (OTEL_EXPORTER_OTLP_*,
OTEL_TRACES_SAMPLER, OTEL_RESOURCE_ATTRIBUTES) configure the export and the sampling of spans.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any, TypeAlias

from manifold.runtime import extras
from manifold.service.settings import Settings, SettingsError

Tracer: TypeAlias = Any  # OpenTelemetry's type; the package may not be installed
CARRIED = ("traceparent", "tracestate")

_current: ContextVar[Trace | None] = ContextVar("trace", default=None)


class Tracing:
    """The maker of the spans of one service."""

    def __init__(self, provider: Any) -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self.provider, self.tracer = provider, provider.get_tracer("manifold")
        self.propagator = TraceContextTextMapPropagator()

    def begin(self, name: str, carried: Mapping[str, str], **attributes: str) -> Trace:
        """Start the span of a request, for everything in its context. `carried` may contain the client's trace context."""
        from opentelemetry.trace import SpanKind

        context = self.propagator.extract({key: carried[key] for key in CARRIED if key in carried})
        span = self.tracer.start_span(name, context, SpanKind.SERVER, attributes)
        trace = Trace(self.tracer, span)
        _current.set(trace)
        return trace

    def close(self) -> None:
        """Send the remaining spans."""
        self.provider.shutdown()


class Trace:
    """The trace of one request."""

    def __init__(self, tracer: Tracer, span: Any) -> None:
        from opentelemetry.trace import set_span_in_context

        self.tracer, self.span, self.context = tracer, span, set_span_in_context(span)
        self.offset = time.time_ns() - time.monotonic_ns()

    def child(self, name: str, start: float, stop: float, **attributes: str | int) -> None:
        """Add a finished span between two times of the monotonic clock, in seconds."""
        began, ended = (int(1e9 * seconds) + self.offset for seconds in (start, stop))
        self.tracer.start_span(name, self.context, attributes=attributes, start_time=began).end(max(began, ended))

    def end(self, name: str, *, failed: bool, **attributes: str | int) -> None:
        """End the span of the request, and give it its final name."""
        from opentelemetry.trace import StatusCode

        self.span.update_name(name)
        self.span.set_attributes(attributes)
        if failed:
            self.span.set_status(StatusCode.ERROR)
        self.span.end()
        _current.set(None)


def spent(name: str, start: float, stop: float, **attributes: str | int) -> None:
    """Add a finished span to the current request, if it is traced."""
    trace = _current.get()
    if trace is not None:
        trace.child(name, start, stop, **attributes)


def open_tracing(settings: Settings) -> Tracing | None:
    """Return the tracing of the settings, or None if it is off. Raise SettingsError if the extra is missing."""
    if not settings.traces:
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise SettingsError(
            f"traces: {extras.advice('opentelemetry')}; or leave MANIFOLD_TRACES empty", field="traces"
        ) from error  # fmt: skip
    provider = TracerProvider(resource=Resource.create({"service.name": "manifold"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=settings.traces)))
    return Tracing(provider)
