"""Bundles that a person keeps somewhere: on hold as they are, or brought back to an earlier revision; through the loop,
with its real journal and store."""

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from hub import earlier
from hub.inputs import Input, PutOnHold, Release, ToRollout
from hub.journal.schema import SCHEMA
from hub.model import Amount, Cluster
from hub.state import Command, Keep
from proto.errors import InvalidInput
from proto.ids import BundleName, ClusterName, Oid, RolloutId
from proto.messages import Health
from tests.unit.test_loop import CANARY, CLUSTERS, EU, EU2, NOTES, POLICY, SHOP, Hub, rolled_out, running

A, B, C = Oid("a" * 40), Oid("b" * 40), Oid("c" * 40)


def hold(bundle: BundleName = SHOP, **more: object) -> PutOnHold:
    given = {"bundle": bundle, "keep": Keep(), "actor": "ann", "reason": "a fair", "role": "operator", **more}
    return PutOnHold(**given)  # type: ignore[arg-type]


def back(hub: Hub, revision: str = "", *, at_once: bool = False, abort: bool = False) -> PutOnHold:
    """What the API asks for a rollback of shop."""
    if revision:
        row, keep = earlier.at_revision(hub.journal, SHOP, revision, at_once=at_once)
    else:
        row, keep = earlier.previous(hub.journal, SHOP, hub.loop.holds.get(SHOP), at_once=at_once)
    return hold(keep=keep, rollout=row.rollout, abort=abort)


async def ask(hub: Hub, what: object) -> None:
    """As one input of a turn; raises what it is told."""
    item = Input(what=what)
    await hub.loop.turn([item])
    if item.error is not None:
        raise item.error


async def hear_all(hub: Hub, turns: int = 3) -> None:
    for _ in range(turns):
        await hub.turn(hub.says(CANARY), hub.says(EU))


def runs(hub: Hub, bundle: BundleName = SHOP) -> dict[ClusterName, str]:
    found = {cluster: row.manifest.bundles.get(bundle) for cluster, row in hub.loop.slices.items()}
    return {cluster: entry.subtree for cluster, entry in found.items() if entry}


def everywhere(subtree: Oid) -> dict[ClusterName, str]:
    return {CANARY: subtree, EU: subtree}


