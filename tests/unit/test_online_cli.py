"""`flotilla` against a hub that really listens, as a person runs it: tables, JSON, and errors that say what to do."""

import importlib
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread
import click
import pygit2
import pytest
from click.testing import CliRunner, Result

from hub import directives as hub_directives
from hub import isolation, worker
from hub.cli import COMMANDS, main, online
from hub.inputs import Direct, FromAgent
from hub.journal import EventRow
from hub.rollout.rounds import Memory
from hub.wiring import Hub
from proto.ids import ClusterName
from proto.messages import BundleReport, DriftDetail, DriftReport, FieldValue, Health, ObjectProblem, Report
from tests import real

FILES = {
    "clusters/eu-1.yaml": """
apiVersion: flotilla.dev/v1alpha1
kind: Cluster
metadata: {name: eu-1, labels: {tier: prod}}
spec: {}
""",
    "bundles/shop/bundle.yaml": """
apiVersion: flotilla.dev/v1alpha1
kind: Bundle
metadata: {name: shop}
spec: {targets: {matchLabels: {tier: prod}}, namespace: shop}
""",
    "bundles/shop/settings.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\ndata: {a: b}\n",
    "bundles/broken/bundle.yaml": "kind: Bundle\nmetadata: {name: broken}\n",
}
EU = ClusterName("eu-1")

Run = Callable[..., Awaitable[Result]]


def fleet_repo(path: Path) -> Path:
    repo = pygit2.init_repository(str(path), initial_head="main")
    index = pygit2.Index()
    for name, text in FILES.items():
        index.add(pygit2.IndexEntry(name, repo.create_blob(text.encode()), pygit2.enums.FileMode.BLOB))
    who = pygit2.Signature("Dana", "dana@example.org", 1_700_000_000, 0)
    repo.create_commit("refs/heads/main", who, who, "First", index.write_tree(repo), [])
    return path


@pytest.fixture
async def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Hub]:
    """A hub that took the commit in; eu-1 runs shop's first move, and is not done with it. Workers are threads here:
    they start sooner."""

    async def in_a_thread(function: Callable[..., object], *arguments: object, **_: object) -> object:
        if function is isolation.lacks:
            return ()  # in a thread nothing is confined
        return await anyio.to_thread.run_sync(function, *arguments)

    monkeypatch.setattr(worker, "run", in_a_thread)
    fleet = fleet_repo(tmp_path / "fleet")
    made = Hub(fleet=str(fleet), branch="main", data=tmp_path / "hub", poll_s=3600, heartbeat_s=60.0)
    async with anyio.create_task_group() as tasks:
        port = await tasks.start(partial(made.run, "127.0.0.1", 0))
        made_at = f"http://127.0.0.1:{port}"
        with anyio.fail_after(60):
            while made.loop.desired is None:  # noqa: ASYNC110
                await anyio.sleep(0.02)
        await made.loop.tell(report(1))
        row = made.loop.slices[EU]
        problem = ObjectProblem(
            object="ConfigMap/shop/settings", health=Health.FAILED, reason="ApplyFailed", message="forbidden"
        )
        shop = BundleReport(
            subtree=row.manifest.bundles["shop"].subtree,
            health=Health.IN_PROGRESS,
            converged=False,
            counts={"InProgress": 1},
            problems=(problem,),
        )
        drift = DriftReport(
            id="b/1",
            bundle="shop",
            object="ConfigMap/shop/settings",
            what="changed",
            fields=("data.a",),
            manager="kubectl-edit",
            action="reverted",
        )
        await made.loop.tell(report(2, seq=row.seq, commit=row.commit, bundles={"shop": shop}, drift=(drift,)))
        made.url = made_at  # type: ignore[attr-defined]
        yield made
        tasks.cancel_scope.cancel()


def report(number: int, **more: object) -> FromAgent:
    made = Report(number=number, boot_id="b", full=True, **{"seq": 0, "commit": "", **more})  # type: ignore[arg-type]
    return FromAgent(cluster=EU, report=made)


