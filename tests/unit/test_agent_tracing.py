"""The agent's spans are in the trace of (rollout, cluster), and cost nothing without a collector."""

import pytest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from agent.tracing import Tracing
from proto import telemetry


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def tracing(exporter: InMemorySpanExporter) -> Tracing:
    provider = telemetry.provider("flotilla-agent", "")
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return Tracing("eu-1", provider)


def test_a_span_joins_the_derived_trace(tracing: Tracing, exporter: InMemorySpanExporter) -> None:
    with tracing.span(telemetry.SPAN_APPLY, rollout="shop-1", bundle="shop", subtree="s") as span:
        span.set_attribute(telemetry.ATTR_RESULT, "1 created")
    (made,) = exporter.get_finished_spans()
    expected = telemetry.cluster_context("shop-1", "eu-1")
    assert made.context.trace_id == expected.trace_id
    assert made.parent is not None
    assert made.parent.span_id == expected.span_id
    assert made.attributes == {
        telemetry.ATTR_CLUSTER: "eu-1",
        telemetry.ATTR_ROLLOUT: "shop-1",
        telemetry.ATTR_BUNDLE: "shop",
        telemetry.ATTR_SUBTREE: "s",
        telemetry.ATTR_RESULT: "1 created",
    }


def test_a_failure_inside_marks_the_span_and_goes_on(tracing: Tracing, exporter: InMemorySpanExporter) -> None:
    with pytest.raises(RuntimeError), tracing.span(telemetry.SPAN_PRUNE, rollout="shop-1", bundle="shop"):
        raise RuntimeError
    (made,) = exporter.get_finished_spans()
    assert not made.status.is_ok


def test_a_mark_covers_the_time_since(tracing: Tracing, exporter: InMemorySpanExporter) -> None:
    tracing.mark(telemetry.SPAN_HEALTHY, rollout="shop-1", bundle="shop", since_ns=1_000)
    (made,) = exporter.get_finished_spans()
    assert made.start_time == 1_000
    assert made.end_time is not None
    assert made.end_time > 1_000


def test_what_belongs_to_no_rollout_has_a_trace_of_its_own(tracing: Tracing, exporter: InMemorySpanExporter) -> None:
    tracing.mark(telemetry.SPAN_PRUNE, rollout="", bundle="shop")
    (made,) = exporter.get_finished_spans()
    assert made.parent is None


def test_without_a_provider_every_span_is_a_no_op() -> None:
    tracing = Tracing("eu-1", None)
    with tracing.span(telemetry.SPAN_APPLY, rollout="shop-1", bundle="shop") as span:
        assert not span.is_recording()
    tracing.mark(telemetry.SPAN_HEALTHY, rollout="shop-1", bundle="shop")
    tracing.close()