async def test_a_bundle_on_hold_stays_whatever_is_committed_over_a_restart_too_and_goes_on_when_released(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as hub:
        one, two, notes = hub.subtree("shop", "one"), hub.subtree("shop", "two"), hub.subtree("notes", "x", name="n")
        await rolled_out(hub, "a", {SHOP: one})
        await ask(hub, hold())
        assert [row.word.verb for row in hub.journal.audit(bundle="shop")] == ["hold"]
        await hub.turn(hub.desired("b", {SHOP: two, NOTES: notes}))
        await hear_all(hub)
        assert (runs(hub), runs(hub, NOTES)) == (everywhere(one), everywhere(notes))
    async with running(tmp_path) as hub:
        for commit, subtrees in (
            ("c", {SHOP: hub.subtree("shop", "three")}),
            ("d", {NOTES: notes}),
            ("e", {SHOP: two}),
        ):
            await hub.turn(hub.desired(commit, subtrees))
            await hear_all(hub)
            assert runs(hub) == everywhere(one)
        assert hub.loop.holds[SHOP].reason == "ann: a fair"
        await ask(hub, Release(bundle=SHOP, actor="ann", reason="the fair is over", role="admin"))
        await hear_all(hub)
        assert (runs(hub), hub.loop.holds) == (everywhere(two), {})
        verbs = [(row.word.verb, row.word.role) for row in hub.journal.audit(bundle="shop")]
        assert verbs == [("hold", "operator"), ("release", "admin")]


async def test_a_rollout_under_way_refuses_the_hold_with_the_next_step_and_is_ended_by_now(tmp_path: Path) -> None:
    async with running(tmp_path) as hub:
        one, two = hub.subtree("shop", "one"), hub.subtree("shop", "two")
        await rolled_out(hub, "a", {SHOP: one})
        await hub.turn(hub.desired("b", {SHOP: two}), hub.says(CANARY), hub.says(EU))
        with pytest.raises(InvalidInput, match="rollout shop-2 of it is running"):
            await ask(hub, hold())
        assert (hub.loop.holds, hub.journal.audit()) == ({}, [])
        await ask(hub, hold(abort=True))
        await hear_all(hub)
        assert hub.phases()["shop-2"] == "aborted"
        assert runs(hub) == {CANARY: two, EU: one}
        assert (hub.loop.holds[SHOP].keep, hub.loop.holds[SHOP].refused) == (Keep(), {})
        await hub.turn(hub.desired("c", {SHOP: hub.subtree("shop", "three")}))
        await hear_all(hub)
        assert runs(hub) == {CANARY: two, EU: one}


async def test_who_was_offline_gets_nothing_of_a_bundle_that_is_on_hold_when_it_is_back(tmp_path: Path) -> None:
    async with running(tmp_path) as hub:
        clusters = {**CLUSTERS, EU2: Cluster(name=EU2, labels={"region": "eu"})}
        desired = hub.desired("a", {SHOP: hub.subtree("shop", "one")}, clusters=clusters)
        policy = replace(POLICY, offline_budget=Amount(value=1), offline_after_s=60.0)
        desired = replace(desired, fleet=replace(desired.fleet, policies={"careful": policy}))
        await hub.turn(hub.says(CANARY), hub.says(EU), desired)
        for _ in range(5):
            hub.clock.now += 25
            await hub.turn(hub.says(CANARY), hub.says(EU))
        assert (hub.phases(), set(runs(hub))) == ({"shop-1": "completed"}, {CANARY, EU})
        await ask(hub, hold())
        await hub.turn(hub.says(EU2))
        assert set(runs(hub)) == {CANARY, EU}
        await ask(hub, Release(bundle=SHOP, actor="ann", reason="x"))
        await hub.turn(hub.says(EU2))
        assert set(runs(hub)) == {CANARY, EU, EU2}


async def test_a_bundle_goes_back_to_a_revision_in_its_waves_alone_and_stays_until_its_sources_change(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as hub:
        one, two, three = (hub.subtree("shop", text) for text in ("one", "two", "three"))
        notes, newer = (hub.subtree("notes", text, name="n") for text in ("one", "two"))
        await rolled_out(hub, "a", {SHOP: one, NOTES: notes})
        await rolled_out(hub, "b", {SHOP: two, NOTES: newer})
        await ask(hub, back(hub, A))
        assert (runs(hub), runs(hub, NOTES)) == ({CANARY: one, EU: two}, everywhere(newer))
        await hear_all(hub)
        assert (runs(hub), runs(hub, NOTES)) == (everywhere(one), everywhere(newer))
        assert {
            e.revision for row in hub.loop.slices.values() for n, e in row.manifest.bundles.items() if n == SHOP
        } == {A}
        kept = hub.loop.holds[SHOP]
        assert (kept.refused, kept.keep and kept.keep.revision) == (everywhere(two), A)
        await hub.turn(hub.desired("c", {SHOP: two, NOTES: notes}))
        await hear_all(hub)
        assert (runs(hub), runs(hub, NOTES)) == (everywhere(one), everywhere(notes))
        await hub.turn(hub.desired("d", {SHOP: three, NOTES: notes}))
        await hear_all(hub)
        assert (runs(hub), hub.loop.holds) == (everywhere(three), {})


async def test_a_way_back_that_fails_too_leaves_the_bundle_on_hold_and_the_newest_does_not_come(tmp_path: Path) -> None:
    async with running(tmp_path) as hub:
        one, two = hub.subtree("shop", "one"), hub.subtree("shop", "two")
        await rolled_out(hub, "a", {SHOP: one})
        await rolled_out(hub, "b", {SHOP: two})
        await ask(hub, back(hub, A))
        await hub.turn(hub.says(CANARY, Health.FAILED))
        await hear_all(hub)
        assert (hub.phases()["shop-3"], runs(hub)) == ("rolled-back", everywhere(two))
        assert (hub.loop.holds[SHOP].refused, hub.loop.holds[SHOP].keep) == (everywhere(two), None)
        await hub.turn(hub.desired("c", {SHOP: two}))
        assert "shop-4" not in hub.phases()


async def test_now_goes_everywhere_at_once_and_ends_what_is_under_way(tmp_path: Path) -> None:
    async with running(tmp_path) as hub:
        one, two = hub.subtree("shop", "one"), hub.subtree("shop", "two")
        await rolled_out(hub, "a", {SHOP: one})
        await rolled_out(hub, "b", {SHOP: two})
        await hub.turn(hub.desired("c", {SHOP: hub.subtree("shop", "three")}), hub.says(CANARY), hub.says(EU))
        with pytest.raises(InvalidInput, match="rollout shop-3 of it is running"):
            await ask(hub, back(hub, A, at_once=True))
        await ask(hub, back(hub, A, at_once=True, abort=True))
        assert (runs(hub), hub.phases()["shop-3"]) == (everywhere(one), "aborted")


async def test_without_a_revision_it_goes_back_one_and_then_one_more_until_nothing_is_left(tmp_path: Path) -> None:
    async with running(tmp_path) as hub:
        texts = [hub.subtree("shop", text) for text in ("one", "two", "three")]
        for commit, subtree in zip("abc", texts, strict=True):
            await rolled_out(hub, commit, {SHOP: subtree})
        for expected in (texts[1], texts[0]):
            await ask(hub, back(hub))
            await hear_all(hub)
            assert runs(hub) == everywhere(expected)
        with pytest.raises(InvalidInput, match="has nothing before what it is"):
            back(hub)
        await ask(hub, Release(bundle=SHOP, actor="ann", reason="x"))
        await hear_all(hub)
        assert runs(hub) == everywhere(texts[2])


async def test_revisions_are_named_in_short_and_those_of_other_bundles_stand_for_the_one_before(tmp_path: Path) -> None:
    async with running(tmp_path) as hub:
        one, two, notes = hub.subtree("shop", "one"), hub.subtree("shop", "two"), hub.subtree("notes", "x", name="n")
        await rolled_out(hub, "a", {SHOP: one})
        await rolled_out(hub, "b", {SHOP: one, NOTES: notes})
        await rolled_out(hub, "c", {SHOP: two, NOTES: notes})
        for named in (A, "aaaaaaa", B):
            assert earlier.at_revision(hub.journal, SHOP, named, at_once=False)[1].subtrees == everywhere(one)
        assert earlier.at_revision(hub.journal, SHOP, C, at_once=False)[1].subtrees == everywhere(two)
        for wrong, told in (("dddddddd", "rolled nothing"), ("aa", "is no revision")):
            with pytest.raises(InvalidInput, match=told) as caught:
                earlier.at_revision(hub.journal, SHOP, wrong, at_once=False)
            assert caught.value.remedy.endswith("it has cccccccccccc, aaaaaaaaaaaa")
        with pytest.raises(InvalidInput, match="is from before bundle notes"):
            earlier.at_revision(hub.journal, NOTES, A, at_once=False)


async def test_what_is_stored_no_more_is_said_before_anything_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as hub:
        await rolled_out(hub, "a", {SHOP: hub.subtree("shop", "one")})
        await rolled_out(hub, "b", {SHOP: hub.subtree("shop", "two")})
        asked = back(hub, A)
        monkeypatch.setattr(hub.store, "has", lambda oid: False)
        with pytest.raises(InvalidInput, match="no longer stored"):
            await ask(hub, asked)
        assert hub.loop.holds == {}


async def test_to_retry_a_rollout_that_is_over_is_to_release_what_it_left_on_hold(tmp_path: Path) -> None:
    async with running(tmp_path) as hub:
        await rolled_out(hub, "a", {SHOP: hub.subtree("shop", "one")})
        await hub.turn(hub.desired("b", {SHOP: hub.subtree("shop", "bad")}), hub.says(CANARY), hub.says(EU))
        await hub.turn(hub.says(CANARY, Health.FAILED))
        await hub.turn(hub.says(CANARY))
        again = Command(verb="retry", actor="ann", reason="the registry is back")
        resume = Command(verb="resume", actor="ann", reason="go on")
        with pytest.raises(InvalidInput, match="is not under way") as caught:
            await ask(hub, ToRollout(rollout=RolloutId("shop-2"), command=resume))
        assert caught.value.remedy == "retry it, or 'flotilla release shop'"
        await ask(hub, ToRollout(rollout=RolloutId("shop-2"), command=again, role="operator"))
        assert hub.phases()["shop-3"] == "running"
        assert [(row.word.verb, row.word.role, row.rollout, row.text) for row in hub.journal.audit()] == [
            ("retry", "operator", "shop-2", "ann released bundle shop, to try shop-2 again: the registry is back")
        ]
        with pytest.raises(InvalidInput, match="is not under way"):
            await ask(hub, ToRollout(rollout=RolloutId("shop-1"), command=again))


async def test_an_older_hubs_holds_stay_and_its_rollouts_can_be_gone_back_to(tmp_path: Path) -> None:
    async with running(tmp_path) as hub:
        one = hub.subtree("shop", "one")
        await rolled_out(hub, "a", {SHOP: one})
        await hub.turn(hub.desired("b", {SHOP: hub.subtree("shop", "bad")}), hub.says(CANARY), hub.says(EU))
        await hub.turn(hub.says(CANARY, Health.FAILED))
        await hub.turn(hub.says(CANARY))
        before = hub.loop.holds
    with closing(sqlite3.connect(tmp_path / "journal.db")) as db:
        db.executescript("DROP TABLE revisions; ALTER TABLE holds DROP COLUMN keep; PRAGMA user_version=7;")
    assert SCHEMA == 8
    async with running(tmp_path) as hub:
        assert hub.loop.holds == before
        assert earlier.at_revision(hub.journal, SHOP, A, at_once=False)[1].subtrees == everywhere(one)
