"""What ran where, since when, until when and by whose word: kept by the loop's own turns, read from the journal."""

import sqlite3
from pathlib import Path

import pytest

from hub.inputs import ToRollout
from hub.journal import Journal, RanRow
from hub.model import Cluster
from hub.state import Command
from proto.errors import Permanent
from proto.ids import Oid, RolloutId
from proto.messages import Health
from tests.unit.test_holds import ask, back, hear_all
from tests.unit.test_loop import CANARY, CLUSTERS, EU, EU2, NOTES, SHOP, Hub, rolled_out, running

A, B = Oid("a" * 40), Oid("b" * 40)


def told(rows: list[RanRow]) -> list[tuple[str, str, bool]]:
    return [(row.subtree, row.rollout, row.back) for row in rows]


async def failed(hub: Hub, commit: str, subtree: Oid) -> None:
    """A commit that the canary cannot run, and the way back."""
    await hub.turn(hub.desired(commit, {SHOP: subtree}), hub.says(CANARY), hub.says(EU))
    hub.clock.now += 5
    await hub.turn(hub.says(CANARY, Health.FAILED), hub.says(EU))
    hub.clock.now += 5
    await hear_all(hub)


async def test_what_came_to_a_cluster_what_went_back_and_until_when_it_ran(tmp_path: Path) -> None:
    async with running(tmp_path) as hub:
        one, bad = hub.subtree("shop", "one"), hub.subtree("shop", "bad")
        await rolled_out(hub, "a", {SHOP: one})
        first_s = hub.clock.now
        hub.clock.now += 20
        await failed(hub, "b", bad)
        rows = hub.journal.ran(cluster=CANARY, bundle=SHOP)
        assert told(rows) == [(one, "shop-1", False), (bad, "shop-2", False), (one, "shop-2", True)]
        assert [row.until_s for row in rows] == [rows[1].since_s, rows[2].since_s, 0]
        assert rows[0].since_s <= first_s < rows[1].since_s
        origins = hub.journal.origins({row.work_of for row in rows})
        assert [origins[row.work_of].revision for row in rows] == [A, B, A]
        assert told(hub.journal.ran(bundle=SHOP, limit=2)) == [(bad, "shop-2", False), (one, "shop-2", True)]


async def test_what_ran_at_a_moment_is_what_had_come_by_then_and_was_not_taken_away(tmp_path: Path) -> None:
    async with running(tmp_path) as hub:
        one, notes = hub.subtree("shop", "one"), hub.subtree("notes", "x", name="n")
        await rolled_out(hub, "a", {SHOP: one, NOTES: notes})
        first_s = hub.clock.now + 1
        hub.clock.now += 20
        await failed(hub, "b", hub.subtree("shop", "bad"))
        hub.clock.now += 20
        await hub.turn(hub.desired("c", {SHOP: one}))
        await hear_all(hub)

        def ran(at_s: float, *, cluster: str = "", bundle: str = "") -> set[tuple[str, str, str]]:
            rows = hub.journal.ran(at_s=at_s, cluster=cluster, bundle=bundle)
            return {(row.cluster, row.bundle, row.subtree) for row in rows}

        assert ran(first_s) == {(c, *of) for c in (CANARY, EU) for of in ((SHOP, one), (NOTES, notes))}
        assert ran(first_s, cluster=EU, bundle=NOTES) == {(EU, NOTES, notes)}
        assert ran(hub.clock.now, bundle=SHOP) == {(CANARY, SHOP, one), (EU, SHOP, one)}
        assert NOTES not in {bundle for _, bundle, _ in ran(hub.clock.now, cluster=CANARY)}, "it was removed"
        assert ran(first_s - 10_000) == set()


async def test_whose_word_it_was_is_the_commits_author_what_people_said_to_it_and_who_asked_for_the_way_back(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as hub:
        one, two = hub.subtree("shop", "one"), hub.subtree("shop", "two")
        await hub.turn(hub.desired("a", {SHOP: one}, author="Dana", subject="Open the shop"))
        await hear_all(hub)
        await hub.turn(hub.desired("b", {SHOP: two}, author="Bob", subject="Two"))
        word = Command(verb="pause", actor="ann", reason="lunch")
        await ask(hub, ToRollout(rollout=RolloutId("shop-2"), command=word))
        word = Command(verb="resume", actor="ann", reason="it was good")
        await ask(hub, ToRollout(rollout=RolloutId("shop-2"), command=word))
        await hear_all(hub)
        hub.clock.now += 20
        await ask(hub, back(hub, "a" * 40))
        await hear_all(hub)
        rows = hub.journal.ran(cluster=EU, bundle=SHOP)
        assert told(rows) == [(one, "shop-1", False), (two, "shop-2", False), (one, "shop-3", False)]
        origins = hub.journal.origins({row.rollout for row in rows})
        assert [(origins[row.rollout].author, origins[row.rollout].subject) for row in rows] == [
            ("Dana", "Open the shop"),
            ("Bob", "Two"),
            ("", ""),
        ]
        assert [[word.word.verb for word in origins[row.rollout].words] for row in rows] == [
            [],
            ["pause", "resume"],
            ["rollback"],
        ]
        assert origins[rows[2].rollout].revision == A
        assert origins[rows[2].rollout].words[0].word.actor == "ann"


async def test_a_cluster_that_left_keeps_its_history(tmp_path: Path) -> None:
    async with running(tmp_path) as hub:
        clusters = {**CLUSTERS, EU2: Cluster(name=EU2, labels={"region": "eu"})}
        one = hub.subtree("shop", "one")
        await hub.turn(*(hub.says(cluster) for cluster in clusters), hub.desired("a", {SHOP: one}, clusters=clusters))
        for _ in range(3):
            await hub.turn(*(hub.says(cluster) for cluster in clusters))
        await hub.turn(hub.desired("b", {SHOP: one}))
        assert told(hub.journal.ran(cluster=EU2)) == [(one, "shop-1", False)]


async def test_reading_history_keeps_no_decision_waiting(tmp_path: Path) -> None:
    async with running(tmp_path) as hub:
        one = hub.subtree("shop", "one")
        await rolled_out(hub, "a", {SHOP: one})
        with hub.journal._lock:  # as a decision that is being stored has it
            assert len(hub.journal.ran()) == 2
            assert hub.journal.origins({RolloutId("shop-1")})[RolloutId("shop-1")].revision == A


def test_a_journal_that_cannot_be_read_says_so(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.db")
    journal.close()
    for leftover in tmp_path.iterdir():
        leftover.write_bytes(b"no database, and long enough to be none" * 100)
    with pytest.raises(Permanent, match="file is not a database") as caught:
        journal.ran()
    assert isinstance(caught.value.__cause__, sqlite3.DatabaseError)