@pytest.fixture
def run(hub: Hub, tmp_path: Path) -> Run:
    """`flotilla …` with this hub and its token, in a thread: the hub answers meanwhile."""

    async def run(*arguments: str, token: Path | None = tmp_path / "hub/admin.token") -> Result:
        environment = {"FLOTILLA_HUB": hub.url, "USER": "dana", "FLOTILLA_TOKEN": ""}  # type: ignore[attr-defined]
        environment |= {"FLOTILLA_TOKEN_FILE": str(token)} if token else {}
        invoke = partial(CliRunner().invoke, main, list(arguments), env=environment)
        return await anyio.to_thread.run_sync(invoke)

    return run


async def test_status_is_the_fleet_and_what_is_wrong_at_a_glance(run: Run) -> None:
    result = await run("status")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0].startswith("fleet repo  ")
    assert lines[1] == "clusters    1 (0 connected): 1 InProgress"
    assert lines[3].startswith("rollout     shop-1 running, wave 1/1 rest: 1 moving")
    assert "error       bundles/broken/bundle.yaml:1: apiVersion is missing" in result.stdout
    assert "→ write flotilla.dev/v1alpha1" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        pytest.param(["clusters"], ["CLUSTER", "eu-1", "#1"], id="clusters"),
        pytest.param(
            ["clusters", "eu-1"], ["eu-1  tier=prod", "decided #1, applied #1", "shop-1", "forbidden"], id="one cluster"
        ),
        pytest.param(["bundles"], ["BUNDLE", "shop", "broken", "apiVersion is missing"], id="bundles"),
        pytest.param(["rollouts"], ["ROLLOUT", "shop-1", "running", "1 moving"], id="rollouts"),
        pytest.param(["rollouts", "shop-1"], ["shop-1  running", "rest (open)", "eu-1"], id="one rollout"),
        pytest.param(
            ["drift"], ["FIRST SEEN", "ConfigMap/shop/settings", "data.a", "kubectl-edit", "reverted"], id="drift"
        ),
        pytest.param(["drift", "--bundle", "broken"], ["no drift reported"], id="no drift of it"),
        pytest.param(["events", "--kind", "finding"], ["KIND", "finding", "apiVersion is missing"], id="events"),
    ],
)
async def test_a_table_shows(run: Run, arguments: list[str], told: list[str]) -> None:
    result = await run(*arguments)
    assert (result.exit_code, result.stderr, repr(result.exception)) == (0, "", "None")
    for text in told:
        assert text in result.stdout
    assert not any(line.endswith(" ") for line in result.stdout.splitlines())


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        pytest.param("clusters eu1", "cluster eu1: is not in the fleet repo", id="cluster"),
        pytest.param("cordon eu1 --reason x", "did you mean 'eu-1'?", id="to a cluster"),
        pytest.param("cluster pause eu1 --for 2h --reason x", "did you mean 'eu-1'?", id="agent of a cluster"),
        pytest.param("join-token eu1", "did you mean 'eu-1'? Otherwise commit a Cluster file", id="join token"),
        pytest.param("slice log eu1", "did you mean 'eu-1'?", id="slices"),
        pytest.param("hold shp --reason x", "did you mean 'shop'?", id="to a bundle"),
        pytest.param("release shp --reason x", "did you mean 'shop'?", id="release"),
        pytest.param("bundle suspend shp --reason x", "did you mean 'shop'?", id="agents of a bundle"),
        pytest.param("bundle suspend shop --cluster eu1 --reason x", "did you mean 'eu-1'?", id="bundle's cluster"),
        pytest.param("rollback shp --reason x", "did you mean 'shop'?", id="rollback"),
        pytest.param("rollouts shop-99", "the newest of bundle shop is 'shop-1'", id="rollout's number"),
        pytest.param("why shop", "the newest of bundle shop is 'shop-1'", id="a bundle is no rollout"),
        pytest.param("why shp-1", "did you mean 'shop-1'?", id="rollout"),
        pytest.param("why zebra", "see 'flotilla rollouts'", id="nothing is near"),
        pytest.param("pause shp-1 --reason x", "did you mean 'shop-1'?", id="to a rollout"),
        pytest.param("history --cluster eu1", "did you mean 'eu-1'?", id="history"),
        pytest.param("audit --bundle shp", "did you mean 'shop'?", id="audit"),
        pytest.param("audit --rollout shop-99", "the newest of bundle shop is 'shop-1'", id="audit of a rollout"),
        pytest.param("drift --cluster eu1", "did you mean 'eu-1'?", id="drift"),
        pytest.param("events --cluster eu1", "did you mean 'eu-1'?", id="events"),
        pytest.param("notify test oncal", "see 'flotilla notify list'", id="receiver"),
    ],
)
async def test_a_name_that_is_not_there_is_an_error_with_the_one_that_was_meant(
    run: Run, arguments: str, told: str
) -> None:
    result = await run(*arguments.split())
    assert result.exit_code in (1, 2)
    assert told in result.stderr


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        (["status"], "clusters"),
        (["clusters"], "clusters"),
        (["clusters", "eu-1"], "bundle_list"),
        (["bundles"], "bundles"),
        (["rollouts"], "rollouts"),
        (["rollouts", "shop-1"], "members"),
        (["drift"], "drift"),
        (["events"], "events"),
        (["join-token", "eu-1"], "token"),
        (["sync"], "upstream"),
        (["pause", "shop-1", "--reason", "lunch"], "phase"),
    ],
)
async def test_output_json_is_what_the_api_said(run: Run, arguments: list[str], key: str) -> None:
    result = await run(*arguments, "-o", "json")
    assert result.exit_code == 0
    assert key in json.loads(result.stdout)


