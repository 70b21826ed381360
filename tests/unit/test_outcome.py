"""What a turn gathers: one commit for all moves of a cluster, rows that are written once, steps that are taken back."""

from dataclasses import replace

import pytest

from hub import outcome
from hub.desired import Desired
from hub.inputs import Input, ToRollout
from hub.journal import SliceRow
from hub.model import Finding, Fleet
from hub.outcome import Clash, Outcome
from hub.state import (
    ABSENT,
    Command,
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
from proto.errors import InvalidInput, Permanent
from proto.ids import BundleName, ClusterName, Oid, RolloutId
from proto.messages import DriftReport, Report
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


def turn(*states: State) -> Outcome:
    return Outcome(now=2000.0, states={one.rollout.id: one for one in states}, desired=None)


def row(**bundles: Oid) -> SliceRow:
    entries = {name: BundleEntry(subtree=oid, revision="e" * 40, rollout="x-1") for name, oid in bundles.items()}
    manifest = SliceManifest(cluster=EU, seq=2, bundles=entries)
    return SliceRow(cluster=EU, seq=2, commit=Oid("f" * 40), time_s=1990, manifest=manifest)


def keys(subtree: Oid) -> frozenset[ObjectKey]:
    """NEW and OTHER share an object, every other has one of its own."""
    name = "shared" if subtree in (NEW, OTHER) else subtree
    return frozenset({ObjectKey(group="", kind="ConfigMap", namespace="shop", name=name)})


def composed(made: Outcome, *rows: SliceRow) -> dict[ClusterName, SliceManifest]:
    found = outcome.compositions(
        made, {one.cluster: one for one in rows}, keys=keys, revision_of=lambda subtree: f"first of {subtree[:4]}"
    )
    return {cluster: one.manifest for cluster, one in found.items()}


def test_moves_of_one_cluster_become_one_commit_and_a_neighbour_stays() -> None:
    shop, notes = state(SHOP, 7), state(NOTES, 8)
    made = turn(shop, notes)
    made.effects = {shop.rollout.id: [move(shop)], notes.rollout.id: [move(notes, ABSENT)]}
    manifest = composed(made, row(notes=OLD, cert=Oid("9" * 40)))[EU]
    assert manifest.seq == 3
    assert {name: entry.subtree for name, entry in manifest.bundles.items()} == {"cert": "9" * 40, "shop": NEW}
    assert (manifest.bundles["shop"].revision, manifest.bundles["shop"].rollout) == ("c" * 40, "shop-7")


def test_what_goes_back_is_told_with_the_revision_it_came_from() -> None:
    shop = state(SHOP, 7)
    made = turn(shop)
    made.effects = {shop.rollout.id: [move(shop, OLD, back=True)]}
    assert composed(made, row(shop=NEW))[EU].bundles["shop"].revision == "first of aaaa"


def test_two_owners_are_a_clash_that_names_the_rollout_which_waits() -> None:
    shop = state(SHOP, 7)
    made = turn(shop)
    made.effects = {shop.rollout.id: [move(shop)]}
    with pytest.raises(Clash) as caught:
        composed(made, row(notes=OTHER))
    assert caught.value.rollout == "shop-7"
    assert "would belong to the bundles notes and shop" in str(caught.value.why)


def test_the_one_whose_move_clashes_waits_and_not_its_neighbour() -> None:
    shop, notes = state(SHOP, 7), state(NOTES, 8)
    made = turn(shop, notes)
    made.effects = {shop.rollout.id: [move(shop)], notes.rollout.id: [move(notes, OLD)]}
    with pytest.raises(Clash) as caught:
        composed(made, row(cert=OTHER))
    assert caught.value.rollout == "shop-7"
    made.effects = {shop.rollout.id: [move(shop)], notes.rollout.id: [move(notes, OTHER)]}
    with pytest.raises(Clash) as caught:  # each would go alone
        composed(made, row())
    assert caught.value.rollout == "notes-8"


def test_a_move_to_what_runs_already_stops_its_rollout_alone() -> None:
    shop = state(SHOP, 7)
    made = turn(shop)
    made.effects = {shop.rollout.id: [move(shop)]}
    entry = BundleEntry(subtree=NEW, revision="c" * 40, rollout="shop-7")
    there = replace(row(), manifest=SliceManifest(cluster=EU, seq=2, bundles={"shop": entry}))
    with pytest.raises(Clash, match="runs already"):
        composed(made, there)


def test_a_step_that_is_taken_back_leaves_nothing_and_its_commander_is_told() -> None:
    shop, notes = state(SHOP, 7), state(NOTES, 8)
    paused = replace(shop, phase=Phase.PAUSED)
    made = turn(paused, notes)
    made.effects = {shop.rollout.id: [move(shop)], notes.rollout.id: [move(notes)]}
    asked = [
        Input(what=ToRollout(rollout=one.rollout.id, command=Command(verb="pause", actor="dana", reason="lunch")))
        for one in (shop, notes)
    ]
    made.commands = [(item, item.what) for item in asked]
    why = InvalidInput("slice", "would have two owners")
    made.undo(shop.rollout.id, shop, why)
    assert made.states[shop.rollout.id] is shop
    assert [effect.rollout for effect in made.all_of(Move)] == ["notes-8"]
    assert [item.error for item in asked] == [why, None]
    decided = outcome.decision(made, {}, states={shop.rollout.id: shop}, slices={}, tails={}, meta={})
    assert [event.text for event in decided.events] == ["dana: pause notes-8: lunch"]
    assert [one.id for one in decided.rollouts] == ["notes-8"]


def test_a_rollout_that_began_in_the_turn_and_is_taken_back_begins_in_a_later_one() -> None:
    made = turn(state(SHOP, 7))
    made.undo(RolloutId("shop-7"), None, Permanent("x", "y"))
    assert (made.states, made.plan_again) == ({}, True)


def test_what_completed_is_written_once() -> None:
    done = state(SHOP, 7, phase=Phase.COMPLETED)
    running = replace(done, phase=Phase.RUNNING)
    first = outcome.decision(turn(done), {}, states={done.rollout.id: running}, slices={}, tails={}, meta={})
    assert first.completed == [(SHOP, EU, NEW)]
    later = replace(done, updated_at=2001.0)  # a cluster that was offline catches up
    second = outcome.decision(turn(later), {}, states={done.rollout.id: done}, slices={}, tails={}, meta={})
    assert (second.completed, len(second.rollouts)) == ([], 1)
    assert not outcome.decision(turn(done), {}, states={done.rollout.id: done}, slices={}, tails={}, meta={})


def test_a_hold_keeps_what_failed_and_what_was_wanted_elsewhere() -> None:
    shop = state(SHOP, 7)
    made = turn(shop)
    made.effects = {
        shop.rollout.id: [
            Hold(bundle=SHOP, rollout=shop.rollout.id, reason="it failed"),
            MarkGood(cluster=EU, subtrees={SHOP: OLD}),
            Notice(kind="rolled-back", text="shop is back", wave="rest"),
        ]
    }
    decided = outcome.decision(made, {}, states={shop.rollout.id: shop}, slices={}, tails={}, meta={})
    [hold] = decided.holds
    assert hold.refused == {EU: NEW, "us-1": OTHER}
    assert decided.good == [(EU, SHOP, OLD)]
    assert [(event.kind, event.data) for event in decided.events] == [("rolled-back", {"wave": "rest"})]


def test_drift_told_twice_has_one_mark_for_the_journal() -> None:
    drift = DriftReport(id="boot/1", bundle="shop", object="ConfigMap/shop/a", what="changed")
    report = Report(number=1, boot_id="b", seq=1, commit="", full=True, drift=(drift,))
    [first], [second] = outcome.drifted(EU, report, 1.0), outcome.drifted(EU, report, 2.0)
    assert first.dedup == second.dedup == "eu-1/boot/1"
    assert first.text.startswith("ConfigMap/shop/a changed in eu-1 by unknown")


def test_a_finding_is_an_event_while_it_is_new() -> None:
    wrong = Finding(where="bundles/shop/bundle.yaml:3", message="no", about="bundle shop")
    more = replace(wrong, where="bundles/shop/bundle.yaml:4")
    before = Desired(commit=OLD, fleet=Fleet(), subtrees={}, failed=frozenset(), findings=(wrong,))
    after = replace(before, commit=NEW, findings=(wrong, more))
    assert [event.bundle for event in outcome.found(None, before, 1.0)] == ["shop"]
    assert [event.text for event in outcome.found(before, after, 1.0)] == [str(more)]


def test_what_a_hub_that_starts_finds_again_is_the_same_event() -> None:
    wrong = Finding(where="bundles/shop/web.yaml:3", message="no", about="bundle shop")
    wanted = Desired(commit=OLD, fleet=Fleet(), subtrees={}, failed=frozenset(), findings=(wrong,))
    [event], [again] = outcome.found(None, wanted, 1.0), outcome.found(None, wanted, 2.0)
    [worse] = outcome.found(None, replace(wanted, findings=(replace(wrong, message="never"),)), 2.0)
    [later] = outcome.found(None, replace(wanted, commit=NEW), 2.0)
    assert event.dedup == again.dedup
    assert len({event.dedup, worse.dedup, later.dedup}) == 3
