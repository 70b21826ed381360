"""The agent's spans, each in the trace of (rollout, cluster), which the agent joins unasked (design, decision 10).

    receive   a bundle's new subtree was taken up
    apply     the objects of one go, from the first request to the last answer
    healthy   from everything applied to everything Current; told as a span of no length when the waiting begins, too,
              because a state that lasts hours would otherwise be seen only at its end
    prune     what Git no longer has
    drift     one change that was not ours, undone or told

Without an endpoint the tracer samples nothing and costs nothing. Sending happens in a thread of the SDK.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import Span, Tracer

from proto import telemetry


class Tracing:
    """Spans of one cluster. `provider` None makes every span a no-op."""

    def __init__(self, cluster: str, provider: TracerProvider | None) -> None:
        self._cluster = cluster
        self._provider = provider
        self._tracer: Tracer = provider.get_tracer("flotilla.agent") if provider else trace.NoOpTracer()

    @contextmanager
    def span(self, name: str, *, rollout: str, bundle: str, **attributes: str | int) -> Iterator[Span]:
        """A span around what is done inside; an exception marks it as failed. `attributes` are names of
        `proto.telemetry` without `ATTR_`, in lower case."""
        span = self._start(name, rollout=rollout, bundle=bundle, attributes=attributes)
        with trace.use_span(span, end_on_exit=True):
            yield span

    def mark(
        self, name: str, *, rollout: str, bundle: str, since_ns: int | None = None, **attributes: str | int
    ) -> None:
        """A span that ends now and began at `since_ns` (Unix time), or now too."""
        self._start(name, rollout=rollout, bundle=bundle, attributes=attributes, since_ns=since_ns).end()

    def close(self) -> None:
        """Send what waits, for at most a few seconds; blocks."""
        if self._provider is not None:
            self._provider.shutdown()

    def _start(
        self,
        name: str,
        *,
        rollout: str,
        bundle: str,
        attributes: dict[str, str | int],
        since_ns: int | None = None,
    ) -> Span:
        return self._tracer.start_span(
            name,
            context=telemetry.below(telemetry.cluster_context(rollout, self._cluster)) if rollout else None,
            start_time=since_ns,
            attributes={
                telemetry.ATTR_CLUSTER: self._cluster,
                telemetry.ATTR_ROLLOUT: rollout,
                telemetry.ATTR_BUNDLE: bundle,
                **{f"flotilla.{key}": value for key, value in attributes.items()},
            },
        )