async def test_why_tells_what_a_rollout_waits_for_and_what_it_did(run: Run, hub: Hub) -> None:
    told = (await run("why", "shop-1")).stdout.splitlines()
    assert told[0] == "shop-1 is running"
    assert told[1].startswith("  running, for ")
    assert told[1].endswith("wave rest waits for eu-1 (moving)")
    assert "  eu-1 is moving for " in told[2]
    assert "says InProgress, not all applied" in told[2]
    lines = [line[10:] for line in told if line[2:3] == ":"]
    assert lines == [
        f"commit {hub.loop.desired.commit[:12]} (Dana: First) changes shop on 1 cluster: rest (1)",  # type: ignore[union-attr]
        "wave rest opens for 1 cluster",
        "eu-1 sent to slice 1: heard from, 1 of 1 in flight",
    ]
    await run("abort", "shop-1", "--reason", "ticket 42")
    told = (await run("why", "shop-1", "--cluster", "eu-1")).stdout.splitlines()
    assert told[0] == "shop-1 is aborted, and eu-1 in it"
    assert any(line.endswith(": abort: ticket 42") for line in told)
    assert any(line.endswith("  waiting for it to apply") for line in told)


async def test_a_record_that_does_not_replay_to_what_the_hub_has_is_told(run: Run, hub: Hub) -> None:
    [state] = hub.loop.states.values()
    other = replace(state, members={EU: replace(state.members[EU], seq=7)})
    hub.loop.memory = Memory(states={state.rollout.id: other})
    told = (await run("why", "shop-1")).stdout
    assert "does not replay to what the hub has: of 1 clusters, the first is eu-1; report this as a bug" in told


async def test_the_verbs_change_a_rollout_and_say_what_it_is_now(run: Run, hub: Hub) -> None:
    waits = "running: wave rest waits for eu-1 (moving)"
    for verb, told in (("pause", "paused"), ("resume", waits), ("abort", "aborted")):
        result = await run(verb, "shop-1", "--reason", "ticket 42")
        assert (result.exit_code, result.stdout) == (0, f"shop-1 is {told}\n")
    assert [event.text for event in hub.journal.events(kind="command")] == [
        f"dana: {verb} shop-1: ticket 42" for verb in ("pause", "resume", "abort")
    ]
    assert "on hold since shop-1: aborted by dana: ticket 42" in (await run("bundles")).stdout
    result = await run("release", "shop", "--reason", "fixed")
    assert (result.exit_code, result.stdout) == (0, "shop is no longer on hold\n")


