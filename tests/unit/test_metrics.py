"""The hub's metrics as a scrape sees them."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from hub import directives
from hub.api.metrics import HubMetrics
from hub.desired import Desired
from hub.journal import HoldRow, Journal, StoredRollout
from hub.loop import Loop
from hub.model import Approval, Cluster, Finding, Fleet, Freeze, Gate, MetricCheck
from hub.rollout.rounds import Memory
from hub.slices.gitstore import GitStore
from hub.state import Phase, Rollout, State
from hub.tracing import Tracing
from proto import telemetry
from proto.ids import BundleName, ClusterName, Oid, RolloutId
from proto.messages import DriftReport, Report
from tests.rollout_hub import Hub, rollout, wave

EU, US, OLD = ClusterName("eu-1"), ClusterName("us-1"), ClusterName("gone")
NOW = 1000.0


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[Loop]:
    journal = Journal(tmp_path / "journal.db")
    tracing = Tracing(telemetry.provider("test", ""))
    made = Loop(
        journal=journal,
        store=GitStore.create(tmp_path / "slices.git"),
        wake=lambda *_: None,
        direct=lambda *_: None,
        tracing=tracing,
        heartbeat_s=10.0,
        clock=lambda: NOW,
    )
    yield made
    made.close()
    journal.close()
    tracing.close()


def scraped(loop: Loop, denied: Counter[str] | None = None) -> list[str]:
    registry = CollectorRegistry()
    registry.register(
        HubMetrics(
            loop,
            denied=lambda: denied or Counter(),
            unpublished=lambda: 2,
            receivers=lambda: [{"name": "on-call", "pending": 3, "lost": 1, "failing_since": "2026-01-01T00:00:00Z"}],
            clock=lambda: NOW,
            heartbeat_s=10.0,
        )
    )
    return [line for line in generate_latest(registry).decode().splitlines() if not line.startswith("#")]


def test_a_hub_that_just_began_has_values_for_everything(loop: Loop) -> None:
    assert scraped(loop) == [
        "flotilla_agents_connected 0.0",
        "flotilla_bundles_on_hold 0.0",
        "flotilla_suspended 0.0",
        "flotilla_clusters_paused 0.0",
        "flotilla_findings 0.0",
        "flotilla_deciding 1.0",
        "flotilla_unpublished 2.0",
        'flotilla_messages_pending{receiver="on-call"} 3.0',
        'flotilla_messages_lost{receiver="on-call"} 1.0',
        'flotilla_receiver_failing{receiver="on-call"} 1.0',
        "flotilla_drift_total 0.0",
    ]


def test_clusters_are_counted_by_health_and_only_those_of_the_fleet(loop: Loop) -> None:
    clusters = {name: Cluster(name=name, labels={}) for name in (EU, US)}
    wrong = [Finding(where="x", message="no"), Finding(where="x", message="hm", severity="warning")]
    loop.desired = Desired(
        commit=Oid("a" * 40), fleet=Fleet(clusters=clusters), subtrees={}, failed=frozenset(), findings=tuple(wrong)
    )
    for name in (EU, OLD):
        loop.live.report(name, Report(number=1, boot_id="b", seq=0, commit="", full=True), NOW)
        loop.live.of(name).connected_since = NOW
    lines = scraped(loop)
    assert 'flotilla_clusters{health="Current"} 1.0' in lines
    assert 'flotilla_clusters{health="Unknown"} 1.0' in lines
    assert "flotilla_agents_connected 2.0" in lines
    assert "flotilla_findings 1.0" in lines


def test_what_somebody_has_to_look_at_is_counted(loop: Loop) -> None:
    states = {}
    for number, phase in enumerate((Phase.PAUSED, Phase.PAUSED, Phase.RUNNING)):
        rollout = Rollout(
            id=RolloutId(f"shop-{number}"),
            number=number,
            bundles=(BundleName("shop"),),
            revision=Oid("a" * 40),
            made_at=NOW,
            targets={},
            waves=(),
            deadline_s=1.0,
            action="pause",
            offline_after_s=1.0,
        )
        states[rollout.id] = State(rollout=rollout, phase=phase)
    loop.memory = Memory(states=states)
    shop = BundleName("shop")
    loop.holds[shop] = HoldRow(bundle=shop, rollout=RolloutId("shop-0"), reason="x", time_s=NOW, refused={})
    suspended = directives.suspend("shop", [EU, US], why="ann: x", now=NOW)
    paused = directives.pause(EU, until_s=NOW + 60, why="ann: x", now=NOW)
    loop.directives = {row.key: row for row in (*suspended, paused)}
    loop.problem = "journal.db: database or disk is full"
    drift = (DriftReport(id="1", bundle="shop", object="x", what="changed"),) * 3
    loop.live.report(EU, Report(number=1, boot_id="b", seq=0, commit="", full=True, drift=drift), NOW)
    lines = scraped(loop, Counter({"token-expired": 2}))
    assert 'flotilla_rollouts{phase="paused"} 2.0' in lines
    assert 'flotilla_rollouts{phase="running"} 1.0' in lines
    assert "flotilla_bundles_on_hold 1.0" in lines
    assert "flotilla_suspended 2.0" in lines
    assert "flotilla_clusters_paused 1.0" in lines
    assert "flotilla_deciding 0.0" in lines
    assert "flotilla_drift_total 3.0" in lines
    assert 'flotilla_denied_total{reason="token-expired"} 2.0' in lines


def test_what_keeps_rollouts_and_how_long_gates_wait_is_counted(loop: Loop) -> None:
    approval, errors = Gate(name="a", approval=Approval()), Gate(name="m", metric=MetricCheck(query="up", above=0.0))
    states = {}
    for number, gates in enumerate(((approval,), (approval, errors))):
        hub = Hub(rollout(wave("canary", "c1"), wave("eu", "c2", gates=gates)))
        hub.now = NOW - 100.0 * (number + 1)
        hub.tick()
        hub.report("c1")
        states[RolloutId(f"shop-{number}")] = hub.state
    loop.memory = Memory(states=states)
    freeze = Freeze(name="holidays", start_s=NOW - 1, end_s=NOW + 1)
    loop.desired = Desired(
        commit=Oid("a" * 40), fleet=Fleet(freezes=(freeze,)), subtrees={}, failed=frozenset(), findings=()
    )
    lines = scraped(loop)
    assert 'flotilla_rollouts_waiting{for="gate"} 2.0' in lines
    assert 'flotilla_rollouts_waiting{for="freeze"} 2.0' in lines
    assert 'flotilla_gate_waiting_seconds{check="approval"} 200.0' in lines
    assert 'flotilla_gate_waiting_seconds{check="metric"} 200.0' in lines
    assert not any(line.startswith("flotilla_gates_erring") for line in lines)
    assert 'flotilla_rollout_age_seconds{phase="running"} 0.0' in lines


def test_a_gate_that_cannot_be_asked_is_counted_and_waits_since_it_was_come_to(loop: Loop) -> None:
    errors = Gate(name="m", metric=MetricCheck(query="up", above=0.0))
    hub = Hub(rollout(wave("canary", "c1"), wave("eu", "c2", gates=(errors,)), made_at=NOW - 500.0))
    hub.now = NOW - 300.0
    hub.tick()
    hub.report("c1")
    hub.find("eu/m", "error", after_s=290.0)
    loop.memory = Memory(states={RolloutId("shop-1"): hub.state})
    lines = scraped(loop)
    assert 'flotilla_gates_erring{check="metric"} 1.0' in lines
    assert 'flotilla_gate_waiting_seconds{check="metric"} 300.0' in lines
    assert 'flotilla_rollout_age_seconds{phase="running"} 500.0' in lines
    hub.find("eu/m", "bad")
    loop.memory = Memory(states={RolloutId("shop-1"): hub.state})
    assert not any(line.startswith("flotilla_gates_erring") for line in scraped(loop))


def test_a_rollback_that_failed_is_counted_until_its_bundle_is_released(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = StoredRollout(
        number=1, id=RolloutId("shop-1"), phase="rollback-failed", alive=False, begins=b"", whole=b"", steps=(), n=0
    )
    monkeypatch.setattr(loop.journal, "rollout", lambda id_: row if id_ == "shop-1" else None)
    shop = BundleName("shop")
    loop.holds[shop] = HoldRow(bundle=shop, rollout=RolloutId("shop-1"), reason="x", time_s=NOW, refused={})
    assert 'flotilla_rollouts{phase="rollback-failed"} 1.0' in scraped(loop)
    loop.holds.clear()
    assert not any("rollback-failed" in line for line in scraped(loop))
