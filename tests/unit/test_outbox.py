"""The outbox: what waits for each receiver, what goes when it is full, and what was told before."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from hub.journal import Decision, EventRow, Journal, MessageRow, Waiting
from hub.journal.outbox import KEPT


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    made = Journal(tmp_path / "journal.db")
    yield made
    made.close()


def message(number: int, *, to: str = "on-call", gravity: int = 0, dedups: tuple[str, ...] = ()) -> MessageRow:
    return MessageRow(receiver=to, id=f"msg_{number}", gravity=gravity, time_s=number, body=b"{}", dedups=dedups)


def drained(journal: Journal, receiver: str) -> list[MessageRow]:
    found = []
    while row := journal.next_message(receiver):
        found.append(row)
        journal.delivered(row)
    return found


def test_each_receiver_has_its_own_messages_in_the_order_of_the_decisions(journal: Journal) -> None:
    journal.commit(Decision(messages=[message(1), message(1, to="team-a"), message(2)]))
    journal.commit(Decision(messages=[message(3)]))
    assert journal.waiting() == {"on-call": Waiting(pending=3, since_s=1.0), "team-a": Waiting(pending=1, since_s=1.0)}
    assert [row.id for row in drained(journal, "on-call")] == ["msg_1", "msg_2", "msg_3"]
    assert journal.waiting() == {"team-a": Waiting(pending=1, since_s=1.0)}


def test_a_full_outbox_drops_the_mildest_and_oldest_and_the_next_message_says_how_many(journal: Journal) -> None:
    journal.commit(Decision(messages=[message(n, gravity=2 if n < 3 else 0) for n in range(KEPT)]))
    journal.commit(Decision(messages=[message(KEPT, gravity=1), message(KEPT + 1), message(1, to="team-a")]))
    assert journal.waiting()["on-call"] == Waiting(pending=KEPT, since_s=0.0, lost=2)
    assert journal.waiting()["team-a"].lost == 0
    found = drained(journal, "on-call")
    assert [row.id for row in found[:4]] == ["msg_0", "msg_1", "msg_2", "msg_5"], "3 and 4 were the oldest of the mild"
    assert (found[0].lost, found[1].lost) == (2, 0)
    assert len(found) == KEPT


def test_what_gets_lost_while_a_message_is_on_its_way_is_told_with_the_next(journal: Journal) -> None:
    journal.commit(Decision(messages=[message(1), message(2), message(3)]))
    first = journal.next_message("on-call")
    assert first is not None
    journal.given_up(first)
    second = journal.next_message("on-call")
    assert second is not None
    assert second.lost == 1
    third = MessageRow(receiver="on-call", id="msg_3", gravity=0, time_s=3, body=b"{}", sequence=second.sequence + 1)
    journal.given_up(third)
    journal.given_up(third)
    journal.delivered(second)
    assert journal.waiting() == {"on-call": Waiting(lost=1)}, "the one that came after it, once"


def test_an_event_that_was_told_before_is_not_told_again(journal: Journal) -> None:
    told = EventRow(time_s=1.0, kind="finding", text="x", dedup="finding/1")
    journal.commit(Decision(events=[told], messages=[message(1, dedups=("finding/1",))]))
    journal.commit(Decision(events=[told], messages=[message(2, dedups=("finding/1",))]))
    assert [row.id for row in drained(journal, "on-call")] == ["msg_1"]
    journal.commit(Decision(events=[told], messages=[message(3, dedups=("finding/1", "finding/2"))]))
    assert [row.id for row in drained(journal, "on-call")] == ["msg_3"], "there is something new in it"


def test_a_number_is_never_given_twice_so_that_order_can_be_seen(journal: Journal, tmp_path: Path) -> None:
    journal.commit(Decision(messages=[message(1)]))
    [first] = drained(journal, "on-call")
    again = Journal(tmp_path / "journal.db")
    again.commit(Decision(messages=[message(2)]))
    [second] = drained(again, "on-call")
    assert second.sequence > first.sequence
    again.close()


def test_receivers_that_are_gone_are_forgotten_with_what_they_lost(journal: Journal) -> None:
    journal.commit(Decision(messages=[message(1), message(1, to="team-a"), message(2, to="team-a")]))
    row = journal.next_message("team-a")
    assert row is not None
    journal.given_up(row)
    journal.forget_receivers({"on-call"})
    assert journal.waiting() == {"on-call": Waiting(pending=1, since_s=1.0)}