async def test_a_bundle_is_suspended_where_it_runs_and_everybody_who_waits_is_told_why(run: Run, hub: Hub) -> None:
    result = await run("bundle", "suspend", "shop", "--reason", "a migration")
    assert (result.exit_code, result.stdout.splitlines()) == (
        0,
        ["eu-1: shop is suspended", "  eu-1: its agent is not connected: it is told when it is back"],
    )
    assert [row.why for row in hub.journal.directives().values()] == ["dana: a migration"]
    assert hub.journal.events(kind="command")[-1].text == "dana: suspend bundle shop on eu-1: a migration"
    assert "suspended   shop on eu-1 (dana: a migration)" in (await run("status")).stdout
    assert "shop is suspended (dana: a migration)" in (await run("clusters", "eu-1")).stdout
    assert "suspended on eu-1 (dana: a migration)" in (await run("bundles")).stdout
    with anyio.fail_after(20):
        while "1 suspended" not in (result := await run("rollouts", "shop-1")).stdout:
            await hub.loop.changed.wait()
    assert "eu-1: suspended: dana: a migration" in result.stdout
    result = await run("bundle", "resume", "shop", "--cluster", "eu-1", "--reason", "done")
    assert result.exit_code == 0
    assert hub.journal.directives() == {}
    assert "suspended " not in (await run("status")).stdout


async def test_what_was_suspended_can_be_resumed_where_the_bundle_is_not_wanted_any_more(run: Run, hub: Hub) -> None:
    made = hub_directives.suspend("broken", [EU], why="ann: x", now=1.0)
    await hub.loop.tell(
        Direct(rows={row.key: row for row in made}, event=EventRow(time_s=1.0, kind="command", text="x"))
    )
    assert (await run("bundle", "resume", "broken", "--reason", "done")).exit_code == 0
    assert hub.journal.directives() == {}


async def test_a_cluster_is_paused_until_it_is_over_or_somebody_says_so(run: Run, hub: Hub) -> None:
    result = await run("cluster", "pause", "eu-1", "--for", "1h30m", "--reason", "new nodes", "-o", "json")
    assert result.exit_code == 0
    until = json.loads(result.stdout)["until"]
    assert f"paused      eu-1 until {until} (dana: new nodes)" in (await run("status")).stdout
    assert f"paused until {until} (dana: new nodes)" in (await run("clusters", "eu-1")).stdout
    assert (await run("cluster", "resume", "eu-1", "--reason", "done")).exit_code == 0
    assert hub.journal.directives() == {}


def test_many_clusters_that_are_suspended_alike_are_one_line() -> None:
    one = {"kind": "suspend", "bundle": "shop", "why": "ann: [x]", "until": "", "here": True}
    rows = [{**one, "cluster": f"eu-{n}"} for n in range(9)] + [{**one, "cluster": "us-1", "why": "bob", "here": False}]
    assert [line.plain for line in online._asked(rows)] == [
        "suspended   shop on eu-0, eu-1, eu-2 and 6 more (ann: [x])",
        "suspended   shop on us-1 (bob, in the cluster)",
    ]


async def test_a_sync_has_a_new_number_each_time(run: Run, hub: Hub) -> None:
    numbers = []
    for arguments in (["bundle", "sync", "shop"], ["bundle", "sync", "shop"], ["cluster", "sync", "eu-1"]):
        assert (await run(*arguments)).exit_code == 0
        numbers.append({row.bundle: row.value for row in hub.journal.directives().values()})
    assert numbers[0]["shop"] < numbers[1]["shop"]
    assert numbers[2].keys() == {"shop", "*"}


async def test_a_cluster_is_skipped_with_a_reason_that_is_kept(run: Run, hub: Hub) -> None:
    result = await run("skip", "shop-1", "eu-1", "--reason", "its owner is away")
    assert (result.exit_code, result.stdout) == (0, "shop-1 is completed, without eu-1\n")
    assert hub.journal.events(kind="command")[-1].text == "dana: skip eu-1 in shop-1: its owner is away"


