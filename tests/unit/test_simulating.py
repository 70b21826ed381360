"""`flotilla simulate`: what a person sees of it, with small fleets and fixed seeds, and each thing that may happen."""

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from hub.cli import main
from hub.model import (
    Amount,
    Approval,
    BundleDone,
    FailurePolicy,
    Fleet,
    Freeze,
    Gate,
    HttpCheck,
    MetricCheck,
    Requirement,
    RolloutPolicy,
    Selector,
    WavePolicy,
)
from hub.repo import targets, windows
from hub.rollout import rollouts
from hub.rollout.transitions import BrokenInvariant
from hub.simulate import figures, fleets, people
from hub.simulate.chance import Chance
from hub.simulate.figures import Figures
from hub.simulate.setting import Setting, Span
from hub.simulate.world import Record, World
from proto.ids import BundleName

MONDAY = 1767571200.0
HOUR = 3600.0
POLICY = """
apiVersion: flotilla.dev/v1alpha1
kind: RolloutPolicy
metadata: {name: careful}
spec:
  waves:
    - {name: canary, select: {matchLabels: {canary: "true"}}, soak: 10m}
    - {name: eu, select: {matchLabels: {region: eu}}, maxConcurrent: 1, gates: [{approval: {}}]}
"""
CLUSTERS = """
apiVersion: flotilla.dev/v1alpha1
kind: Cluster
metadata: {name: lab-1, labels: {canary: "true"}}
---
apiVersion: flotilla.dev/v1alpha1
kind: Cluster
metadata: {name: eu-1, labels: {region: eu}}
---
apiVersion: flotilla.dev/v1alpha1
kind: Cluster
metadata: {name: eu-2, labels: {region: eu}}
"""
CANARY = WavePolicy(name="canary", select=Selector(match_labels={"canary": "true"}), soak_s=600.0)
OTHERS = WavePolicy(name="others", select=Selector())


def simulate(*args: object) -> Result:
    return CliRunner(env={"COLUMNS": "80"}).invoke(main, ["simulate", *map(str, args)])


@pytest.fixture
def fleet(tmp_path: Path) -> Path:
    for name, text in {"rollouts/careful.yaml": POLICY, "clusters/all.yaml": CLUSTERS}.items():
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(text)
    return tmp_path


def ran(policy: RolloutPolicy, *, count: int = 20, seed: int = 1, **changes: Any) -> Record:
    made = fleets.of_policy(policy, Fleet(clusters=fleets.made_up([policy], count)))
    setting = replace(Setting(fleet=made, policy="it", start_s=MONDAY, days=2.0), **changes)
    return World(setting, Chance(seed), check_each=1).run()


def counted(policy: RolloutPolicy, **changes: Any) -> Figures:
    return figures.figures(ran(policy, **changes))


def seconds(made: Figures) -> Mapping[str, float]:
    """What was waited for in all waves, in all."""
    found: dict[str, float] = {}
    for wait in made.waits:
        found[wait.kind] = found.get(wait.kind, 0.0) + wait.times.total_s
    return found


# --- the command --------------------------------------------------------------------------------------------------


def test_a_small_fleet_as_a_person_sees_it(fleet: Path) -> None:
    result = simulate("--policy", "careful", "--fleet", fleet, "--days", 1, "--approval", "2h", "--apply", "5m")
    assert result.exit_code == 0, result.output
    assert result.stdout == SEEN


def test_the_same_seed_prints_the_same_and_another_one_does_not(fleet: Path) -> None:
    args = ("--policy", "careful", "--fleet", fleet, "--bad", "30%", "--offline", "10%", "--flap", "10%", "-o", "json")
    first, again, other = (simulate(*args, "--seed", seed).stdout for seed in (3, 3, 4))
    assert first == again
    assert first != other


