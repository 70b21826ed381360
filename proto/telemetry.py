"""Names of spans, attributes and metrics, and the trace ids that hub and agents derive alike (design, decision 10).

A rollout is one trace, and each (rollout, cluster) is one more, linked to the first. Their ids come from the rollout's
id by SHA-256, so an agent that never spoke to the hub's tracer joins the same trace.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

# Spans, in the order in which a commit meets them.
SPAN_ROLLOUT: Final = "rollout"
SPAN_RENDER: Final = "render"
SPAN_WAVE: Final = "wave"
SPAN_CLUSTER: Final = "cluster"
SPAN_MOVE: Final = "move"
SPAN_RECEIVE: Final = "receive"
SPAN_APPLY: Final = "apply"
SPAN_HEALTHY: Final = "healthy"
SPAN_PRUNE: Final = "prune"
SPAN_DRIFT: Final = "drift"

ATTR_ROLLOUT: Final = "flotilla.rollout"
ATTR_BUNDLE: Final = "flotilla.bundle"
ATTR_CLUSTER: Final = "flotilla.cluster"
ATTR_WAVE: Final = "flotilla.wave"
ATTR_REVISION: Final = "flotilla.revision"
ATTR_SEQ: Final = "flotilla.seq"
ATTR_SUBTREE: Final = "flotilla.subtree"
ATTR_RESULT: Final = "flotilla.result"
ATTR_OBJECTS: Final = "flotilla.objects"

_chosen: ContextVar[trace.SpanContext | None] = ContextVar("chosen", default=None)


def rollout_context(rollout: str) -> trace.SpanContext:
    """Pure: the trace and root span of a rollout."""
    return _derive(f"rollout\0{rollout}")


def cluster_context(rollout: str, cluster: str) -> trace.SpanContext:
    """Pure: the trace and root span of a rollout on one cluster."""
    return _derive(f"cluster\0{rollout}\0{cluster}")


def _derive(name: str) -> trace.SpanContext:
    digest = hashlib.sha256(b"flotilla trace v1\0" + name.encode()).digest()
    return trace.SpanContext(
        trace_id=int.from_bytes(digest[:16]) or 1,
        span_id=int.from_bytes(digest[16:24]) or 1,
        is_remote=True,
        trace_flags=trace.TraceFlags(trace.TraceFlags.SAMPLED),
    )


class _Ids(RandomIdGenerator):
    """Random ids, except for a root span whose ids were chosen with `as_root`."""

    def generate_trace_id(self) -> int:
        chosen = _chosen.get()
        return chosen.trace_id if chosen else super().generate_trace_id()

    def generate_span_id(self) -> int:
        chosen = _chosen.get()
        return chosen.span_id if chosen else super().generate_span_id()


@contextmanager
def as_root(context: trace.SpanContext) -> Iterator[None]:
    """The span that is started inside, without a parent, gets the ids of `context`."""
    token = _chosen.set(context)
    try:
        yield
    finally:
        _chosen.reset(token)


def below(context: trace.SpanContext) -> Context:
    """A parent for spans that belong under the derived `context`, whoever emits that one."""
    return trace.set_span_in_context(trace.NonRecordingSpan(context))


def provider(service: str, endpoint: str, *, exporter: SpanExporter | None = None, **resource: str) -> TracerProvider:
    """A tracer provider that sends to OTLP/HTTP at `endpoint` (base URL), or drops everything when it is "".

    Export runs in its own thread with a bounded queue: a dead collector costs spans, nothing else.
    """
    made = TracerProvider(
        resource=Resource.create({"service.name": service, **resource}),
        id_generator=_Ids(),
        shutdown_on_exit=False,
    )
    if exporter is None and endpoint:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        exporter = OTLPSpanExporter(endpoint=endpoint.rstrip("/") + "/v1/traces", timeout=5)
    if exporter is not None:
        made.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=500, export_timeout_millis=5000))
    return made