async def test_the_values_of_a_drift_are_asked_of_its_agent(
    run: Run, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    [listed] = json.loads((await run("drift", "-o", "json")).stdout)["drift"]
    away = await run("drift", "show", str(listed["id"]))
    assert (away.exit_code, away.stdout) == (1, "")
    assert "agent of cluster eu-1: is not connected" in away.stderr

    asked = []

    def answers(*values: FieldValue, problem: str = "") -> None:
        async def drift_detail(cluster: str, drift: str) -> DriftDetail:
            asked.append((cluster, drift))
            return DriftDetail(query="q", id=drift, values=values, problem=problem)

        monkeypatch.setattr(hub.directing, "_drift_detail", drift_detail)

    answers(
        FieldValue(path=".data.a", wanted='"b"', live='"edited"'),
        FieldValue(path=".data.new", live='"added"'),
        FieldValue(path=".data.password", redacted=True),
    )
    shown = await run("drift", "show", str(listed["id"]))
    assert shown.exit_code == 0
    assert shown.stdout.splitlines() == [
        "ConfigMap/shop/settings changed in eu-1 by kubectl-edit: reverted",
        "",
        ".data.a",
        '  - "edited"',
        '  + "b"',
        "",
        ".data.new",
        '  - "added"',
        "  + (absent)",
        "",
        ".data.password",
        "  (sensitive: the values are left out)",
        "",
        "- was there   + Git wants",
    ]
    answers(problem="too long ago")
    assert (await run("drift", "show", str(listed["id"]))).stdout.splitlines()[-1] == "too long ago"
    assert asked == [("eu-1", "b/1")] * 2


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        pytest.param(["cluster", "pause", "eu-1", "--reason", "x"], "--for or --until", id="no end"),
        pytest.param(
            ["cluster", "pause", "eu-1", "--for", "2x", "--reason", "x"], "is not a duration", id="no duration"
        ),
        pytest.param(["bundle", "suspend", "shop", "-l", "eu", "--reason", "x"], "is not KEY=VALUE", id="no selector"),
        pytest.param(
            ["bundle", "sync", "shop", "-l", "a=b", "--cluster", "eu-1"], "--cluster or --selector, not both", id="both"
        ),
        pytest.param(["bundle", "suspend", "shop"], "Missing option '--reason'", id="no reason"),
    ],
)
def test_what_cannot_be_meant_is_told_before_the_hub_is_asked(arguments: list[str], told: str) -> None:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert told in result.stderr


async def test_a_join_token_alone_is_printed(run: Run) -> None:
    result = await run("join-token", "eu-1")
    assert result.stdout.startswith("flotilla-join.v1.")
    assert result.stdout.count("\n") == 1


async def test_a_rewritten_history_is_accepted_with_a_reason_that_is_kept(run: Run, hub: Hub) -> None:
    assert (await run("sync", "--accept-rewrite")).exit_code == 2
    assert (await run("sync", "--accept-rewrite", "--reason", "a secret was in it")).exit_code == 0
    [event] = hub.journal.events(kind="command")
    assert event.text == "dana: accept the fleet repo's rewritten history: a secret was in it"


