"""The hub's spans: derived ids, links between traces, each span once, failures named."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from hub.rollout import rollouts
from hub.state import Member, MemberPhase, Phase, Rollout, State, Target, Wave
from hub.tracing import Tracing
from proto import telemetry
from proto.ids import BundleName, ClusterName, Oid, RolloutId

M = MemberPhase
EU, US = ClusterName("eu-1"), ClusterName("us-1")
SHOP = BundleName("shop")


def wave(name: str, cluster: ClusterName) -> Wave:
    return Wave(
        name=name, clusters=(cluster,), max_concurrent=1, soak_s=0, min_proof=1, offline_budget=0, failure_budget=0
    )


ROLLOUT = Rollout(
    id=RolloutId("shop-7"),
    number=7,
    bundles=(SHOP,),
    revision=Oid("c" * 40),
    made_at=1000.0,
    targets={c: Target(before={SHOP: Oid("a" * 40)}, after={SHOP: Oid("b" * 40)}) for c in (EU, US)},
    waves=(wave("canary", EU), wave("us", US)),
    deadline_s=60.0,
    action="rollback",
    offline_after_s=300.0,
)


class Collector:
    """What a hub's process sent; `restart` is another process with the same collector."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.restart()

    def restart(self) -> None:
        provider: TracerProvider = telemetry.provider("flotilla-hub", "")
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracing = Tracing(provider)

    @property
    def spans(self) -> Sequence[ReadableSpan]:
        return self._exporter.get_finished_spans()

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.spans if span.name == name]

    def ids(self) -> list[tuple[int, int]]:
        return [(span.context.trace_id, span.context.span_id) for span in self.spans]


@pytest.fixture
def collector() -> Iterator[Collector]:
    found = Collector()
    yield found
    found.tracing.close()


def member(phase: MemberPhase, seq: int = 4, reason: str = "") -> Member:
    return Member(phase=phase, seq=seq, moved_at=1001.0, reason=reason)


def told(collector: Collector, *states: State, restarting: bool = False) -> None:
    before: State | None = None
    for at, state in enumerate(states):
        collector.tracing.observe(before, state, 1002.0 + at, rendered_s={SHOP: (990.0, 995.0)})
        if restarting:
            collector.restart()
        before = state


def states(*members: Mapping[ClusterName, Member], end: Phase = Phase.COMPLETED, reason: str = "") -> list[State]:
    """A rollout whose clusters go through `members`, and its end with the last of them."""
    first = rollouts.start(ROLLOUT, 1000.0)
    found = [first]
    for some in members:
        found.append(replace(found[-1], members={**found[-1].members, **some}, wave_opened_at=1001.0))
    found[-1] = replace(found[-1], phase=end, reason=reason, wave=2 if end is Phase.COMPLETED else 0)
    return found


GOOD = states(
    {EU: member(M.MOVING)},
    {EU: member(M.SOAKING)},
    {EU: member(M.PROVEN)},
    {US: member(M.MOVING)},
    {US: member(M.PROVEN)},
)


def test_a_rollout_is_a_trace_with_ids_that_everybody_can_derive(collector: Collector) -> None:
    told(collector, *GOOD)
    [root] = collector.named("rollout")
    context = telemetry.rollout_context("shop-7")
    assert root.context is not None
    assert (root.context.trace_id, root.context.span_id, root.parent) == (context.trace_id, context.span_id, None)
    assert root.attributes is not None
    assert root.attributes[telemetry.ATTR_RESULT] == "completed"
    assert (root.start_time, root.end_time) == (1000 * 10**9, 1007 * 10**9)
    [render] = collector.named("render")
    assert (render.start_time, render.end_time) == (990 * 10**9, 995 * 10**9)
    for span in (render, *collector.named("wave")):
        assert span.parent is not None
        assert span.parent.span_id == context.span_id
    assert len(collector.named("wave")) == 2


def test_each_cluster_is_a_trace_of_its_own_linked_to_the_rollouts(collector: Collector) -> None:
    told(collector, *GOOD)
    clusters = {str((span.attributes or {})[telemetry.ATTR_CLUSTER]): span for span in collector.named("cluster")}
    assert set(clusters) == {EU, US}
    for name, span in clusters.items():
        context = telemetry.cluster_context("shop-7", name)
        assert span.context is not None
        assert (span.context.trace_id, span.context.span_id) == (context.trace_id, context.span_id)
        assert [link.context.trace_id for link in span.links] == [telemetry.rollout_context("shop-7").trace_id]
    assert len(collector.named("move")) == 2
    assert all(span.status.status_code is not StatusCode.ERROR for span in collector.spans)


BACK = states(
    {EU: member(M.MOVING)},
    {EU: member(M.PROVEN), US: member(M.MOVING)},
    {US: member(M.FAILED, reason="Deployment/shop/web: ImagePullBackOff")},
    {US: member(M.REVERTING, seq=5), EU: member(M.REVERTING, seq=5)},
    {US: member(M.REVERTED, seq=5), EU: member(M.REVERTED, seq=5)},
    end=Phase.ROLLED_BACK,
    reason="us-1 failed in wave us",
)
AT_LAST = states(
    {EU: member(M.MOVING)},
    {EU: member(M.FAILED, reason="slow")},
    {EU: member(M.SOAKING)},
    {EU: member(M.PROVEN), US: member(M.PROVEN)},
)
AT_ONCE = states(
    {EU: member(M.MOVING)},
    {EU: member(M.REVERTING, seq=5)},
    {EU: member(M.REVERT_FAILED, seq=5, reason="not back after 60 s")},
    end=Phase.ROLLBACK_FAILED,
    reason="eu-1 failed in wave canary",
)
ABORTED = states({EU: member(M.MOVING)}, {EU: member(M.FAILED, reason="slow")}, end=Phase.ABORTED, reason="dana: no")


@pytest.mark.parametrize("restarting", [False, True])
@pytest.mark.parametrize(
    "story",
    [
        pytest.param(GOOD, id="all good"),
        pytest.param(BACK, id="proven, then rolled back"),
        pytest.param(AT_LAST, id="failed, then proven"),
        pytest.param(AT_ONCE, id="turned round in one turn"),
        pytest.param(ABORTED, id="aborted"),
    ],
)
def test_no_span_is_written_twice(collector: Collector, story: list[State], restarting: bool) -> None:
    told(collector, *story, restarting=restarting)
    ids = collector.ids()
    assert len(ids) == len(set(ids))
    moved = {name for name, found in story[-1].members.items() if found.seq}
    assert {(span.attributes or {})[telemetry.ATTR_CLUSTER] for span in collector.named("cluster")} == moved
    assert len(collector.named("rollout")) == 1


@pytest.mark.parametrize(
    ("story", "failed"),
    [
        pytest.param(BACK, {US: "Deployment/shop/web: ImagePullBackOff"}, id="the reason of who failed"),
        pytest.param(AT_LAST, {}, id="who proved at last has not failed"),
        pytest.param(ABORTED, {EU: "slow"}, id="aborted"),
    ],
)
def test_a_failure_says_why(collector: Collector, story: list[State], failed: Mapping[str, str]) -> None:
    told(collector, *story)
    found = {
        (span.attributes or {})[telemetry.ATTR_CLUSTER]: span.status.description
        for span in collector.named("cluster")
        if span.status.status_code is StatusCode.ERROR
    }
    assert found == failed


def test_a_state_that_did_not_change_is_not_told(collector: Collector) -> None:
    collector.tracing.observe(GOOD[1], GOOD[1], 2000.0)
    assert collector.spans == ()
