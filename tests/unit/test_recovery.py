"""A journal restored from a backup, beside the slices that agents were told since."""

import itertools
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from hub import cli, recovery
from hub.data_folder import only_one
from hub.journal import Journal
from hub.model import Cluster
from hub.slices.gitstore import GitStore
from proto.errors import Permanent
from proto.ids import ClusterName, Oid
from proto.messages import Health
from tests.unit.test_loop import CANARY, CLUSTERS, EU, SHOP, rolled_out, running

US = ClusterName("us-1")
WHO = {"actor": "dana", "reason": "restored from Monday", "now": 2_000_000.0}


def backup(folder: Path) -> None:
    (folder / "backup").mkdir()
    for name in ("journal.db", "journal.db-wal"):
        if (folder / name).exists():
            shutil.copy(folder / name, folder / "backup" / name)


def restore(folder: Path) -> None:
    for name in ("journal.db", "journal.db-wal", "journal.db-shm"):
        (folder / name).unlink(missing_ok=True)
        if (folder / "backup" / name).exists():
            shutil.copy(folder / "backup" / name, folder / name)


def recovered(folder: Path, *, dry_run: bool = False) -> recovery.Recovery:
    journal, store = Journal(folder / "journal.db"), GitStore.open(folder / "slices.git")
    try:
        return recovery.recover(journal, store, **WHO, dry_run=dry_run)  # type: ignore[arg-type]
    finally:
        journal.close()


async def lived(folder: Path) -> dict[ClusterName, tuple[int, Oid]]:
    """One rollout, a backup, and two more; what agents have in the end."""
    async with running(folder) as hub:
        await rolled_out(hub, "a", {SHOP: hub.subtree("shop", "one")})
        backup(folder)
        await rolled_out(hub, "b", {SHOP: hub.subtree("shop", "two")})
        await rolled_out(hub, "c", {SHOP: hub.subtree("shop", "three")})
        told = {name: (row.seq, row.commit) for name, row in hub.loop.slices.items()}
    restore(folder)
    return told


async def test_the_hub_stops_and_after_a_recovery_goes_on_where_agents_are(tmp_path: Path) -> None:
    told = await lived(tmp_path)
    async with running(tmp_path) as hub:
        with pytest.raises(Permanent, match="flotilla hub recover"):
            await hub.loop.publish_all()
    found = recovered(tmp_path)
    assert found.clusters == {CANARY: (1, 3), EU: (1, 3)}
    async with running(tmp_path) as hub:
        await hub.loop.publish_all()
        assert {name: (row.seq, row.commit) for name, row in hub.loop.slices.items()} == told
        moves = hub.journal.moves(EU)
        assert [move["seq"] for move in moves] == [3, 2, 1]
        assert [newer["old"] == older["new"] for newer, older in itertools.pairwise(moves)] == [True, True]
        [event] = hub.journal.events(kind="command")
        assert event.text == (
            f"dana: recover, the journal was older than the slices: {CANARY} #1 to #3, {EU} #1 to #3: "
            "restored from Monday"
        )
        await hub.turn(hub.says(CANARY), hub.says(EU), hub.desired("c", {SHOP: hub.subtree("shop", "three")}))
        assert hub.seqs() == {CANARY: 3, EU: 3}, "what runs is what is wanted"
        await hub.turn(hub.desired("d", {SHOP: hub.subtree("shop", "four")}))
        assert hub.seqs() == {CANARY: 4, EU: 3}
        assert max(hub.phases()) == "shop-4", "numbers 2 and 3 were given"


async def test_a_revision_that_failed_after_the_backup_does_not_come_again_by_itself(tmp_path: Path) -> None:
    async with running(tmp_path) as hub:
        await rolled_out(hub, "a", {SHOP: hub.subtree("shop", "one")})
        backup(tmp_path)
        await hub.turn(hub.desired("b", {SHOP: hub.subtree("shop", "bad")}), hub.says(CANARY), hub.says(EU))
        await hub.turn(hub.says(CANARY, Health.FAILED))
        assert hub.seqs() == {CANARY: 3, EU: 1}, "there and back"
    restore(tmp_path)
    assert recovered(tmp_path).held == (SHOP,)
    async with running(tmp_path) as hub:
        await hub.loop.publish_all()
        await hub.turn(hub.desired("b", {SHOP: hub.subtree("shop", "bad")}), hub.says(CANARY), hub.says(EU))
        assert hub.seqs() == {CANARY: 3, EU: 1}
        await hub.turn(hub.desired("c", {SHOP: hub.subtree("shop", "good")}), hub.says(CANARY), hub.says(EU))
        assert hub.seqs() == {CANARY: 4, EU: 1}, "a fix is no longer what failed"