def test_two_policies_meet_the_same_commits(fleet: Path, tmp_path: Path) -> None:
    (tmp_path / "bold.yaml").write_text(POLICY.replace("careful", "bold").replace(", gates: [{approval: {}}]", ""))
    args = ("--policy", "careful", "--compare", tmp_path / "bold.yaml", "--fleet", fleet, "--approval", "6h")
    careful, bold = json.loads(simulate(*args, "-o", "json").stdout)
    assert careful["commits"]["made"] == bold["commits"]["made"] > 5
    assert careful["costliest"] == "gate approval (eu)"
    assert careful["secondsToShareOfClusters"]["100"]["median"] > 6 * HOUR
    assert bold["secondsToShareOfClusters"]["100"]["median"] < HOUR
    columns, *rows = simulate(*args).stdout.splitlines()[-8:]
    assert columns.split() == ["policy", "careful", "policy", "bold"]
    assert rows[-1].split()[:6] == ["costs", "most", "gate", "approval", "(eu),", "72%"]


def test_a_fleet_repo_rolls_out_its_own_bundles_on_its_own_clusters(fleet: Path) -> None:
    for name, waits in (("shop", ""), ("till", ", dependsOn: [shop]")):
        (fleet / "bundles" / name).mkdir(parents=True)
        (fleet / "bundles" / name / "bundle.yaml").write_text(
            "apiVersion: flotilla.dev/v1alpha1\nkind: Bundle\n"
            f"metadata: {{name: {name}}}\nspec: {{targets: {{}}, rollout: careful{waits}}}\n"
        )
    made = json.loads(simulate("--fleet", fleet, "--days", 3, "-o", "json").stdout)
    assert (made["policy"], made["clusters"]) == ("every bundle by its own policy", 3)
    assert {entry["rollout"].split("-")[0] for entry in made["timeline"]} == {"shop", "till"}
    made = json.loads(simulate("--fleet", fleet, "--clusters", 30, "-o", "json").stdout)
    assert made["clusters"] == 30


def test_a_folder_that_is_no_fleet_repo_has_a_made_up_fleet(tmp_path: Path) -> None:
    result = simulate("--fleet", tmp_path)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("policy default: 100 clusters, 7 days from Mon 2026-01-05, seed 1\n")


@pytest.mark.parametrize(
    ("args", "told"),
    [
        pytest.param(("--fail", "101%"), "'101%' is not a share", id="share"),
        pytest.param(("--bad", "nan"), "'nan' is not a share", id="nan"),
        pytest.param(("--fail", "0.02"), "'0.02' is not a share: write such as 2%", id="a share without its sign"),
        pytest.param(("--apply", "5m..30s"), "'5m..30s' is not a time", id="backwards"),
        pytest.param(("--hours", "Mon-Fri"), "is not a time zone", id="hours"),
        pytest.param(("--start", "tomorrow"), "--start 'tomorrow'", id="start"),
        pytest.param(("--start", "9999-12-31"), "between 1970 and 9000", id="too late"),
        pytest.param(("--days", "nan"), "write a number", id="days"),
        pytest.param(("--policy", "carefull"), "did you mean careful?", id="policy"),
        pytest.param(("--clusters", 0), "0 is not in the range", id="clusters"),
    ],
)
def test_what_cannot_be_simulated_is_said(fleet: Path, args: tuple[object, ...], told: str) -> None:
    result = simulate(*args, "--fleet", fleet)
    assert result.exit_code != 0
    assert told in result.output


