"""The hub's loop with its real journal and store: what a turn stores, publishes, and does again after a failure."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import anyio
import msgspec
import pytest

from hub import directives
from hub.desired import Desired
from hub.inputs import Direct, FromAgent, Happened, Input, Release, ToRollout
from hub.journal import Decision, EventRow, Journal
from hub.loop import Loop
from hub.model import Amount, Bundle, Cluster, FailurePolicy, Finding, Fleet, RolloutPolicy, Selector, WavePolicy
from hub.rollout import rollouts, waves
from hub.slices import compose, trees
from hub.slices.gitstore import GitStore
from hub.state import Command, MemberPhase, Phase, State
from hub.tracing import Tracing
from proto import telemetry
from proto.errors import InvalidInput, Permanent, Refused, Transient
from proto.ids import BundleName, ClusterName, Oid, RolloutId
from proto.messages import BundleReport, Directives, DriftReport, Health, Report, WakeUp
from proto.objects import canonical, key_of
from proto.slices import BundlePolicy, to_file, with_membership

CANARY, EU, EU2 = ClusterName("canary"), ClusterName("eu-1"), ClusterName("eu-2")
SHOP, NOTES, STORE = BundleName("shop"), BundleName("notes"), BundleName("store")
HEARTBEAT_S = 10.0

POLICY = RolloutPolicy(
    name="careful",
    waves=(
        WavePolicy(name="canary", select=Selector(match_labels={"canary": "true"})),
        WavePolicy(name="eu", select=Selector(match_labels={"region": "eu"})),
    ),
    failure=FailurePolicy(deadline_s=60.0),
)
CLUSTERS = {
    CANARY: Cluster(name=CANARY, labels={"canary": "true"}),
    EU: Cluster(name=EU, labels={"region": "eu"}),
}


class Clock:
    """Time that stands still until a test moves it."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


