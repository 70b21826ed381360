"""The hub's spans, made from the difference between a rollout's state before and after a turn (design, decision 10).

Nothing is held open: a span is written when it is over, with the times that the state carries, so a restart loses none
and a rollout that lasts a day costs no memory. Trace and root ids
are derived from the rollout's id, so agents join the same traces unasked.

    trace of the rollout:            rollout ▷ render, wave …
    trace of (rollout, cluster):     cluster ▷ move, and the agent's receive, apply, healthy      (linked to the first)
"""

from collections.abc import Mapping

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import Link, SpanContext, Status, StatusCode

from hub.rollout.transitions import BACK, IN_FLIGHT
from hub.state import FINAL, FOLLOWED, Member, MemberPhase, Phase, State
from proto import telemetry
from proto.ids import BundleName, ClusterName

_BAD_ENDS = frozenset({Phase.ROLLED_BACK, Phase.ROLLBACK_FAILED, Phase.ABORTED})


class Tracing:
    """Writes the spans of rollouts; when nobody takes them (`silent`) none is made: that was a third of a turn."""

    def __init__(self, provider: TracerProvider, *, silent: bool = False) -> None:
        self._provider = provider
        self._silent = silent
        self._tracer = provider.get_tracer("flotilla.hub")

    def close(self) -> None:
        self._provider.shutdown()

    def observe(
        self,
        before: State | None,
        after: State,
        now: float,
        *,
        rendered_s: Mapping[BundleName, tuple[float, float]] | None = None,
    ) -> None:
        """Write the spans of what changed between two states of one rollout."""
        if before is after or self._silent:
            return
        rollout = after.rollout
        root = telemetry.rollout_context(rollout.id)
        shared = {
            telemetry.ATTR_ROLLOUT: rollout.id,
            telemetry.ATTR_BUNDLE: ",".join(rollout.bundles),
            telemetry.ATTR_REVISION: rollout.revision,
        }
        if before is None:
            for bundle in rollout.bundles:
                start, end = (rendered_s or {}).get(bundle, (rollout.made_at, rollout.made_at))
                self._below(root, telemetry.SPAN_RENDER, start, end, {**shared, telemetry.ATTR_BUNDLE: bundle})
        self._waves(before, after, root, shared, now)
        for cluster, member in after.members.items():
            old = before.members.get(cluster) if before else None
            if member != old:
                self._member(after, cluster, old, member, shared, now)
            self._cluster(before, after, cluster, shared, now)
        if after.phase in FINAL and (before is None or before.phase not in FINAL):
            self._root(
                root,
                telemetry.SPAN_ROLLOUT,
                rollout.made_at,
                now,
                {**shared, telemetry.ATTR_RESULT: after.phase},
                error=after.reason or after.phase if after.phase in _BAD_ENDS else "",
            )

    def _waves(
        self, before: State | None, after: State, root: SpanContext, shared: Mapping[str, str], now: float
    ) -> None:
        first = before.wave if before else 0
        opened = before.wave_opened_at if before else after.rollout.made_at
        for index in range(first, min(after.wave, len(after.rollout.waves))):
            wave = after.rollout.waves[index]
            if wave.clusters:
                attributes = {**shared, telemetry.ATTR_WAVE: wave.name}
                self._below(root, telemetry.SPAN_WAVE, opened or after.rollout.made_at, now, attributes)
            opened = now

    def _member(
        self,
        state: State,
        cluster: ClusterName,
        old: Member | None,
        new: Member,
        shared: Mapping[str, str],
        now: float,
    ) -> None:
        rollout = state.rollout.id
        root = telemetry.cluster_context(rollout, cluster)
        attributes = {**shared, telemetry.ATTR_CLUSTER: cluster, telemetry.ATTR_SEQ: str(new.seq)}
        if new.seq and (old is None or new.seq != old.seq):
            self._below(root, telemetry.SPAN_MOVE, new.moved_at, now, attributes)

    def _cluster(
        self,
        before: State | None,
        after: State,
        cluster: ClusterName,
        shared: Mapping[str, str],
        now: float,
    ) -> None:
        """The cluster's span, once: when its way forward is over."""
        old, new = before.members.get(cluster) if before else None, after.members[cluster]
        if not new.seq or not _is_over(after, new) or (before and old and _is_over(before, old)):
            return
        had_failed = old is not None and old.phase is MemberPhase.FAILED
        bad = had_failed or new.phase is MemberPhase.FAILED or new.phase in BACK
        why = (old.reason if old and had_failed else new.reason) or after.reason or new.phase
        self._root(
            telemetry.cluster_context(after.rollout.id, cluster),
            telemetry.SPAN_CLUSTER,
            (old.moved_at if old else 0.0) or new.moved_at or now,
            now,
            {
                **shared,
                telemetry.ATTR_CLUSTER: cluster,
                telemetry.ATTR_SEQ: str(old.seq if old and old.seq else new.seq),
                telemetry.ATTR_RESULT: new.phase,
            },
            links=[Link(telemetry.rollout_context(after.rollout.id))],
            error=why if bad and new.phase is not MemberPhase.PROVEN else "",
        )

    def _below(
        self, parent: SpanContext, name: str, start_s: float, end_s: float, attributes: Mapping[str, str]
    ) -> None:
        span = self._tracer.start_span(
            name, context=telemetry.below(parent), start_time=_ns(start_s), attributes=dict(attributes)
        )
        span.end(end_time=_ns(max(start_s, end_s)))

    def _root(
        self,
        context: SpanContext,
        name: str,
        start_s: float,
        end_s: float,
        attributes: Mapping[str, str],
        *,
        links: list[Link] | None = None,
        error: str = "",
    ) -> None:
        with telemetry.as_root(context):
            span = self._tracer.start_span(
                name,
                context=trace.set_span_in_context(trace.INVALID_SPAN),
                start_time=_ns(start_s),
                attributes=dict(attributes),
                links=links or [],
            )
        if error:
            span.set_status(Status(StatusCode.ERROR, error))
        span.end(end_time=_ns(max(start_s, end_s)))


def _is_over(state: State, member: Member) -> bool:
    """Pure: is the cluster's way forward over for good? One that failed may still prove, until its rollout ends."""
    if member.phase is MemberPhase.FAILED:
        return state.phase in FINAL
    if member.phase in IN_FLIGHT:
        return state.phase in FINAL - FOLLOWED
    return member.phase in (MemberPhase.PROVEN, MemberPhase.LEFT, *BACK)


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)
