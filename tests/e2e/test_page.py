"""The status page in Debian's Chromium: what changes is seen without a reload, and a page that is old says so."""

import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import anyio
import pytest

from hub import directives
from hub.inputs import Direct, ToRollout
from hub.journal import EventRow
from hub.state import Command
from hub.wiring import Hub
from proto.ids import ClusterName
from proto.messages import DriftReport
from tests.e2e import browser
from tests.e2e.crowd import HEARTBEAT_S, Crowd
from tests.e2e.world import Repo, World

CLUSTERS = [
    *((f"canary-{n}", 'canary: "true", region: eu') for n in (1, 2)),
    *((f"eu-{n}", "region: eu") for n in range(1, 9)),
    *((f"us-{n}", "region: us") for n in range(1, 11)),
]
POLICY = """
    apiVersion: flotilla.dev/v1alpha1
    kind: RolloutPolicy
    metadata: {name: careful}
    spec:
      waves:
        - {name: canary, select: {matchLabels: {canary: "true"}}}
        - {name: eu, select: {matchLabels: {region: eu}}, maxConcurrent: 6}
        - {name: us, select: {matchLabels: {region: us}}}
      failure: {budget: 2, deadline: 10m, action: rollback}
      offline: {after: 5m, budget: 10%}
    """


def cluster(name: str, labels: str) -> str:
    return (
        "apiVersion: flotilla.dev/v1alpha1\nkind: Cluster\n"
        f"metadata: {{name: {name}, labels: {{tier: prod, {labels}}}}}\nspec: {{}}\n"
    )


def bundle(name: str, text: str = "one") -> dict[str, str | None]:
    return {
        f"bundles/{name}/bundle.yaml": f"""
            apiVersion: flotilla.dev/v1alpha1
            kind: Bundle
            metadata: {{name: {name}}}
            spec: {{targets: {{matchLabels: {{tier: prod}}}}, namespace: {name}, rollout: careful}}
            """,
        f"bundles/{name}/settings.yaml": f"""
            apiVersion: v1
            kind: ConfigMap
            metadata: {{name: settings}}
            data: {{text: {text}}}
            """,
    }


# --- a hub as a process -------------------------------------------------------------------------------------------


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[World]:
    """A hub with one cluster in its fleet repo and no agent."""
    world = World(tmp_path, {})
    world.repo.commit(
        "First",
        {"rollouts/careful.yaml": POLICY, "clusters/eu-1.yaml": cluster("eu-1", "region: eu"), **bundle("shop")},
    )
    world.start_hub()
    try:
        yield world
    finally:
        world.stop()


async def test_a_commit_is_seen_without_a_reload_and_nothing_is_asked_of_anybody_else(
    alone: World, tmp_path: Path
) -> None:
    async with browser.tab(tmp_path) as tab:
        await tab.open(alone.url)
        await tab.until_it_says("shop-1")
        await tab.ask("window.before = true")
        alone.repo.commit("Two more, one broken", {
            "clusters/us-1.yaml": cluster("us-1", "region: us"),
            "bundles/broken/bundle.yaml": "kind: Bundle\nmetadata: {name: <b>x</b>}\n",
        })  # fmt: skip
        await tab.until_it_says("us-1")
        await tab.until_it_says("bundles/broken/bundle.yaml")
        assert await tab.ask("window.before && document.body.className") == "live"
        assert await tab.ask("document.querySelectorAll('main b:not(.tile b)').length") == 0
        assert tab.complaints == []
        hosts = {url.split("/")[2] for url in tab.requested if not url.startswith("data:")}
        assert hosts == {alone.url.split("/")[2]}


async def test_a_page_whose_hub_is_killed_says_that_it_is_old_and_lives_again_with_the_hub(
    alone: World, tmp_path: Path
) -> None:
    assert alone.hub is not None
    async with browser.tab(tmp_path) as tab:
        await tab.open(alone.url)
        await tab.until("document.body.className === 'live'")
        await anyio.to_thread.run_sync(alone.hub.kill)
        await tab.until("document.body.className === 'lost'")
        assert "No word from the hub since" in await tab.ask("document.querySelector('#lost').innerText")
        assert "old" in await tab.ask("document.title")
        assert await tab.ask("getComputedStyle(document.querySelector('main')).filter") == "grayscale(1)"
        await anyio.to_thread.run_sync(alone.start_hub)
        await tab.until("document.body.className === 'live'")
        assert await tab.ask("document.querySelector('#lost').hidden")


