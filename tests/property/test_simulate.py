"""Whatever the policy, the odds and the seed: a simulation breaks no rule, and its parts add up to the whole."""

import math

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hub.model import (
    Amount,
    Approval,
    FailurePolicy,
    Fleet,
    Gate,
    HttpCheck,
    MetricCheck,
    RolloutPolicy,
    Selector,
    WavePolicy,
)
from hub.repo import windows
from hub.simulate import figures, fleets, picture
from hub.simulate.chance import Chance
from hub.simulate.setting import Setting, Span
from hub.simulate.world import World

MONDAY = 1767571200.0
GATES = st.sampled_from(
    [
        Gate(name="word", approval=Approval()),
        Gate(name="two", approval=Approval(approvers=2, expires_s=7200.0), timeout_s=86400.0),
        Gate(name="calm", when="after", metric=MetricCheck(query="errors", below=1.0, for_s=300.0, interval_s=60.0)),
        Gate(name="late", metric=MetricCheck(query="errors", below=1.0), timeout_s=600.0),
        Gate(name="web", when="after", http=HttpCheck(url="http://web", for_s=120.0)),
    ]
)
AMOUNTS = st.sampled_from([Amount(value=1), Amount(value=3), Amount(value=25, percent=True)])
WINDOWS = st.sampled_from([(), (windows.parse("22:00-06:00 Europe/Berlin", deny=True),)])


@st.composite
def policies(draw: st.DrawFn) -> RolloutPolicy:
    names = draw(st.integers(0, 3))
    waves = tuple(
        WavePolicy(
            name=f"w{n}",
            select=Selector(match_labels={"wave": str(n)}),
            share=draw(st.sampled_from([None, Amount(value=50, percent=True)])),
            max_concurrent=draw(AMOUNTS),
            max_unavailable=draw(st.sampled_from([None, Amount(value=2), Amount(value=50, percent=True)])),
            soak_s=draw(st.sampled_from([0.0, 45.0, 1800.0, 30000.0])),
            gates=tuple(draw(st.lists(GATES, max_size=2, unique_by=lambda gate: gate.name))),
            windows=draw(WINDOWS),
        )
        for n in range(names)
    )
    return RolloutPolicy(
        name="it",
        waves=waves,
        failure=FailurePolicy(
            budget=draw(AMOUNTS), action=draw(st.sampled_from(["rollback", "pause", "continue"])), deadline_s=600.0
        ),
        supersede=draw(st.sampled_from(["queue", "replace"])),
        fixes=draw(st.sampled_from(["wait", "jump"])),
        windows=draw(WINDOWS),
    )


SHARES = st.sampled_from([0.0, 0.05, 0.3])


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(policy=policies(), fail=SHARES, bad=SHARES, offline=SHARES, flap=SHARES, seed=st.integers(0, 10_000))
def test_no_rule_is_broken_and_all_time_is_accounted_for(
    policy: RolloutPolicy, fail: float, bad: float, offline: float, flap: float, seed: int
) -> None:
    fleet = fleets.of_policy(policy, Fleet(clusters=fleets.made_up([policy], 15)))
    setting = Setting(
        fleet=fleet,
        policy="it",
        start_s=MONDAY,
        days=2.0,
        commits_per_hour=0.3,
        fail=fail,
        bad=bad,
        offline=offline,
        flap=flap,
        answer=Span(least_s=0.0, most_s=7200.0),
    )
    record = World(setting, Chance(seed), check_each=3).run()
    assert record.checked >= record.decisions // 3 > 0 or not record.entries
    for entry in record.entries:
        end = setting.end_s if entry.end == math.inf else entry.end
        assert math.fsum(part.end - part.start for part in entry.parts) == end - entry.committed_at
        assert all(one.end == other.start for one, other in zip(entry.parts, entry.parts[1:], strict=False))
        assert entry.exposed <= 15
    made = figures.figures(record)
    assert sum(made.phases.values()) == made.rollouts <= made.commits
    for line in picture.overview(record.entries, start=setting.start_s, end=setting.end_s, width=80):
        assert len(line.label) + len(line.cells) + len(line.note) <= 80