async def test_sources_outside_the_fleet_repo_are_refreshed_by_name_or_all(run: Run) -> None:
    assert (await run("sync", "--refresh")).exit_code == 0
    refused = await run("sync", "--refresh", "shop")
    assert (refused.exit_code, "has no source outside the fleet repo" in refused.stderr) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        pytest.param(["clusters", "nope"], "cluster nope: is not in the fleet repo", id="no such cluster"),
        pytest.param(["rollouts", "nope-1"], "rollout nope-1: does not exist", id="no such rollout"),
        pytest.param(["pause", "nope-1", "--reason", "x"], "rollout nope-1: does not exist", id="nothing to pause"),
        pytest.param(["resume", "shop-1", "--reason", "x"], "rollout shop-1: is running: cannot resume", id="running"),
        pytest.param(["release", "shop", "--reason", "x"], "bundle shop: is not on hold", id="not on hold"),
        pytest.param(
            ["skip", "shop-1", "us-1", "--reason", "x"], "cluster us-1: is not in rollout shop-1", id="nobody to skip"
        ),
        pytest.param(["bundle", "suspend", "nope", "--reason", "x"], "bundle nope: is not in", id="no such bundle"),
        pytest.param(
            ["bundle", "suspend", "shop", "--cluster", "us-1", "--reason", "x"],
            "bundle shop: neither runs nor should run on us-1",
            id="not there",
        ),
        pytest.param(
            ["bundle", "suspend", "shop", "-l", "tier=dev", "--reason", "x"],
            "on no cluster with these",
            id="no cluster",
        ),
        pytest.param(["bundle", "resume", "shop", "--reason", "x"], "shop: is not suspended there", id="not suspended"),
        pytest.param(["cluster", "resume", "eu-1", "--reason", "x"], "cluster eu-1: is not paused", id="not paused"),
        pytest.param(["cluster", "sync", "nope"], "cluster nope: is not in the fleet repo", id="no such cluster"),
        pytest.param(
            ["cluster", "pause", "eu-1", "--until", "2001-01-01T00:00:00Z", "--reason", "x"],
            "is not within the next 30 days",
            id="a pause that is over",
        ),
        pytest.param(
            ["cluster", "pause", "eu-1", "--until", "2030-01-01T00:00:00", "--reason", "x"],
            "has no time zone",
            id="a pause by nobody's clock",
        ),
        pytest.param(["cluster", "pause", "eu-1", "--until", "noon", "--reason", "x"], "is not a time", id="no time"),
        pytest.param(["why", "shop-9"], "rollout shop-9: does not exist", id="why of no rollout"),
        pytest.param(
            ["why", "shop-1", "--cluster", "eu-2"],
            "cluster eu-2: is not in rollout shop-1\ndid you mean 'eu-1'?",
            id="why of a cluster that is not in it",
        ),
        pytest.param(["drift", "show", "999"], "drift 999: is not known", id="no such drift"),
        pytest.param(["drift", "show", "x"], "drift x: is not known", id="no drift's id"),
        pytest.param(
            ["join-token", "zz"], "commit a Cluster file for it first (clusters/zz.yaml)", id="unknown joiner"
        ),
    ],
)
async def test_what_cannot_be_done_is_told_with_what_can(run: Run, arguments: list[str], told: str) -> None:
    result = await run(*arguments)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("Error: ")
    assert told in result.stderr
    assert len(result.stderr.splitlines()) == 2  # the error, and what to do


