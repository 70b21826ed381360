"""What a turn decided: one commit for all moves of a cluster, rows that are written once."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from hub import outcome
from hub.journal import Decision, SliceRow
from hub.model import Fleet
from hub.news import News
from hub.outcome import Clash
from hub.rollout.rounds import Memory, Round
from hub.state import (
    ABSENT,
    Effect,
    Hold,
    MarkGood,
    Member,
    MemberPhase,
    Move,
    Notice,
    Phase,
    Rollout,
    State,
    Target,
    Wave,
)
from proto.ids import BundleName, ClusterName, Oid, RolloutId
from proto.objects import ObjectKey
from proto.slices import BundleEntry, SliceManifest

EU = ClusterName("eu-1")
SHOP, NOTES = BundleName("shop"), BundleName("notes")
OLD, NEW, OTHER = Oid("a" * 40), Oid("b" * 40), Oid("d" * 40)


def state(bundle: BundleName, number: int, *, phase: Phase = Phase.RUNNING, after: Oid = NEW) -> State:
    rollout = Rollout(
        id=RolloutId(f"{bundle}-{number}"),
        number=number,
        bundles=(bundle,),
        revision=Oid("c" * 40),
        made_at=1000.0,
        targets={EU: Target(before={bundle: OLD}, after={bundle: after})},
        waves=(
            Wave(
                name="rest", clusters=(EU,), max_concurrent=1, soak_s=0, min_proof=1, offline_budget=0, failure_budget=0
            ),
        ),
        deadline_s=60.0,
        action="rollback",
        offline_after_s=300.0,
        elsewhere={bundle: {ClusterName("us-1"): OTHER}},
    )
    return State(rollout=rollout, phase=phase, members={EU: Member(phase=MemberPhase.PROVEN, seq=3)})


def move(of: State, subtree: Oid = NEW, *, back: bool = False) -> Move:
    return Move(cluster=EU, rollout=of.rollout.id, wave="rest", subtrees={of.rollout.bundles[0]: subtree}, back=back)


def turn(*states: State, before: Sequence[State] = (), effects: Sequence[tuple[State, Effect]] = ()) -> Round:
    """A round in which rollouts came to `states`, with their effects."""
    made = Round(
        now=2000.0,
        before=Memory(states={one.rollout.id: one for one in before}),
        fleet=Fleet(),
        view={},
        holds={},
        commits_of=lambda _: (),
        heartbeat_s=10.0,
    )
    made.states = {one.rollout.id: one for one in states}
    made.effects = [(of.rollout.id, effect) for of, effect in effects]
    return made


def decided(made: Round) -> Decision:
    return outcome.decision(News(now=made.now, desired=None), made, {}, slices={}, tails={}, meta={})


def row(**bundles: Oid) -> SliceRow:
    entries = {name: BundleEntry(subtree=oid, revision="e" * 40, rollout="x-1") for name, oid in bundles.items()}
    manifest = SliceManifest(cluster=EU, seq=2, bundles=entries)
    return SliceRow(cluster=EU, seq=2, commit=Oid("f" * 40), time_s=1990, manifest=manifest)


def keys(subtree: Oid) -> frozenset[ObjectKey]:
    """NEW and OTHER share an object, every other has one of its own."""
    name = "shared" if subtree in (NEW, OTHER) else subtree
    return frozenset({ObjectKey(group="", kind="ConfigMap", namespace="shop", name=name)})


def composed(made: Round, *rows: SliceRow) -> dict[ClusterName, SliceManifest]:
    found = outcome.compositions(
        made, {one.cluster: one for one in rows}, keys=keys, revision_of=lambda subtree: f"first of {subtree[:4]}"
    )
    return {cluster: one.manifest for cluster, one in found.items()}


def test_moves_of_one_cluster_become_one_commit_and_a_neighbour_stays() -> None:
    shop, notes = state(SHOP, 7), state(NOTES, 8)
    made = turn(shop, notes, effects=[(shop, move(shop)), (notes, move(notes, ABSENT))])
    manifest = composed(made, row(notes=OLD, cert=Oid("9" * 40)))[EU]
    assert manifest.seq == 3
    assert {name: entry.subtree for name, entry in manifest.bundles.items()} == {"cert": "9" * 40, "shop": NEW}
    assert (manifest.bundles["shop"].revision, manifest.bundles["shop"].rollout) == ("c" * 40, "shop-7")


def test_what_goes_back_is_told_with_the_revision_it_came_from() -> None:
    shop = state(SHOP, 7)
    made = turn(shop, effects=[(shop, move(shop, OLD, back=True))])
    assert composed(made, row(shop=NEW))[EU].bundles["shop"].revision == "first of aaaa"


def test_two_owners_are_a_clash_that_names_the_rollout_which_waits() -> None:
    shop = state(SHOP, 7)
    made = turn(shop, effects=[(shop, move(shop))])
    with pytest.raises(Clash) as caught:
        composed(made, row(notes=OTHER))
    assert caught.value.rollout == "shop-7"
    assert "would belong to the bundles notes and shop" in str(caught.value.why)


def test_the_one_whose_move_clashes_waits_and_not_its_neighbour() -> None:
    shop, notes = state(SHOP, 7), state(NOTES, 8)
    made = turn(shop, notes, effects=[(shop, move(shop)), (notes, move(notes, OLD))])
    with pytest.raises(Clash) as caught:
        composed(made, row(cert=OTHER))
    assert caught.value.rollout == "shop-7"
    made = turn(shop, notes, effects=[(shop, move(shop)), (notes, move(notes, OTHER))])
    with pytest.raises(Clash) as caught:  # each would go alone
        composed(made, row())
    assert caught.value.rollout == "notes-8"


def test_a_move_to_what_runs_already_stops_its_rollout_alone() -> None:
    shop = state(SHOP, 7)
    made = turn(shop, effects=[(shop, move(shop))])
    entry = BundleEntry(subtree=NEW, revision="c" * 40, rollout="shop-7")
    there = replace(row(), manifest=SliceManifest(cluster=EU, seq=2, bundles={"shop": entry}))
    with pytest.raises(Clash, match="runs already"):
        composed(made, there)


def test_what_completed_is_written_once() -> None:
    done = state(SHOP, 7, phase=Phase.COMPLETED)
    running = replace(done, phase=Phase.RUNNING)
    assert decided(turn(done, before=[running])).completed == [(SHOP, EU, NEW)]
    later = replace(done, updated_at=2001.0)  # a cluster that was offline catches up
    second = decided(turn(later, before=[done]))
    assert (second.completed, len(second.rollouts)) == ([], 1)
    assert not decided(turn(done, before=[done]))


def test_a_hold_keeps_what_failed_and_what_was_wanted_elsewhere() -> None:
    shop = state(SHOP, 7)
    effects: tuple[Effect, ...] = (
        Hold(bundle=SHOP, rollout=shop.rollout.id, reason="it failed"),
        MarkGood(cluster=EU, subtrees={SHOP: OLD}),
        Notice(kind="rolled-back", text="shop is back", wave="rest"),
    )
    made = decided(turn(shop, before=[shop], effects=[(shop, effect) for effect in effects]))
    [hold] = made.holds
    assert hold.refused == {EU: NEW, "us-1": OTHER}
    assert made.good == [(EU, SHOP, OLD)]
    assert [(event.kind, event.data) for event in made.events] == [("rolled-back", {"wave": "rest"})]