async def test_a_rollout_that_was_under_way_is_aborted_and_moves_nobody_back(tmp_path: Path) -> None:
    async with running(tmp_path) as hub:
        await rolled_out(hub, "a", {SHOP: hub.subtree("shop", "one")})
        await hub.turn(hub.desired("b", {SHOP: hub.subtree("shop", "two")}), hub.says(CANARY), hub.says(EU))
        assert hub.seqs() == {CANARY: 2, EU: 1}
        backup(tmp_path)
        await hub.turn(hub.says(CANARY), hub.says(EU))
        await hub.turn(hub.says(CANARY), hub.says(EU))
        await rolled_out(hub, "c", {SHOP: hub.subtree("shop", "three")})
        told = hub.seqs()
    restore(tmp_path)
    found = recovered(tmp_path)
    assert found.ended == ("shop-2",)
    async with running(tmp_path) as hub:
        await hub.loop.publish_all()
        assert hub.phases() == {"shop-1": "completed", "shop-2": "aborted"}
        await hub.turn(hub.says(CANARY), hub.says(EU), hub.desired("c", {SHOP: hub.subtree("shop", "three")}))
        await hub.turn(hub.says(CANARY), hub.says(EU))
        assert hub.seqs() == told


async def test_a_cluster_that_the_backup_does_not_know_stops_the_hub_too(tmp_path: Path) -> None:
    async with running(tmp_path) as hub:
        one = hub.subtree("shop", "one")
        await rolled_out(hub, "a", {SHOP: one})
        backup(tmp_path)
        more = {**CLUSTERS, US: Cluster(name=US, labels=CLUSTERS[EU].labels)}
        await hub.turn(hub.desired("b", {SHOP: one}, clusters=more), hub.says(CANARY), hub.says(EU), hub.says(US))
        told = hub.seqs()
        assert told == {CANARY: 1, EU: 1, US: 1}
    restore(tmp_path)
    async with running(tmp_path) as hub:
        with pytest.raises(Permanent, match="cluster us-1: has slices that the journal does not know"):
            await hub.loop.publish_all()
    assert recovered(tmp_path).clusters == {US: (0, 1)}
    async with running(tmp_path) as hub:
        await hub.loop.publish_all()
        assert hub.seqs() == told


async def test_a_lost_journal_is_made_of_the_slices(tmp_path: Path) -> None:
    told = await lived(tmp_path)
    for name in ("journal.db", "journal.db-wal", "journal.db-shm"):
        (tmp_path / name).unlink(missing_ok=True)
    assert recovered(tmp_path).clusters == {CANARY: (0, 3), EU: (0, 3)}
    async with running(tmp_path) as hub:
        await hub.loop.publish_all()
        assert {name: (row.seq, row.commit) for name, row in hub.loop.slices.items()} == told


async def test_recovering_twice_or_without_need_or_only_to_see_changes_nothing(tmp_path: Path) -> None:
    told = await lived(tmp_path)
    assert recovered(tmp_path, dry_run=True).clusters == {CANARY: (1, 3), EU: (1, 3)}
    first = recovered(tmp_path)
    assert first.clusters == {CANARY: (1, 3), EU: (1, 3)}
    assert not recovered(tmp_path)
    async with running(tmp_path) as hub:
        assert {name: (row.seq, row.commit) for name, row in hub.loop.slices.items()} == told


async def test_histories_that_went_separate_ways_are_left_to_a_person(tmp_path: Path) -> None:
    await lived(tmp_path)
    async with running(tmp_path) as hub:  # as a hub that did not look
        await hub.turn(hub.desired("x", {SHOP: hub.subtree("shop", "other")}), hub.says(CANARY), hub.says(EU))
        before = hub.seqs()
    with pytest.raises(Permanent, match="neither led to the other"):
        recovered(tmp_path)
    async with running(tmp_path) as hub:
        assert hub.seqs() == before


async def test_the_command_tells_what_it_does_and_leaves_a_running_hub_alone(tmp_path: Path) -> None:
    await lived(tmp_path)
    command = ["hub", "recover", f"--data={tmp_path}", "--reason=restored from Monday"]
    with only_one(tmp_path):
        refused = CliRunner().invoke(cli.main, command)
    assert (refused.exit_code, "is in use by another hub" in refused.output) == (1, True)
    dry = CliRunner().invoke(cli.main, [*command, "--dry-run"])
    assert dry.output.splitlines()[0] == f"{CANARY}: slice #1 in the journal, #3 at its agent"
    assert dry.output.splitlines()[-1] == "nothing was changed (--dry-run)"
    assert CliRunner().invoke(cli.main, command).output.splitlines()[-1].startswith("the journal has caught up")
    again = CliRunner().invoke(cli.main, command)
    assert again.output == "nothing to recover: no slice is ahead of the journal\n"