async def test_a_page_whose_hub_hangs_says_so_although_the_connection_stands(alone: World, tmp_path: Path) -> None:
    assert alone.hub is not None
    async with browser.tab(tmp_path) as tab:
        await tab.open(alone.url)
        await tab.until("document.body.className === 'live'")
        os.kill(alone.hub.pid, signal.SIGSTOP)
        try:
            await tab.until("document.body.className === 'lost'", timeout_s=90)
        finally:
            os.kill(alone.hub.pid, signal.SIGCONT)
        await tab.until("document.body.className === 'live'")


# --- a fleet in trouble -------------------------------------------------------------------------------------------


DRIFT = (
    DriftReport(
        id="1",
        bundle="shop",
        object="Deployment/shop/web",
        what="changed",
        fields=(".spec.replicas",),
        manager="kubectl-scale",
        operation="Update",
        time="2026-01-05T09:12:44Z",
    ),
    DriftReport(id="2", bundle="ingress", object="ConfigMap/ingress/settings", what="deleted"),
    DriftReport(
        id="3",
        bundle="shop",
        object="Service/shop/web",
        what="changed",
        fields=('.spec.ports[port=80,protocol="TCP"].targetPort', ".spec.sessionAffinity"),
        manager="kubectl-edit",
        operation="Update",
        time="2026-01-05T09:14:02Z",
        first_seen="2026-01-05T09:10:00Z",
        contested=True,
    ),
    DriftReport(
        id="4",
        bundle="cert-manager",
        object="ConfigMap/cert-manager/settings",
        what="changed",
        fields=(".data.text",),
        manager="terraform",
        operation="Update",
        time="2026-01-05T09:15:20Z",
        action="paused",
    ),
)


@asynccontextmanager
async def in_trouble(folder: Path) -> AsyncIterator[str]:
    """The address of a hub whose fleet is in the middle of a rollout: one cluster failed, one is silent, drift."""
    repo = Repo(folder / "fleet")
    repo.commit(
        "A fleet",
        {
            "rollouts/careful.yaml": POLICY,
            **{f"clusters/{name}.yaml": cluster(name, labels) for name, labels in CLUSTERS},
            **bundle("cert-manager"),
            **bundle("ingress"),
            **bundle("shop"),
        },
    )
    hub = Hub(fleet=str(repo.path), branch="main", data=folder / "hub", poll_s=0.2, heartbeat_s=HEARTBEAT_S)
    crowd = Crowd(hub)
    async with anyio.create_task_group() as tasks:
        port = await tasks.start(partial(hub.run, "127.0.0.1", 0))
        tasks.start_soon(crowd.run)
        await crowd.settled(rollouts=0)
        crowd.failing |= {"eu-3"}
        crowd.slow |= {"eu-4", "eu-6", "eu-7"}
        crowd.silent |= {"us-7"}
        hub.loop.live.of(ClusterName("us-7")).connected_since = None
        now = time.time()
        asked = (
            *directives.suspend("shop", [ClusterName("eu-5")], why="dana: a migration runs", now=now),
            directives.pause(ClusterName("canary-2"), until_s=now + 3600, why="sam: new nodes", now=now),
        )
        event = EventRow(time_s=now, kind="command", text="suspend and pause")
        await hub.loop.tell(Direct(rows={row.key: row for row in asked}, event=event))
        repo.commit("shop 2, and a typing error", {
            **bundle("shop", "two"),
            "bundles/ingress/bundle.yaml": "apiVersion: flotilla.dev/v1alpha1\nkind: Bundle\n"
            "metadata: {name: ingress}\nspec: {targets: {matchLabels: {tier: prod}}, namespce: ingress}\n",
        })  # fmt: skip
        for number, name in enumerate(("us-2", "us-2", "eu-1", "canary-2")):
            await crowd.tell(name, drift=(DRIFT[number],))
        yield f"http://127.0.0.1:{port}"
        tasks.cancel_scope.cancel()