async def test_without_the_token_nothing_is_changed(run: Run, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("guess\n")
    for token in (None, wrong):
        result = await run("pause", "shop-1", "--reason", "x", token=token)
        assert result.exit_code == 1
        assert "needs the administrator's token" in result.stderr
        assert "--token-file" in result.stderr
    missing = await run("pause", "shop-1", "--reason", "x", token=tmp_path / "none")
    assert f"cannot read the token file {tmp_path}/none: No such file" in missing.stderr
    assert "running" in (await run("rollouts")).stdout


async def test_a_bundle_is_put_on_hold_and_released(run: Run) -> None:
    result = await run("hold", "shop", "--reason", "a fair")
    assert result.exit_code == 1
    assert "rollout shop-1 of it is running" in result.stderr
    assert "add --now" in result.stderr
    result = await run("hold", "shop", "--reason", "a fair", "--now")
    assert (result.exit_code, result.stdout) == (0, "shop is on hold until 'flotilla release shop'\n")
    assert "on hold     shop: dana: a fair ('flotilla release shop --reason …')" in (await run("status")).stdout
    assert "on hold: dana: a fair" in (await run("bundles")).stdout
    assert (await run("release", "shop", "--reason", "it is over")).stdout == "shop is no longer on hold\n"
    assert "on hold" not in (await run("status")).stdout


async def test_a_bundle_and_a_rollout_go_back_by_their_names(run: Run, hub: Hub) -> None:
    assert hub.loop.desired is not None
    tip = hub.loop.desired.commit
    result = await run("rollback", "shop", "--to", tip[:8], "--reason", "as it was")
    assert "rollout shop-1 of it is running" in result.stderr
    result = await run("rollback", "shop-1", "--to", tip[:8], "--reason", "as it was")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == f"shop goes back to revision {tip[:12]}, where it is already; then it is on hold\n"
    assert "aborted" in (await run("rollouts")).stdout
    assert (
        f"on hold     shop at revision {tip[:12]}: dana: as it was (commit a change, or" in (await run("status")).stdout
    )
    again = await run("rollback", "shop-1", "--reason", "twice")
    assert (again.exit_code, "is not under way" in again.stderr) == (1, True)
    none = await run("rollback", "till", "--reason", "x")
    assert (none.exit_code, "rollout till: does not exist" in none.stderr) == (1, True)


async def test_a_paused_rollout_is_shown_with_how_it_goes_on(run: Run) -> None:
    assert (await run("pause", "shop-1", "--reason", "lunch")).exit_code == 0
    lines = (await run("status")).stdout.splitlines()
    [at] = [number for number, line in enumerate(lines) if "shop-1 paused" in line and "(dana: lunch)" in line]
    assert lines[at + 1] == "→           flotilla resume shop-1 --reason … (or rollback, or abort)"


async def test_a_cordoned_cluster_is_named_wherever_somebody_looks(run: Run) -> None:
    result = await run("cordon", "eu-1", "--reason", "new nodes")
    assert (result.exit_code, result.stdout) == (0, "eu-1: cordoned, no rollout goes there\n")
    assert "cordoned    eu-1 (dana: new nodes)" in (await run("status")).stdout
    assert "(dana: new nodes): no rollout goes there" in (await run("clusters", "eu-1")).stdout
    assert "cordoned" in (await run("clusters")).stdout
    assert (await run("uncordon", "eu-1", "--reason", "they are there")).exit_code == 0
    assert "cordoned    eu-1" not in (await run("status")).stdout


async def test_who_did_what_why_and_with_whose_token_is_one_table(run: Run, tmp_path: Path) -> None:
    assert (await run("pause", "shop-1", "--reason", "lunch")).exit_code == 0
    operator = tmp_path / "hub/operator.token"
    assert (await run("cordon", "eu-1", "--reason", "new nodes", token=operator)).exit_code == 0
    result = await run("audit", "--since", "1h")
    assert [line.split()[-5:] for line in result.stdout.splitlines()] == [
        ["WHO", "TOKEN", "VERB", "TO", "WHY"],
        ["dana", "admin", "pause", "shop-1", "lunch"],
        ["operator", "cordon", "eu-1", "new", "nodes"],
    ]
    assert "pause" not in (await run("audit", "--cluster", "eu-1")).stdout
    [word] = json.loads((await run("audit", "--bundle", "shop", "-o", "json")).stdout)["audit"]
    assert (word["verb"], word["rollout"], word["reason"]) == ("pause", "shop-1", "lunch")
    assert "nobody did anything" in (await run("audit", "--since", "2999-01-01T00:00:00Z")).stdout
    assert "nobody did anything" in (await run("audit", "--until", "1h")).stdout
    assert len((await run("audit", "--until", "0s", "--limit", "1")).stdout.splitlines()) == 2
    assert "write 7d" in (await run("audit", "--since", "soon")).stderr


async def test_what_ran_where_since_when_and_by_whose_word_is_one_table(run: Run) -> None:
    assert (await run("pause", "shop-1", "--reason", "lunch")).exit_code == 0
    for about, named in (
        ((), ["eu-1", "shop"]),
        (("--at", "0s"), ["eu-1", "shop"]),
        (("--cluster", "eu-1"), ["shop"]),
        (("--bundle", "shop"), ["eu-1"]),
    ):
        header, row = (await run("history", *about)).stdout.splitlines()
        assert header.split()[:3] == ["SINCE", "(UTC)", "UNTIL"]
        day, clock, until, *cells = row.split()
        assert (len(day), len(clock), until) == (10, 8, "now")
        place = len(named)
        assert (cells[:place], cells[place + 1 : place + 3]) == (named, ["shop-1", "rest"])
        assert " ".join(cells[place + 3 :]) == "Dana: First; pause by dana: lunch"
    assert "nothing ran there" in (await run("history", "--cluster", "eu-1", "--at", "9999d")).stdout
    assert "nothing ever ran there" in (await run("history", "--bundle", "broken")).stdout
    assert "write 7d" in (await run("history", "--at", "soon")).stderr
    found = json.loads((await run("history", "--bundle", "shop", "-o", "json")).stdout)
    [ran] = found["history"]
    assert (ran["rollout"], ran["until"], ran["back"], ran["seq"]) == ("shop-1", "", False, 1)
    assert ran["revision"] == found["rollouts"]["shop-1"]["revision"] != ""
    cut = await run("history", "--limit", "1")
    assert "the newest 1; there may be more" in cut.stderr


async def test_what_the_operator_may_not_is_named_with_the_token_to_use(run: Run, tmp_path: Path) -> None:
    result = await run("join-token", "eu-1", token=tmp_path / "hub/operator.token")
    assert result.exit_code == 1
    assert "needs the administrator's token, this is the operator's" in result.stderr
    assert "admin.token" in result.stderr


async def test_texts_from_the_fleet_are_never_read_as_markup(run: Run) -> None:
    assert (await run("pause", "shop-1", "--reason", "see [/bold] and [red]")).exit_code == 0
    for command in (["status"], ["rollouts"], ["rollouts", "shop-1"], ["events"]):
        result = await run(*command)
        assert result.exit_code == 0
        assert "see [/bold] and [red]" in result.stdout


def test_a_hub_that_is_not_there_is_named_with_what_to_do() -> None:
    address = f"http://127.0.0.1:{real.free_port()}"
    result = CliRunner().invoke(main, ["status", "--hub", address])
    assert result.exit_code == 1
    assert f"no hub answers at {address}" in result.stderr
    assert "--hub or FLOTILLA_HUB" in result.stderr


@pytest.mark.parametrize("name", list(main.commands))
def test_every_command_explains_itself_with_an_example(name: str) -> None:
    command = main.commands[name]
    result = CliRunner().invoke(main, [name, "--help"])
    assert result.exit_code == 0
    assert "Example" in result.stdout
    assert f"flotilla {name}" in result.stdout
    assert not command.get_short_help_str(limit=62).endswith("...")  # the list of commands has whole sentences


@pytest.mark.parametrize("name", ["check", "diff", "plan", "simulate", "explain", "health", "status", "why", "audit"])
def test_how_to_print_is_asked_for_in_one_way(name: str) -> None:
    [option] = [each for each in main.commands[name].params if "-o" in each.opts]
    assert option.opts[:2] in (["--output", "-o"], ["-o", "--output"])
    assert isinstance(option.type, click.Choice)
    assert "json" in option.type.choices


def test_every_command_is_found_in_its_own_module_and_status_needs_few_of_them() -> None:
    for module, names in COMMANDS.items():
        assert [command.name for command in importlib.import_module(module).commands] == list(names)
    program = "import sys; from hub.cli import main; main.commands['status']; print(*sys.modules)"
    run = partial(subprocess.run, check=True, capture_output=True, text=True)
    imported = run([sys.executable, "-c", program]).stdout.split()
    assert "hub.cli.online" in imported
    assert {"pygit2", "aiohttp", "hub.cli.offline", "hub.rollout.rollouts"}.isdisjoint(imported)


@pytest.mark.parametrize(
    "address", ["", "nonsense", "127.0.0.1:8470", "ftp://hub", "http://", "http://[::1", "http://hub:x"]
)
def test_an_address_that_is_none_is_told_with_how_to_write_one(address: str) -> None:
    result = CliRunner().invoke(main, ["status", "--hub", address])
    assert result.exit_code == 2
    assert "is no address of a hub: write such as http://127.0.0.1:8470" in result.stderr