class Hub:
    """A loop over a folder, with agents that say what the test wants."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = Clock()
        path = folder / "slices.git"
        self.store = GitStore.open(path) if path.exists() else GitStore.create(path)
        self.journal = Journal(folder / "journal.db")
        self.woken: list[tuple[ClusterName, WakeUp]] = []
        self.directed: list[tuple[ClusterName, Directives]] = []
        self.tracing = Tracing(telemetry.provider("test", ""))
        self.loop = Loop(
            journal=self.journal,
            store=self.store,
            wake=lambda cluster, wake: self.woken.append((cluster, wake)),
            direct=lambda cluster, told: self.directed.append((cluster, told)),
            tracing=self.tracing,
            heartbeat_s=HEARTBEAT_S,
            clock=self.clock,
        )
        self.clock.now += 3 * HEARTBEAT_S  # past settling
        self.numbers: dict[ClusterName, int] = {}

    def close(self) -> None:
        self.loop.close()
        self.journal.close()
        self.tracing.close()

    def subtree(self, bundle: str, text: str, *, name: str = "settings") -> Oid:
        """Store one bundle of one ConfigMap."""
        manifest = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": name, "namespace": "shop"},
            "data": {"text": text},
        }
        files = {
            "bundle.json": to_file(BundlePolicy(name=bundle)),
            key_of(manifest).path: canonical(with_membership(manifest, bundle)),
        }
        oid, objects = trees.subtree(files)
        self.store.write(objects)
        return oid

    def desired(
        self,
        commit: str,
        subtrees: Mapping[BundleName, Oid],
        *,
        clusters: Mapping[ClusterName, Cluster] = CLUSTERS,
        **changes: object,
    ) -> Desired:
        everything = Selector()
        fleet = Fleet(
            clusters=clusters,
            bundles={
                name: Bundle(
                    name=name,
                    folder=f"bundles/{name}",
                    targets=everything,
                    rollout="careful",
                    policy=BundlePolicy(name=name),
                )
                for name in subtrees
            },
            policies={"careful": POLICY},
        )
        made: dict[str, object] = {
            "commit": Oid(commit * 40),
            "fleet": fleet,
            "subtrees": {name: dict.fromkeys(clusters, oid) for name, oid in subtrees.items()},
            "failed": frozenset(),
            "findings": (),
            **changes,
        }
        return Desired(**made)  # type: ignore[arg-type]

    async def turn(self, *inputs: object) -> None:
        await self.loop.turn([Input(what=what) for what in inputs])

    def says(self, cluster: ClusterName, health: Health = Health.CURRENT, **more: object) -> FromAgent:
        """A full report of a cluster that runs exactly its slice."""
        row = self.loop.slices.get(cluster)
        self.numbers[cluster] = self.numbers.get(cluster, 0) + 1
        bundles = {
            name: BundleReport(subtree=entry.subtree, health=health, converged=health is Health.CURRENT)
            for name, entry in (row.manifest.bundles if row else {}).items()
        }
        report = Report(
            number=self.numbers[cluster],
            boot_id="b",
            seq=row.seq if row else 0,
            commit=row.commit if row else "",
            full=True,
            bundles=bundles,
            **more,  # type: ignore[arg-type]
        )
        return FromAgent(cluster=cluster, report=report)

    def seqs(self) -> dict[ClusterName, int]:
        return {cluster: row.seq for cluster, row in self.loop.slices.items()}

    def phases(self) -> dict[str, str]:
        return {row.id: row.phase for row in self.journal.rollouts()}


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[Hub]:
    hub = Hub(folder)
    try:
        yield hub
    finally:
        hub.close()


async def rolled_out(hub: Hub, commit: str, subtrees: Mapping[BundleName, Oid]) -> None:
    """Take `subtrees` through both waves."""
    await hub.turn(hub.desired(commit, subtrees), hub.says(CANARY), hub.says(EU))
    await hub.turn(hub.says(CANARY), hub.says(EU))
    await hub.turn(hub.says(CANARY), hub.says(EU))
    assert set(hub.phases().values()) == {"completed"}


async def test_a_commit_goes_to_the_canary_and_to_the_rest_only_on_its_proof(tmp_path: Path) -> None:
    async with running(tmp_path) as hub:
        one = hub.subtree("shop", "one")
        await hub.turn(hub.says(CANARY), hub.says(EU))
        await hub.turn(hub.desired("a", {SHOP: one}))
        assert hub.seqs() == {CANARY: 1}
        await hub.turn(hub.says(CANARY, Health.IN_PROGRESS))
        assert hub.seqs() == {CANARY: 1}
        await hub.turn(hub.says(CANARY))
        assert hub.seqs() == {CANARY: 1, EU: 1}
        await hub.turn(hub.says(EU))
        assert hub.phases() == {"shop-1": "completed"}
        assert hub.journal.last_good() == {(CANARY, SHOP): one, (EU, SHOP): one}
        assert hub.journal.completed() == {SHOP: {CANARY: one, EU: one}}


async def test_a_move_is_in_the_store_the_journal_the_ref_and_the_wake_up(tmp_path: Path) -> None:
    async with running(tmp_path) as hub:
        one = hub.subtree("shop", "one")
        await hub.turn(hub.says(CANARY), hub.desired("a", {SHOP: one}))
        row = hub.loop.slices[CANARY]
        assert hub.journal.slices()[CANARY] == row
        assert hub.store.ref(CANARY) == row.commit
        assert hub.store.manifest(row.commit).bundles["shop"].subtree == one
        [(cluster, wake)] = hub.woken
        assert (cluster, wake.seq, wake.commit, wake.parent) == (CANARY, 1, row.commit, "")
        assert {item.kind for item in wake.objects} == {"commit", "tree", "blob"}


async def test_two_bundles_due_on_a_cluster_at_one_moment_share_a_commit(tmp_path: Path) -> None:
    async with running(tmp_path) as hub:
        both = {SHOP: hub.subtree("shop", "one"), NOTES: hub.subtree("notes", "one", name="notes")}
        await hub.turn(hub.says(CANARY), hub.desired("a", both))
        assert hub.seqs() == {CANARY: 1}
        assert {n: e.subtree for n, e in hub.loop.slices[CANARY].manifest.bundles.items()} == both


async def test_a_failed_canary_is_rolled_back_and_the_neighbours_move_stays(tmp_path: Path) -> None:
    async with running(tmp_path) as hub:
        shop, notes = hub.subtree("shop", "one"), hub.subtree("notes", "one", name="notes")
        await rolled_out(hub, "a", {SHOP: shop, NOTES: notes})
        bad, better = hub.subtree("shop", "bad"), hub.subtree("notes", "two", name="notes")
        await hub.turn(hub.desired("b", {SHOP: bad, NOTES: better}))
        failed = hub.says(CANARY)
        sick = dict(failed.report.bundles) | {"shop": BundleReport(subtree=bad, health=Health.FAILED, converged=False)}
        report = Report(
            number=99, boot_id="b", seq=failed.report.seq, commit=failed.report.commit, full=True, bundles=sick
        )
        await hub.turn(FromAgent(cluster=CANARY, report=report), hub.says(EU))
        assert hub.loop.slices[CANARY].manifest.bundles["shop"].subtree == shop
        assert hub.loop.slices[CANARY].manifest.bundles["notes"].subtree == better
        for _ in range(3):
            await hub.turn(hub.says(CANARY), hub.says(EU))
        phases = hub.phases()
        assert [phases["shop-3"] if "shop-3" in phases else phases["shop-4"]] == ["rolled-back"]
        assert hub.loop.slices[EU].manifest.bundles["shop"].subtree == shop
        assert hub.loop.slices[EU].manifest.bundles["notes"].subtree == better
        assert hub.loop.holds[SHOP].refused == {CANARY: bad, EU: bad}


def renamed(hub: Hub, commit: str, subtree: Oid) -> Desired:
    """The bundle `shop` under the name `store`."""
    made = hub.desired(commit, {STORE: subtree})
    return replace(made, fleet=replace(made.fleet, renamed={SHOP: STORE}))


def names(hub: Hub) -> dict[ClusterName, list[str]]:
    return {cluster: list(row.manifest.bundles) for cluster, row in hub.loop.slices.items()}


async def test_what_proved_itself_in_the_turn_in_which_a_newer_rollout_begins_is_where_that_goes_back_to(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as hub:
        one, two = hub.subtree("shop", "one"), hub.subtree("shop", "two")
        await hub.turn(hub.says(CANARY), hub.says(EU), hub.desired("a", {SHOP: one}))
        await hub.turn(hub.says(CANARY))
        await hub.turn(hub.desired("b", {SHOP: two}))
        await hub.turn(hub.says(EU))
        assert hub.phases() == {"shop-1": "completed", "shop-2": "running"}
        newer = hub.loop.states[RolloutId("shop-2")].rollout
        assert {cluster: target.before for cluster, target in newer.targets.items()} == {
            CANARY: {SHOP: one},
            EU: {SHOP: one},
        }


async def test_a_renamed_bundle_takes_over_on_each_cluster_in_one_commit(tmp_path: Path) -> None:
    async with running(tmp_path) as hub:
        await rolled_out(hub, "a", {SHOP: hub.subtree("shop", "one")})
        store = hub.subtree("store", "one")
        await hub.turn(renamed(hub, "b", store), hub.says(CANARY), hub.says(EU))
        assert {c: list(row.manifest.bundles) for c, row in hub.loop.slices.items()} == {
            CANARY: ["store"],
            EU: ["shop"],
        }
        assert hub.seqs() == {CANARY: 2, EU: 1}
        await hub.turn(hub.says(CANARY))
        await hub.turn(hub.says(EU))
        assert {c: list(row.manifest.bundles) for c, row in hub.loop.slices.items()} == {
            CANARY: ["store"],
            EU: ["store"],
        }
        assert hub.seqs() == {CANARY: 2, EU: 2}
        assert hub.phases() == {"shop-1": "completed", "store-2": "completed"}


async def test_a_renamed_bundle_that_fails_goes_back_to_its_old_name_and_a_fix_goes_on(tmp_path: Path) -> None:
    async with running(tmp_path) as hub:
        one = hub.subtree("shop", "one")
        await rolled_out(hub, "a", {SHOP: one})
        await hub.turn(renamed(hub, "b", hub.subtree("store", "bad")), hub.says(CANARY), hub.says(EU))
        await hub.turn(hub.says(CANARY, Health.FAILED))
        assert {n: e.subtree for n, e in hub.loop.slices[CANARY].manifest.bundles.items()} == {"shop": one}
        await hub.turn(hub.says(CANARY), hub.says(EU))
        assert hub.phases()["store-2"] == "rolled-back"
        assert hub.loop.holds.keys() == {SHOP, STORE}
        good = hub.subtree("store", "good")
        await hub.turn(renamed(hub, "c", good), hub.says(CANARY), hub.says(EU))
        await hub.turn(hub.says(CANARY))
        await hub.turn(hub.says(EU))
        assert hub.phases()["store-3"] == "completed"
        assert hub.loop.holds == {}
        assert {c: {n: e.subtree for n, e in row.manifest.bundles.items()} for c, row in hub.loop.slices.items()} == {
            CANARY: {"store": good},
            EU: {"store": good},
        }


async def test_a_held_bundle_stays_until_it_is_released_or_changed(tmp_path: Path) -> None:
    async with running(tmp_path) as hub:
        one = hub.subtree("shop", "one")
        await rolled_out(hub, "a", {SHOP: one})
        bad = hub.subtree("shop", "bad")
        desired = hub.desired("b", {SHOP: bad})
        await hub.turn(desired, hub.says(CANARY), hub.says(EU))
        await hub.turn(hub.says(CANARY, Health.FAILED))
        await hub.turn(hub.says(CANARY))
        assert hub.phases()["shop-2"] == "rolled-back"
        await hub.turn(hub.desired("c", {SHOP: bad}))
        assert "shop-3" not in hub.phases()
        await hub.turn(Release(bundle=SHOP, actor="dana", reason="the registry is back"))
        assert hub.loop.holds == {}
        assert hub.phases()["shop-3"] == "running"


async def test_a_turn_that_cannot_be_stored_changes_nothing_and_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as hub:
        one = hub.subtree("shop", "one")
        await hub.turn(hub.says(CANARY))
        desired = hub.desired("a", {SHOP: one})

        def full(decision: Decision) -> None:
            raise Transient("journal.db", "database or disk is full")

        with monkeypatch.context() as broken:
            broken.setattr(hub.journal, "commit", full)
            with pytest.raises(Transient):
                await hub.turn(desired)
        assert hub.loop.slices == {}
        assert hub.loop.states == {}
        assert hub.woken == []
        await hub.turn(desired)
        assert hub.seqs() == {CANARY: 1}


async def test_a_hub_killed_after_storing_and_before_publishing_publishes_at_its_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as hub:
        one = hub.subtree("shop", "one")
        await hub.turn(hub.says(CANARY))

        monkeypatch.setattr(hub.loop, "_keep", raising(RuntimeError("killed")))
        with pytest.raises(RuntimeError):
            await hub.turn(hub.desired("a", {SHOP: one}))
        assert hub.store.ref(CANARY) is None
    async with running(tmp_path) as again:
        await again.loop.publish_all()
        assert again.store.ref(CANARY) == again.loop.slices[CANARY].commit
        await again.turn(again.desired("a", {SHOP: one}), again.says(CANARY), again.says(EU))
        assert again.seqs()[CANARY] == 1
        assert again.phases() == {"shop-1": "running"}


async def test_a_journal_that_is_older_than_its_refs_stops_the_hub(tmp_path: Path) -> None:
    async with running(tmp_path) as hub:
        await rolled_out(hub, "a", {SHOP: hub.subtree("shop", "one")})
        backup = (tmp_path / "journal.db").read_bytes(), (tmp_path / "journal.db-wal").read_bytes()
        await hub.turn(hub.desired("b", {SHOP: hub.subtree("shop", "two")}))
    (tmp_path / "journal.db").write_bytes(backup[0])
    (tmp_path / "journal.db-wal").write_bytes(backup[1])
    async with running(tmp_path) as restored:
        with pytest.raises(Permanent):
            await restored.loop.publish_all()


async def test_a_command_to_nothing_fails_alone_and_a_good_one_is_kept_with_its_reason(tmp_path: Path) -> None:
    async with running(tmp_path) as hub:
        await hub.turn(hub.says(CANARY), hub.desired("a", {SHOP: hub.subtree("shop", "one")}))
        pause = Command(verb="pause", actor="dana", reason="lunch")
        wrong = Input(what=ToRollout(rollout=RolloutId("shop-9"), command=pause))
        right = Input(what=ToRollout(rollout=RolloutId("shop-1"), command=pause))
        await hub.loop.turn([wrong, right])
        assert isinstance(wrong.error, InvalidInput)
        assert right.error is None
        assert hub.phases() == {"shop-1": "paused"}
        assert [e.text for e in hub.journal.events(kind="command")] == ["dana: pause shop-1: lunch"]


def drift(number: int) -> DriftReport:
    return DriftReport(id=f"boot/{number}", bundle="shop", object="ConfigMap/shop/settings", what="changed")


def suspended(hub: Hub, *clusters: ClusterName, why: str = "ann: a migration") -> Direct:
    made = directives.suspend(SHOP, clusters, why=why, now=hub.clock())
    event = EventRow(time_s=hub.clock(), kind="command", bundle=SHOP, text=why)
    return Direct(rows={row.key: row for row in made}, event=event)


def resumed(hub: Hub, *clusters: ClusterName) -> Direct:
    asked = suspended(hub, *clusters)
    return Direct(rows=dict.fromkeys(asked.rows), event=asked.event)


async def test_a_suspension_is_stored_with_its_reason_told_to_its_agent_and_keeps_a_commit_away(tmp_path: Path) -> None:
    async with running(tmp_path) as hub:
        await rolled_out(hub, "a", {SHOP: hub.subtree("shop", "one")})
        before = hub.seqs()
        # In the very turn in which the commit arrives, too.
        await hub.turn(suspended(hub, EU), hub.desired("b", {SHOP: hub.subtree("shop", "two")}), hub.says(CANARY))
        assert hub.directed == [(EU, Directives(suspended={"shop": "ann: a migration"}))]
        assert [row.why for row in hub.journal.directives().values()] == ["ann: a migration"]
        assert hub.journal.events(kind="command")[-1].text == "ann: a migration"
        for _ in range(3):
            hub.clock.now += 25
            await hub.turn(hub.says(CANARY), hub.says(EU))
        assert hub.seqs() == {CANARY: before[CANARY] + 1, EU: before[EU]}
        [state] = hub.loop.states.values()
        assert (state.phase, state.reason) == (Phase.RUNNING, "wave eu waits for eu-1 (suspended: ann: a migration)")
    async with running(tmp_path) as again:
        await again.turn(again.desired("b", {SHOP: again.subtree("shop", "two")}), again.says(CANARY), again.says(EU))
        assert again.seqs()[EU] == before[EU], "a hub that was restarted still means it"
        await again.turn(resumed(again, EU))
        assert again.directed == [(EU, Directives())]
        await again.turn(again.says(EU))
        await again.turn(again.says(EU))
        assert again.seqs()[EU] == before[EU] + 1
        assert set(again.phases().values()) == {"completed"}


async def test_a_newer_commit_takes_the_place_of_a_rollout_that_waits_for_a_suspended_cluster(tmp_path: Path) -> None:
    async with running(tmp_path) as hub:
        await rolled_out(hub, "a", {SHOP: hub.subtree("shop", "one")})
        await hub.turn(suspended(hub, EU), hub.desired("b", {SHOP: hub.subtree("shop", "two")}), hub.says(CANARY))
        await hub.turn(hub.says(CANARY), hub.says(EU))
        third = hub.subtree("shop", "three")
        await hub.turn(hub.desired("c", {SHOP: third}), hub.says(CANARY), hub.says(EU))
        assert hub.phases() == {"shop-1": "completed", "shop-2": "replaced", "shop-3": "running"}
        assert hub.loop.composition()[CANARY][SHOP] == third
        await hub.turn(hub.says(CANARY), hub.says(EU), resumed(hub, EU))
        await hub.turn(hub.says(EU))
        assert hub.loop.composition()[EU][SHOP] == third


async def test_suspended_clusters_are_skipped_one_by_one_and_get_a_rollout_of_their_own(tmp_path: Path) -> None:
    async with running(tmp_path) as hub:
        three = {**CLUSTERS, EU2: Cluster(name=EU2, labels={"region": "eu"})}
        first, second = (hub.subtree("shop", text) for text in ("one", "two"))
        for subtree, commit in ((first, "a"), (second, "b")):
            if commit == "b":
                await hub.turn(suspended(hub, EU, EU2))
            await hub.turn(hub.desired(commit, {SHOP: subtree}, clusters=three), *map(hub.says, three))
            for _ in range(2):
                await hub.turn(*map(hub.says, three))
        for cluster in (EU, EU2):
            skip = Command(verb="skip", actor="ann", reason="its owner is away", cluster=cluster)
            await hub.turn(ToRollout(rollout=RolloutId("shop-2"), command=skip))
            hub.clock.now += 6
            await hub.turn(*map(hub.says, three))
        assert hub.phases() == {"shop-1": "completed", "shop-2": "completed", "shop-3": "running"}
        [state] = hub.loop.states.values()
        assert state.members.keys() == {EU, EU2}
        assert state.reason == "wave eu waits for eu-1, eu-2 (suspended: ann: a migration)"
        await hub.turn(resumed(hub, EU, EU2))
        assert {hub.loop.composition()[cluster][SHOP] for cluster in three} == {second}


async def test_a_bundle_that_is_removed_from_git_stays_where_it_is_suspended(tmp_path: Path) -> None:
    async with running(tmp_path) as hub:
        await rolled_out(hub, "a", {SHOP: hub.subtree("shop", "one")})
        await hub.turn(suspended(hub, EU), hub.desired("b", {}), hub.says(CANARY), hub.says(EU))
        for _ in range(3):
            hub.clock.now += 50
            await hub.turn(hub.says(CANARY), hub.says(EU))
        assert (hub.loop.composition()[CANARY], SHOP in hub.loop.composition()[EU]) == ({}, True)
        assert len(hub.loop.directives) == 1
        await hub.turn(resumed(hub, EU))
        await hub.turn(hub.says(EU))
        assert hub.loop.composition()[EU] == {}


async def test_a_cluster_that_says_that_its_owner_suspended_a_bundle_is_waited_for(tmp_path: Path) -> None:
    async with running(tmp_path) as hub:
        await rolled_out(hub, "a", {SHOP: hub.subtree("shop", "one")})
        told = hub.says(EU)
        word = msgspec.structs.replace(
            told.report.bundles["shop"], suspended="flotilla.dev/suspend of AppliedBundle shop"
        )
        told = replace(told, report=msgspec.structs.replace(told.report, bundles={"shop": word}))
        await hub.turn(told, hub.desired("b", {SHOP: hub.subtree("shop", "two")}), hub.says(CANARY))
        await hub.turn(hub.says(CANARY))
        [state] = hub.loop.states.values()
        assert state.reason == "wave eu waits for eu-1 (suspended: flotilla.dev/suspend of AppliedBundle shop)"


async def test_a_directive_that_cannot_be_stored_is_not_told_and_not_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as hub:
        await rolled_out(hub, "a", {SHOP: hub.subtree("shop", "one")})
        with monkeypatch.context() as broken:
            broken.setattr(hub.journal, "commit", raising(Transient("journal.db", "database or disk is full")))
            with pytest.raises(Transient):
                await hub.turn(suspended(hub, EU))
        assert (hub.directed, hub.loop.directives) == ([], {})


async def test_directives_of_a_bundle_that_is_gone_and_pauses_that_are_over_end_by_themselves(tmp_path: Path) -> None:
    async with running(tmp_path) as hub:
        await rolled_out(hub, "a", {SHOP: hub.subtree("shop", "one")})
        pause = directives.pause(EU, until_s=hub.clock() + 50, why="bob: new nodes", now=hub.clock())
        await hub.turn(
            Direct(rows={pause.key: pause}, event=EventRow(time_s=1.0, kind="command", text="x")),
            suspended(hub, CANARY),
        )
        assert len(hub.loop.directives) == 2
        hub.clock.now += 51
        await hub.turn(hub.says(CANARY), hub.says(EU))
        assert [row.kind for row in hub.journal.directives().values()] == ["suspend"]
        assert hub.directed[-1] == (EU, Directives())
        await hub.turn(resumed(hub, CANARY), suspended(hub, EU), hub.desired("b", {}))
        assert [key[1] for key in hub.loop.directives] == [EU], "it still runs there"
        [event] = hub.journal.events(kind="directive-ended")
        assert event.text == "the maintenance pause of eu-1 is over"


async def test_drift_is_kept_once_however_often_it_is_told(tmp_path: Path) -> None:
    async with running(tmp_path) as hub:
        for _ in range(2):
            await hub.turn(hub.says(CANARY, drift=(drift(1),)))
        [event] = hub.journal.events(kind="drift")
        assert event.data["object"] == "ConfigMap/shop/settings"


async def test_a_finding_becomes_an_event_when_it_is_new(tmp_path: Path) -> None:
    async with running(tmp_path) as hub:
        wrong = Finding(where="bundles/shop/bundle.yaml:3", message="unknown field", about="bundle shop")
        for commit in ("a", "b"):
            await hub.turn(hub.desired(commit, {}, findings=(wrong,)))
        assert [e.bundle for e in hub.journal.events(kind="finding")] == ["shop"]


async def test_telling_the_loop_returns_when_it_is_stored(tmp_path: Path) -> None:
    async with running(tmp_path) as hub, anyio.create_task_group() as tasks:
        tasks.start_soon(hub.loop.run)
        await hub.loop.tell(hub.desired("a", {}))
        assert hub.journal.meta("tip") == "a" * 40
        with pytest.raises(InvalidInput, match="not under way"):
            await hub.loop.tell(
                ToRollout(rollout=RolloutId("x-1"), command=Command(verb="pause", actor="d", reason="r"))
            )
        tasks.cancel_scope.cancel()


# --- what goes wrong stops only itself ----------------------------------------------------------------------------


def raising(error: Exception) -> Callable[..., NoReturn]:
    def fail(*_: object, **__: object) -> NoReturn:
        raise error

    return fail


async def test_a_decision_that_the_disk_stored_although_it_said_no_is_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as hub:
        desired = hub.desired("a", {SHOP: hub.subtree("shop", "one")})
        await hub.turn(hub.says(CANARY))
        commit = hub.journal.commit

        def lies(decision: Decision) -> None:
            commit(decision)
            raise Transient("journal.db", "disk I/O error")

        with monkeypatch.context() as broken:
            broken.setattr(hub.journal, "commit", lies)
            with pytest.raises(Transient):
                await hub.turn(desired)
        assert hub.seqs() == {}
        with pytest.raises(Refused, match="no longer at"):  # decided again, and stored already
            await hub.turn(desired)
        await hub.turn(desired)
        assert hub.seqs() == {CANARY: 1}
        await hub.turn(hub.says(CANARY), hub.says(EU))
        assert hub.seqs() == {CANARY: 1, EU: 1}
        assert set(hub.phases()) == {"shop-1"}


async def test_an_input_that_fails_unexpectedly_fails_alone_and_the_hub_goes_on(tmp_path: Path) -> None:
    async with running(tmp_path) as hub, anyio.create_task_group() as tasks:
        good, bad = Input(what=hub.desired("a", {})), Input(what="nonsense")
        await hub.loop._guarded([bad, good])
        assert isinstance(bad.error, Permanent)
        assert "TypeError" in str(bad.error)
        assert (good.error, hub.journal.meta("tip")) == (None, "a" * 40)
        tasks.start_soon(hub.loop.run)
        with pytest.raises(Permanent, match="TypeError"):
            await hub.loop.tell("nonsense")
        await hub.loop.tell(hub.desired("b", {}))
        assert hub.loop.problem == ""
        tasks.cancel_scope.cancel()


async def test_what_arrives_while_a_turn_waits_for_others_shares_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (Happened(event=EventRow(time_s=1.0, kind="x", text=text)) for text in ("first", "second"))
    turns: list[list[object]] = []
    async with running(tmp_path) as hub:

        async def guarded(batch: list[Input]) -> None:
            turns.append([item.what for item in batch])
            for item in batch:
                item.done.set()

        async def others_come(_: float) -> None:
            hub.loop.note(second.event)

        monkeypatch.setattr(hub.loop, "_guarded", guarded)
        monkeypatch.setattr(anyio, "sleep", others_come)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(hub.loop.run)
            await hub.loop.tell(first)
            tasks.cancel_scope.cancel()
    assert [turn for turn in turns if turn] == [[first, second]]


async def test_a_rollout_that_meets_a_bug_stops_alone_and_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as hub:
        both = {SHOP: hub.subtree("shop", "one"), NOTES: hub.subtree("notes", "one", name="notes")}
        await hub.turn(hub.says(CANARY), hub.says(EU), hub.desired("a", both))
        decide = rollouts.decide

        def buggy(state: State, *arguments: object, **more: object) -> object:
            if SHOP in state.rollout.bundles:
                raise KeyError("secret")
            return decide(state, *arguments, **more)  # type: ignore[arg-type]

        with monkeypatch.context() as broken:
            broken.setattr(rollouts, "decide", buggy)
            for _ in range(3):
                await hub.turn(hub.says(CANARY), hub.says(EU))
            phases = {row.id.rpartition("-")[0]: row.phase for row in hub.journal.rollouts()}
            assert phases == {"notes": "completed", "shop": "running"}
            [told] = hub.journal.events(kind="clash")
            assert "KeyError" in told.text
            assert "secret" not in told.text
            [shop] = hub.loop.states
            pause = Input(what=ToRollout(rollout=shop, command=Command(verb="pause", actor="dana", reason="odd")))
            await hub.loop.turn([pause])
            assert isinstance(pause.error, Permanent)
            assert hub.journal.events(kind="command") == []
        for _ in range(3):
            await hub.turn(hub.says(CANARY), hub.says(EU))
        assert set(hub.phases().values()) == {"completed"}


async def test_a_planning_that_fails_stops_new_rollouts_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(tmp_path) as hub:
        await hub.turn(hub.says(CANARY), hub.says(EU), hub.desired("a", {SHOP: hub.subtree("shop", "one")}))
        with monkeypatch.context() as broken:
            broken.setattr(waves, "plan_rollouts", raising(Permanent("Git object x", "is missing")))
            await hub.loop._guarded([Input(what=hub.desired("b", {SHOP: hub.subtree("shop", "two")}))])
            assert hub.loop.problem == "no new rollout can be planned: Git object x: is missing"
            await hub.turn(hub.says(CANARY))
            assert hub.seqs() == {CANARY: 1, EU: 1}  # the rollout under way goes on
        hub.clock.now += 10
        await hub.loop._guarded([Input(what=hub.says(EU))])
        assert hub.loop.problem == ""
        assert hub.phases() == {"shop-1": "completed", "shop-2": "running"}


async def test_a_rollout_whose_slice_does_not_compose_waits_and_its_neighbour_moves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as hub:
        both = {SHOP: hub.subtree("shop", "one"), NOTES: hub.subtree("notes", "one", name="notes")}
        made = compose.compose

        def refusing(*, changes: Mapping[BundleName, object], **more: object) -> object:
            if SHOP in changes:
                raise Permanent("slice of cluster canary", "cannot be composed")
            return made(changes=changes, **more)  # type: ignore[arg-type]

        with monkeypatch.context() as broken:
            broken.setattr(compose, "compose", refusing)
            await hub.turn(hub.says(CANARY), hub.desired("a", both))
        assert set(hub.loop.slices[CANARY].manifest.bundles) == {"notes"}
        await hub.turn()
        assert set(hub.loop.slices[CANARY].manifest.bundles) == {"notes", "shop"}


async def test_a_ref_that_could_not_be_written_is_written_with_the_next_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as hub:
        await hub.turn(hub.says(CANARY))
        tell = Input(what=hub.desired("a", {SHOP: hub.subtree("shop", "one")}))
        with monkeypatch.context() as broken:
            broken.setattr(hub.store, "set_refs", raising(Transient("slice repository", "No space left on device")))
            await hub.loop._guarded([tell])
        assert (tell.error, hub.seqs()) == (None, {CANARY: 1})  # it is stored, so nobody is told otherwise
        assert hub.store.ref(CANARY) is None
        assert [wake.seq for _, wake in hub.woken] == [1]
        await hub.turn()
        assert hub.store.ref(CANARY) == hub.loop.slices[CANARY].commit


async def test_what_fails_after_storing_is_never_told_as_not_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as hub:
        await hub.turn(hub.says(CANARY))
        monkeypatch.setattr(hub.loop._copies, "_wake", raising(RuntimeError("wake")))
        monkeypatch.setattr(hub.tracing, "observe", raising(RuntimeError("spans")))
        tell = Input(what=hub.desired("a", {SHOP: hub.subtree("shop", "one")}))
        await hub.loop._guarded([tell])
        assert (tell.error, hub.loop.problem) == (None, "")
        assert hub.seqs() == {CANARY: 1}
        assert hub.journal.slices() == hub.loop.slices


async def test_a_thousand_reports_while_the_disk_is_full_are_refused_and_taken_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as hub:
        await hub.turn(hub.says(CANARY), hub.desired("a", {SHOP: hub.subtree("shop", "one")}))
        reports = [Input(what=hub.says(CANARY, drift=(drift(n),))) for n in range(1000)]
        with monkeypatch.context() as broken:
            broken.setattr(hub.journal, "commit", raising(Transient("journal.db", "database or disk is full")))
            await hub.loop._guarded(reports)
            assert {type(item.error) for item in reports} == {Transient}
            assert all(item.done.is_set() for item in reports)
            assert "disk is full" in hub.loop.problem
        again = [Input(what=item.what) for item in reports]
        await hub.loop._guarded(again)
        assert {item.error for item in again} == {None}
        assert len(hub.journal.events(kind="drift", limit=2000)) == 1000
        assert (hub.loop.problem, hub.seqs()[CANARY]) == ("", 1)


# --- time, restarts, clusters that come and go --------------------------------------------------------------------


@pytest.mark.parametrize("jump_s", [pytest.param(7200, id="forward"), pytest.param(-7200, id="back")])
async def test_a_clock_that_jumps_fails_nobody(tmp_path: Path, jump_s: float) -> None:
    async with running(tmp_path) as hub:
        await hub.turn(hub.says(CANARY), hub.says(EU), hub.desired("a", {SHOP: hub.subtree("shop", "one")}))
        hub.clock.now += jump_s
        await hub.turn()
        assert hub.phases() == {"shop-1": "running"}
        assert hub.loop.live.clusters[CANARY].last_seen <= hub.clock.now
        for _ in range(3):
            hub.clock.now += 1
            await hub.turn(hub.says(CANARY), hub.says(EU))
        assert hub.phases() == {"shop-1": "completed"}
        assert [e.kind for e in hub.journal.events() if "failed" in e.kind] == []


async def test_who_is_suspended_in_a_rollout_that_is_replaced_is_followed_over_a_restart_too(tmp_path: Path) -> None:
    async with running(tmp_path) as hub:
        await rolled_out(hub, "a", {SHOP: hub.subtree("shop", "one")})
        two, three = hub.subtree("shop", "two"), hub.subtree("shop", "three")
        await hub.turn(hub.desired("b", {SHOP: two}), hub.says(CANARY), hub.says(EU))
        await hub.turn(suspended(hub, CANARY))
        newer = replace(hub.desired("c", {SHOP: two}), subtrees={SHOP: {CANARY: two, EU: three}})
        for _ in range(3):
            hub.clock.now += 1
            await hub.turn(newer, hub.says(CANARY), hub.says(EU))
        assert hub.phases() == {"shop-1": "completed", "shop-2": "replaced", "shop-3": "completed"}
        assert hub.journal.last_good()[EU, SHOP] == three
    async with running(tmp_path) as again:
        assert [name for name in again.loop.states if again.loop.states[name].phase is Phase.REPLACED] == ["shop-2"]
        await again.turn(newer, again.says(CANARY), again.says(EU))
        assert again.journal.last_good()[CANARY, SHOP] != two, "nothing that it says counts yet"
        await again.turn(resumed(again, CANARY))
        await again.turn(again.says(CANARY), again.says(EU))
        assert again.journal.last_good()[CANARY, SHOP] == two
        assert dict(again.loop.states) == {}


async def test_a_completed_rollout_still_brings_who_was_offline_after_a_restart(tmp_path: Path) -> None:
    async with running(tmp_path) as hub:
        one = hub.subtree("shop", "one")
        desired = hub.desired("a", {SHOP: one}, clusters={**CLUSTERS, EU2: Cluster(name=EU2, labels={"region": "eu"})})
        policy = replace(POLICY, offline_budget=Amount(value=1), offline_after_s=60.0)
        desired = replace(desired, fleet=replace(desired.fleet, policies={"careful": policy}))
        await hub.turn(hub.says(CANARY), hub.says(EU2), desired)
        for _ in range(5):
            hub.clock.now += 25
            await hub.turn(hub.says(CANARY), hub.says(EU2))
        [state] = hub.loop.states.values()
        assert (state.phase, hub.seqs()) == (Phase.COMPLETED, {CANARY: 1, EU2: 1})
    async with running(tmp_path) as again:
        [state] = again.loop.states.values()
        assert state.phase is Phase.COMPLETED
        await again.turn(again.says(EU))
        assert again.seqs() == {CANARY: 1, EU2: 1}, "before the fleet is read nobody knows what is frozen"
        await again.turn(desired)
        assert again.seqs() == {CANARY: 1, EU: 1, EU2: 1}
        await again.turn(again.says(EU))
        assert again.loop.states == {}
        assert again.journal.last_good()[EU, SHOP] == one
        assert len([e for e in again.journal.events() if e.kind == "rollout-completed"]) == 1


async def test_a_cluster_that_is_removed_and_added_again_gets_what_the_others_have(tmp_path: Path) -> None:
    async with running(tmp_path) as hub:
        await rolled_out(hub, "a", {SHOP: hub.subtree("shop", "one")})
        two = hub.subtree("shop", "two")
        without = {CANARY: CLUSTERS[CANARY], EU2: Cluster(name=EU2, labels={"region": "eu"})}
        await hub.turn(hub.desired("b", {SHOP: two}, clusters=without), hub.says(CANARY), hub.says(EU))
        await hub.turn(hub.says(CANARY))
        await hub.turn(hub.says(EU2))
        await hub.turn(hub.says(EU2))
        assert hub.seqs() == {CANARY: 2, EU: 1, EU2: 1}  # who is gone keeps what it runs
        await hub.turn(hub.desired("c", {SHOP: two}))
        await hub.turn(hub.says(EU))
        assert hub.seqs() == {CANARY: 2, EU: 2, EU2: 1}
        assert hub.loop.slices[EU].manifest.bundles["shop"].subtree == two


async def test_clusters_that_cannot_be_read_for_a_while_neither_leave_nor_move(tmp_path: Path) -> None:
    async with running(tmp_path) as hub:
        desired = hub.desired("a", {SHOP: hub.subtree("shop", "one")})
        await hub.turn(hub.says(CANARY), hub.says(EU), desired)
        lost = replace(desired.fleet, clusters={}, lost_clusters=True)
        await hub.turn(replace(desired, commit=Oid("b" * 40), fleet=lost, subtrees={SHOP: {}}))
        assert hub.phases() == {"shop-1": "running"}
        assert {member.phase for member in hub.loop.states[RolloutId("shop-1")].members.values()} == {
            MemberPhase.MOVING,
            MemberPhase.PENDING,
        }
        await hub.turn(replace(desired, commit=Oid("c" * 40)))
        for _ in range(3):
            await hub.turn(hub.says(CANARY), hub.says(EU))
        assert (hub.phases(), hub.seqs()) == ({"shop-1": "completed"}, {CANARY: 1, EU: 1})


async def test_a_bundle_that_came_back_is_no_newcomer_where_its_failure_is_nobodys_business(tmp_path: Path) -> None:
    async with running(tmp_path) as hub:
        one = hub.subtree("shop", "one")
        await rolled_out(hub, "a", {SHOP: one})
        await hub.turn(replace(hub.desired("b", {}), subtrees={}), hub.says(CANARY), hub.says(EU))
        for _ in range(4):
            await hub.turn(hub.says(CANARY), hub.says(EU))
        assert all(row.manifest.bundles == {} for row in hub.loop.slices.values())
        await hub.turn(hub.desired("c", {SHOP: one}))
        [state] = [s for s in hub.loop.states.values() if s.phase is Phase.RUNNING]
        assert state.rollout.action == "rollback"