async def test_a_fleet_in_trouble_is_readable_in_light_and_dark_and_on_a_phone(tmp_path: Path) -> None:
    """FLOTILLA_PICTURES names a folder for pictures of what was looked at."""
    pictures = os.environ.get("FLOTILLA_PICTURES")
    async with in_trouble(tmp_path) as url, browser.tab(tmp_path) as tab:
        await tab.look(width=1280, height=900)
        await tab.open(url)
        await tab.until("!!document.querySelector('.wave.open .bar .failed')")
        await tab.until("document.querySelectorAll('tbody .health')[0].innerText.includes('Failed')")
        await tab.until("[...document.querySelectorAll('.tile')].some(t => t.innerText.includes('Unknown'))")
        assert await tab.ask("document.querySelectorAll('tbody tr').length") == len(CLUSTERS)
        assert "terraform" in await tab.ask("document.querySelector('#drift li').innerText")
        troubles = await tab.ask("document.querySelector('#troubles').innerText")
        assert "namespce" in troubles
        assert "shop on eu-5: dana: a migration runs" in troubles
        assert "flotilla bundle resume shop --cluster eu-5 --reason" in troubles
        assert "sam: new nodes" in troubles
        await tab.until("!!document.querySelector('.wave.open .bar .suspended')")
        drift = await tab.ask("document.querySelector('#drift').innerText")
        assert "kubectl-edit does it again and again" in drift
        assert "undone when the pause is over" in drift

        await tab.press("/")
        await tab.call("Input.insertText", text="region=us unknown")
        await tab.until("document.querySelectorAll('tbody tr').length === 1")
        assert await tab.ask("document.querySelector('tbody a').innerText") == "us-7"
        assert "good" not in await tab.ask("document.querySelector('tbody tr .tag').className")
        await tab.press("Escape")
        await tab.until(f"document.querySelectorAll('tbody tr').length === {len(CLUSTERS)}")

        await tab.ask("document.activeElement.blur()")
        await tab.ask(
            "document.querySelector('#repo span').textContent = 'https://git.example.org/fleet.git (main) at '"
        )
        for name, width, scheme in (("light", 1280, "light"), ("dark", 1280, "dark"), ("phone", 390, "light")):
            await tab.look(width=width, height=1000, scheme=scheme)
            assert await tab.ask("document.documentElement.scrollWidth <= innerWidth"), f"{name} scrolls sideways"
            if pictures:
                await tab.picture(Path(pictures) / f"{name}.png")
        assert tab.complaints == []


# --- a rollout that waits -----------------------------------------------------------------------------------------

GATED = """
    apiVersion: flotilla.dev/v1alpha1
    kind: RolloutPolicy
    metadata: {name: careful}
    spec:
      waves:
        - {name: canary, select: {matchLabels: {canary: "true"}}}
        - name: eu
          select: {matchLabels: {region: eu}}
          windows: [{allow: "DAY 09:00-10:00 Europe/Berlin"}]
          gates:
            - {name: security, approval: {approvers: 2, by: [ann, bob]}}
            - {metric: {query: "sum(rate(errors[5m]))", server: prod, below: 0.01, for: 5m}}
            - {bundle: {name: ingress}}
    """


@asynccontextmanager
async def that_waits(folder: Path) -> AsyncIterator[tuple[Hub, str]]:
    """A hub whose rollout has come to gates, with one of two people's words; its window opens on another day."""
    repo = Repo(folder / "fleet")
    day = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")[(time.gmtime().tm_wday + 3) % 7]
    plain = {name: text.replace(", rollout: careful", "") for name, text in bundle("ingress").items() if text}
    repo.commit(
        "A fleet",
        {
            "fleet.yaml": """
                apiVersion: flotilla.dev/v1alpha1
                kind: Fleet
                spec:
                  freezes:
                    - {name: holidays, from: "2090-12-20T18:00", to: "2091-01-04T06:00", zone: Europe/Berlin,
                       reason: nobody is there, clusters: {matchLabels: {region: us}}}
                """,
            "rollouts/careful.yaml": GATED.replace("DAY", day),
            **{f"clusters/{name}.yaml": cluster(name, labels) for name, labels in CLUSTERS},
            **plain,
            **bundle("shop"),
        },
    )
    hub = Hub(fleet=str(repo.path), branch="main", data=folder / "hub", poll_s=0.2, heartbeat_s=HEARTBEAT_S)
    crowd = Crowd(hub)
    async with anyio.create_task_group() as tasks:
        port = await tasks.start(partial(hub.run, "127.0.0.1", 0))
        tasks.start_soon(crowd.run)
        await crowd.settled(rollouts=1)
        yield hub, f"http://127.0.0.1:{port}"
        tasks.cancel_scope.cancel()


