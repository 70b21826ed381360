"""What a turn adds to the record of a rollout."""

from pathlib import Path

import pytest

from hub import record
from hub.journal import Decision, Journal, RolloutRow
from hub.state import MemberPhase, State
from proto.ids import ClusterName
from tests.rollout_hub import Hub, rollout, wave

DIGITS = 8
"""By which counts in a text for people may differ."""
PAGES, PAGE_BYTES = 6, 4096 + 24
"""Of the log: more than the tables and the index that a step touches are deep."""


class Recorded:
    """A journal with a rollout in which every cluster of a fleet is under way."""

    def __init__(self, folder: Path, clusters: int) -> None:
        self.journal = Journal(folder / f"{clusters}.db")
        self.journal._db.execute("PRAGMA wal_autocheckpoint=0")  # so that the log grows by all that is written
        self._log = folder / f"{clusters}.db-wal"
        self.hub = Hub(rollout(wave("one", *(f"c{n:05d}" for n in range(clusters)))))
        self._stored: State | None = None
        self._tail = record.Tail()
        self.store()
        self.hub.tick()
        self.store()

    def store(self) -> tuple[RolloutRow, int]:
        """The row of what changed, and by how many bytes the journal's log grew for it."""
        row = record.row(self._stored, self.hub.state, tail=self._tail)
        before = self._log.stat().st_size
        self.journal.commit(Decision(rollouts=[row]))
        self._stored, self._tail = self.hub.state, record.after(self._tail, row)
        return row, self._log.stat().st_size - before

    def proof(self, cluster: str) -> tuple[RolloutRow, int]:
        self.hub.report(cluster)
        assert self.hub.phase(cluster) is MemberPhase.PROVEN
        return self.store()


@pytest.fixture
def fleets(tmp_path: Path) -> list[Recorded]:
    return [Recorded(tmp_path, clusters) for clusters in (200, 2_000)]


def test_what_is_written_for_one_cluster_does_not_grow_with_the_fleet(fleets: list[Recorded]) -> None:
    small, large = fleets
    for number in range(5):
        (step, _), (other, written) = (fleet.proof(f"c{number:05d}") for fleet in (small, large))
        assert (step.begins, step.whole) == (other.begins, other.whole) == (b"", b"")
        assert abs(len(step.step) - len(other.step)) <= DIGITS
        assert written <= PAGES * PAGE_BYTES


def test_a_record_read_back_is_the_state_that_was_stored(fleets: list[Recorded]) -> None:
    for fleet in fleets:
        fleet.proof("c00007")
        (stored,) = fleet.journal.rollouts(alive=True, limit=10)
        assert record.restored(stored) == fleet.hub.state
        assert fleet.hub.state.members[ClusterName("c00007")].phase is MemberPhase.PROVEN
        fleet.journal.close()
