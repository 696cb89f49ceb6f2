"""Traces: a span for each request that joins the client's trace (W3C trace context), and in it what took the time: queue, run, encode.

Off, it costs a look at a context variable. On, it needs the extra `tracing`; where spans go and which are kept is OpenTelemetry's own business
(OTEL_EXPORTER_OTLP_*, OTEL_TRACES_SAMPLER, OTEL_RESOURCE_ATTRIBUTES).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any, TypeAlias

from manifold.runtime import extras
from manifold.service.settings import Settings, SettingsError

Tracer: TypeAlias = Any  # opentelemetry's, which may not be installed
CARRIED = ("traceparent", "tracestate")

_current: ContextVar[Trace | None] = ContextVar("trace", default=None)


class Tracing:
    """Makes the spans of one service."""

    def __init__(self, provider: Any) -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self.provider, self.tracer = provider, provider.get_tracer("manifold")
        self.propagator = TraceContextTextMapPropagator()

    def begin(self, name: str, carried: Mapping[str, str], **attributes: str) -> Trace:
        """The span of a request, from now on and for all that its context does; `carried` may hold the client's trace context."""
        from opentelemetry.trace import SpanKind

        context = self.propagator.extract({key: carried[key] for key in CARRIED if key in carried})
        span = self.tracer.start_span(name, context, SpanKind.SERVER, attributes)
        trace = Trace(self.tracer, span)
        _current.set(trace)
        return trace

    def close(self) -> None:
        """Sends what has not been sent."""
        self.provider.shutdown()


class Trace:
    """Trace of one request."""

    def __init__(self, tracer: Tracer, span: Any) -> None:
        from opentelemetry.trace import set_span_in_context

        self.tracer, self.span, self.context = tracer, span, set_span_in_context(span)
        self.offset = time.time_ns() - time.monotonic_ns()

    def child(self, name: str, start: float, stop: float, **attributes: str | int) -> None:
        """A span that is over, between two times of the monotonic clock."""
        began, ended = (int(1e9 * seconds) + self.offset for seconds in (start, stop))
        self.tracer.start_span(name, self.context, attributes=attributes, start_time=began).end(max(began, ended))

    def end(self, name: str, *, failed: bool, **attributes: str | int) -> None:
        """The request has been answered; `name` is the span's from now on."""
        from opentelemetry.trace import StatusCode

        self.span.update_name(name)
        self.span.set_attributes(attributes)
        if failed:
            self.span.set_status(StatusCode.ERROR)
        self.span.end()
        _current.set(None)


def spent(name: str, start: float, stop: float, **attributes: str | int) -> None:
    """A part of the request that is being answered, where it is traced."""
    trace = _current.get()
    if trace is not None:
        trace.child(name, start, stop, **attributes)


def open_tracing(settings: Settings) -> Tracing | None:
    """Return the tracing that the settings ask for; None if they ask for none. Raise SettingsError if the extra is missing."""
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