async def test_a_rollout_that_waits_says_at_which_gates_who_agreed_and_what_to_do(tmp_path: Path) -> None:
    """FLOTILLA_PICTURES names a folder for pictures of what was looked at."""
    pictures = os.environ.get("FLOTILLA_PICTURES")
    async with that_waits(tmp_path) as (hub, url), browser.tab(tmp_path) as tab:
        await tab.look(width=1280, height=900)
        await tab.open(url)
        await tab.until("document.querySelectorAll('.gate').length === 3")
        gates = "document.querySelector('.rollout .waits').innerText"
        assert "needs the word of 2 people of ann, bob" in await tab.ask(gates)
        await tab.until(f"{gates}.includes(\"the hub knows no Prometheus 'prod'\")")
        await tab.until(f"{gates}.includes('bundle ingress has finished')")
        assert "flotilla approve shop-" in await tab.ask("document.querySelector('.todo').innerText")
        assert "09:00 Europe/Berlin" in await tab.ask(gates)
        troubles = await tab.ask("document.querySelector('#troubles').innerText")
        assert "rollout policy careful, gate eu/metric: the hub knows no Prometheus 'prod'" in troubles
        freezes = await tab.ask("document.querySelector('#freezes').innerText")
        assert "holidays: nobody is there · 10 clusters from 2090-12-20 17:00 UTC to 2091-01-04 05:00 UTC" in freezes

        [rollout] = hub.loop.states
        word = Command(verb="approve", actor="ann", reason="the canaries look well")
        await hub.loop.tell(ToRollout(rollout=rollout, command=word))
        await tab.until(f"{gates}.includes('the canaries look well')")
        assert "1 of 2" in await tab.ask(gates)
        troubles = await tab.ask("document.querySelector('#troubles').innerText")
        assert "shop: gate eu/security · approved by ann, 1 of 2" in troubles
        assert "shop: gate eu/metric · cannot be asked" in troubles
        assert f"without it: flotilla promote {rollout} --reason" in troubles
        for name, width, scheme in (("light", 1280, "light"), ("dark", 1280, "dark"), ("phone", 390, "light")):
            await tab.look(width=width, height=1000, scheme=scheme)
            assert await tab.ask("document.documentElement.scrollWidth <= innerWidth"), f"{name} scrolls sideways"
            if pictures:
                await tab.picture(Path(pictures) / f"waits-{name}.png")
        await hub.loop.tell(ToRollout(rollout=rollout, command=replace(word, actor="bob", reason="so do I")))
        await tab.until("document.querySelector('.gate .tag').innerText === 'open' && !document.querySelector('.todo')")
        assert tab.complaints == []


# --- what somebody has to look at -----------------------------------------------------------------------------------


STRICT = """
    apiVersion: flotilla.dev/v1alpha1
    kind: RolloutPolicy
    metadata: {name: careful}
    spec:
      waves: [{name: canary, select: {matchLabels: {canary: "true"}}}]
      failure: {deadline: 5s}
    """
PATIENT = """
    apiVersion: flotilla.dev/v1alpha1
    kind: RolloutPolicy
    metadata: {name: patient}
    spec:
      waves: [{name: canary, select: {matchLabels: {canary: "true"}}, soak: 10m}]
    """


async def test_what_stands_still_and_who_did_not_come_back_is_told_first_with_the_next_command(tmp_path: Path) -> None:
    """FLOTILLA_PICTURES names a folder for pictures of what was looked at."""
    pictures = os.environ.get("FLOTILLA_PICTURES")
    repo = Repo(tmp_path / "fleet")
    till = {name: text.replace("rollout: careful", "rollout: patient") for name, text in bundle("till").items() if text}
    repo.commit(
        "A fleet",
        {
            "rollouts/careful.yaml": STRICT.replace("5s", "10m"),
            "rollouts/patient.yaml": PATIENT,
            **{f"clusters/{name}.yaml": cluster(name, labels) for name, labels in CLUSTERS[:4]},
            **bundle("shop"),
            **till,
        },
    )
    hub = Hub(fleet=str(repo.path), branch="main", data=tmp_path / "hub", poll_s=0.2, heartbeat_s=HEARTBEAT_S)
    crowd = Crowd(hub)
    async with anyio.create_task_group() as tasks, browser.tab(tmp_path) as tab:
        port = await tasks.start(partial(hub.run, "127.0.0.1", 0))
        tasks.start_soon(crowd.run)
        await crowd.settled(rollouts=1)
        [waits] = hub.loop.states
        pause = Command(verb="pause", actor="ann", reason="is the till well?")
        await hub.loop.tell(ToRollout(rollout=waits, command=pause))
        crowd.failing |= {"canary-1"}
        repo.commit("A shop that cannot start", {"rollouts/careful.yaml": STRICT, **bundle("shop", "two")})
        await tab.look(width=1280, height=900)
        await tab.open(f"http://127.0.0.1:{port}")
        troubles = "document.querySelector('#troubles').innerText"
        await tab.until(f"{troubles}.includes('not back')")
        said = await tab.ask(troubles)
        assert "shop: canary-1 did not come back; rolled back because canary-1 failed" in said
        assert "look at these clusters now" in said
        assert "till: ann: is the till well?" in said
        assert f"flotilla resume {waits} --reason …, or: flotilla rollback {waits} --reason …" in said
        assert said.index("not back") < said.index("paused")
        assert "on hold" not in said
        commands = "[...document.querySelectorAll('#troubles .remedy code')].map(code => code.innerText)"
        assert f"flotilla rollback {waits} --reason …" in await tab.ask(commands)
        if pictures:
            await tab.picture(Path(pictures) / "stands-still.png")
        assert tab.complaints == []
        tasks.cancel_scope.cancel()