def test_a_policy_file_that_is_wrong_is_told_with_its_line(fleet: Path, tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(POLICY.replace("soak", "soack"))
    result = simulate("--policy", tmp_path / "p.yaml", "--fleet", fleet)
    assert result.exit_code == 1
    assert f"Error: {tmp_path / 'p.yaml'}:7: error: spec.waves[0].soack is not a known field" in result.output
    assert "did you mean 'soak'" in result.output


def test_a_policy_file_may_wait_for_bundles_of_the_fleet(fleet: Path, tmp_path: Path) -> None:
    (fleet / "bundles" / "db").mkdir(parents=True)
    (fleet / "bundles" / "db" / "bundle.yaml").write_text(
        "apiVersion: flotilla.dev/v1alpha1\nkind: Bundle\nmetadata: {name: db}\nspec: {targets: {}}\n"
    )
    (tmp_path / "p.yaml").write_text(f"{POLICY}  after: {{bundle: db}}\n")
    result = simulate("--policy", tmp_path / "p.yaml", "--fleet", fleet, "--days", 1)
    assert result.exit_code == 0, result.output
    (tmp_path / "p.yaml").write_text(f"{POLICY}  after: {{bundle: dbb}}\n")
    result = simulate("--policy", tmp_path / "p.yaml", "--fleet", fleet)
    assert "there is no bundle 'dbb' (did you mean 'db'?)" in result.output


def test_where_nothing_happened_no_figure_says_how_long_it_took(fleet: Path) -> None:
    result = simulate("--policy", "careful", "--fleet", fleet, "--days", 1, "--commits-per-hour", 0)
    assert result.stdout.splitlines()[1:] == [
        "",
        "commits                   0: give it more --days or --commits-per-hour",
        "decisions                 0",
        "",
    ]


def test_a_bad_commit_that_nobody_noticed_was_not_turned_back_in_no_time(tmp_path: Path) -> None:
    result = simulate("--fleet", tmp_path, "--clusters", 1, "--bad", "100%", "--shows", "1h", "--days", 1)
    assert "median 1, p95 1, most 1 of 1 cluster\n" in result.stdout
    assert "bad commits               none turned back, 2 completed everywhere\n" in result.stdout


def test_a_broken_rule_is_told_as_a_bug_with_the_seed(fleet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(*args: object, **more: object) -> None:
        raise BrokenInvariant("rollout app-1", "has two of everything")

    monkeypatch.setattr(rollouts, "decide", breaks)
    result = simulate("--policy", "careful", "--fleet", fleet, "--seed", 42)
    assert result.exit_code == 1
    assert "has two of everything" in result.output
    assert "--seed 42" in result.output


# --- what happens -------------------------------------------------------------------------------------------------


def test_nothing_goes_wrong_and_every_commit_arrives() -> None:
    made = counted(RolloutPolicy(name="it", waves=(CANARY, OTHERS)))
    assert made.phases == {"completed": made.rollouts}
    assert made.reached[100].many == made.rollouts > 2
    assert 600 < made.reached[100].median_s < HOUR
    assert seconds(made)["soak"] >= 600 * made.rollouts


def test_a_soak_that_is_longer_than_what_a_bad_commit_takes_to_show_keeps_it_in_the_canary() -> None:
    odds = {"bad": 1.0, "shows": Span(least_s=300.0, most_s=300.0), "count": 50}
    made = counted(RolloutPolicy(name="it", waves=(CANARY, OTHERS)), **odds)
    assert made.phases == {"rolled-back": made.rollouts}
    assert set(made.exposed) == {1}
    assert made.missed == 0
    hasty = counted(RolloutPolicy(name="it", waves=(replace(CANARY, soak_s=0.0), OTHERS)), **odds)
    assert hasty.missed > 0
    assert max(hasty.exposed) == 50


def test_a_metric_after_the_canary_finds_what_its_health_did_not_and_a_person_turns_it_back() -> None:
    gate = Gate(name="errors", when="after", metric=MetricCheck(query="errors", below=1.0, for_s=1800.0))
    waves = (replace(CANARY, soak_s=0.0, gates=(gate,)), OTHERS)
    odds = {"bad": 1.0, "shows": Span(least_s=900.0, most_s=900.0), "answer": Span(least_s=HOUR, most_s=HOUR)}
    made = counted(RolloutPolicy(name="it", waves=waves), count=50, **odds)
    assert set(made.phases) == {"rolled-back"}
    assert set(made.exposed) == {1}
    assert made.costliest is not None
    assert made.costliest.kind == "gate errors"


def test_what_a_cluster_does_wrong_by_itself_is_held_against_the_budget() -> None:
    strict = RolloutPolicy(name="it", waves=(OTHERS,))
    assert set(counted(strict, fail=1.0).phases) == {"rolled-back"}
    lenient = replace(strict, failure=FailurePolicy(budget=Amount(value=50, percent=True)))
    assert set(counted(lenient, fail=0.05, count=40).phases) == {"completed"}


def test_a_rollout_that_is_paused_for_its_failures_waits_for_a_person() -> None:
    policy = RolloutPolicy(name="it", waves=(OTHERS,), failure=FailurePolicy(action="pause"))
    made = counted(policy, fail=0.2, answer=Span(least_s=HOUR, most_s=HOUR))
    assert made.paused == made.rollouts
    assert seconds(made)["paused"] >= HOUR
    assert made.phases["completed"]


def test_a_flapping_cluster_fails_by_its_soak() -> None:
    waves = (replace(OTHERS, soak_s=2 * HOUR),)
    made = counted(RolloutPolicy(name="it", waves=waves, failure=FailurePolicy(budget=Amount(value=1))), flap=0.05)
    assert made.phases.get("completed")
    strict = ran(RolloutPolicy(name="it", waves=waves), flap=0.05)
    assert any("interrupted 3 times" in entry.reason for entry in strict.entries)


def test_who_is_silent_in_a_soak_starts_it_again() -> None:
    waves = (replace(OTHERS, soak_s=6 * HOUR, offline_budget=Amount(value=100, percent=True)),)
    policy = RolloutPolicy(
        name="it", waves=waves, failure=FailurePolicy(budget=Amount(value=100, percent=True), deadline_s=HOUR)
    )
    calm, stormy = (
        max(
            entry.end - entry.made_at for entry in ran(policy, offline=share, away=away).entries if entry.end < math.inf
        )
        for share, away in ((0.0, Span(least_s=60.0, most_s=60.0)), (0.02, Span(least_s=600.0, most_s=1200.0)))
    )
    assert 6 * HOUR < calm < 6 * HOUR + 600
    assert stormy > 7 * HOUR


def test_silences_that_last_no_time_are_none() -> None:
    away = Span(least_s=0.0, most_s=0.0)
    assert ran(RolloutPolicy(name="it", waves=(OTHERS,)), offline=0.5, away=away).entries


def test_an_offline_cluster_catches_up_when_it_is_back() -> None:
    policy = RolloutPolicy(name="it", waves=(replace(OTHERS, offline_budget=Amount(value=50, percent=True)),))
    made = ran(policy, count=40, offline=0.1, commits_per_hour=0.05)
    done = [entry for entry in made.entries if entry.phase.value == "completed"]
    assert done
    assert any(entry.reached.get(100, 0.0) > entry.end for entry in done)


def test_people_answer_in_their_hours() -> None:
    hours = (windows.parse("Mon-Fri 09:00-17:00 UTC", deny=False),)
    friday = MONDAY + 4 * 24 * HOUR
    assert people.answered_at(friday + 16 * HOUR, 2 * HOUR, hours) == friday + (24 * 3 + 10) * HOUR
    assert people.answered_at(friday + 3 * HOUR, 0.0, hours) == friday + 9 * HOUR
    assert people.answered_at(friday, 2 * HOUR, ()) == friday + 2 * HOUR


def test_windows_and_freezes_are_waited_for() -> None:
    night = (windows.parse("18:00-06:00 UTC", deny=True),)
    made = counted(RolloutPolicy(name="it", waves=(CANARY, OTHERS), windows=night))
    assert seconds(made)["window"] > HOUR
    policy = RolloutPolicy(name="it", waves=(OTHERS,))
    frozen = Freeze(name="sale", start_s=MONDAY, end_s=MONDAY + 24 * HOUR)
    fleet = Fleet(clusters=fleets.made_up([policy], 5), freezes=(frozen,))
    setting = Setting(
        fleet=fleets.of_policy(policy, fleet), policy="it", start_s=MONDAY, days=2.0, commits_per_hour=1.0
    )
    record = World(setting, Chance(1), check_each=1).run()
    first = record.entries[0]
    assert [part.kind for part in first.parts if part.kind != "queue"] == ["freeze"]
    assert min(entry.reached[100] for entry in record.entries if entry.reached) > MONDAY + 24 * HOUR
    assert record.decisions < 1000


@pytest.mark.parametrize(
    "gate",
    [
        pytest.param(Gate(name="web", http=HttpCheck(url="http://web", for_s=600.0)), id="http"),
        pytest.param(Gate(name="app", done=BundleDone(bundle=BundleName("app"))), id="another bundle, never there"),
        pytest.param(Gate(name="two", approval=Approval(approvers=2, by=("ann", "bob", "eve"))), id="two people"),
    ],
)
def test_gates_open(gate: Gate) -> None:
    if gate.done is not None:
        gate = replace(gate, done=BundleDone(bundle=BundleName("other")))
    policy = RolloutPolicy(name="it", waves=(CANARY, replace(OTHERS, gates=(gate,))))
    assert set(counted(policy, answer=Span(least_s=60.0, most_s=7200.0)).phases) <= {"completed", "running", "replaced"}


def test_an_approval_that_grows_old_before_the_last_one_is_given_anew() -> None:
    gate = Gate(name="two", approval=Approval(approvers=2, expires_s=HOUR))
    policy = RolloutPolicy(name="it", waves=(replace(OTHERS, gates=(gate,)),))
    made = counted(policy, days=14.0, commits_per_hour=0.01, answer=Span(least_s=0.0, most_s=8 * HOUR))
    assert made.phases.get("completed")


def test_newer_commits_overtake_those_that_wait() -> None:
    made = counted(RolloutPolicy(name="it", waves=(replace(OTHERS, soak_s=HOUR),)), commits_per_hour=5.0, days=0.5)
    assert made.overtaken > made.rollouts > 5
    assert made.queued >= made.rollouts - 1
    assert seconds(made)["queue"] > 0


# --- made-up fleets -----------------------------------------------------------------------------------------------


def test_a_made_up_fleet_has_somebody_in_every_wave() -> None:
    exotic = Selector(
        match_expressions=(
            Requirement(key="zone", operator="In", values=frozenset({"b", "a"})),
            Requirement(key="big", operator="Exists"),
            Requirement(key="old", operator="DoesNotExist"),
        )
    )
    policy = RolloutPolicy(
        name="it",
        waves=(
            CANARY,
            WavePolicy(name="named", clusters=("prod-1",)),
            WavePolicy(name="odd", select=exotic, order_by="n"),
        ),
    )
    made = fleets.made_up([policy], 200)
    assert len(made) == 200
    assert "prod-1" in made
    assert sum(targets.matches(Selector(match_labels={"canary": "true"}), c.labels) for c in made.values()) == 2
    odd = [cluster for cluster in made.values() if targets.matches(exotic, cluster.labels)]
    assert len(odd) > 90
    assert {cluster.labels["n"] for cluster in odd} <= {str(n) for n in range(10)}
    assert fleets.made_up([policy], 1).keys() == {"prod-1"}


SEEN = """\
policy careful: 3 clusters, 1 day from Mon 2026-01-05, seed 1
       'Mon 5         '06:00          '12:00         '18:00
app-1                                            █??????               completed
app-2                                                  ~▒?????█        completed
█ apply  ▓ maxConcurrent  ▒ soak  ? gate  ~ queue

The waves of app-1, 2h 25m:
                     '17:00        '17:30         '18:00        '18:30
canary  ██▒▒▒▒▒▒
eu             ??????????????????????????????????????????????????????????▓▓▓██

commits                   2, 0 bad, 0 overtaken by newer ones
rollouts                  2: 2 completed; 1 queued, 0 paused
to 50 % of clusters       median 2h 20m, p95 2h 38m (2 rollouts)
to 95 % of clusters       median 2h 25m, p95 2h 43m (2 rollouts)
to 100 % of clusters      median 2h 25m, p95 2h 43m (2 rollouts)
decisions                 21

WAITED FOR     WAVE    SHARE  IN ALL   MEDIAN   P95      ROLLOUTS
gate approval  eu      77.7%  4h       2h       2h       2
soak           canary  6.6%   20m 26s  10m 12s  10m 14s  2
queue          -       6.0%   18m 28s  18m 28s  18m 28s  1
apply          canary  3.2%   10m      5m       5m       2
apply          eu      3.2%   10m      5m       5m       2
maxConcurrent  eu      3.2%   10m      5m       5m       2

gate approval (eu) costs most: 78% of the time of all rollouts, 4h in all

"""
