"""What people did is kept for ever: with the decision or not at all, and found again by who, what and when."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from hub.journal import Decision, EventRow, Journal, MoveRow, Word
from hub.journal.events import EVENTS_KEPT
from hub.journal.schema import SCHEMAS
from proto.errors import Refused
from proto.ids import ClusterName, Oid
from proto.slices import SliceManifest


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    made = Journal(tmp_path / "journal.db")
    yield made
    made.close()


def told(verb: str, *, at: float = 1.0, cluster: str = "", bundle: str = "") -> EventRow:
    word = Word(actor="ann", role="operator", verb=verb, reason="ticket 42")
    return EventRow(time_s=at, kind="command", text=f"ann: {verb}", cluster=cluster, bundle=bundle, word=word)


def verbs(journal: Journal, **asked: object) -> list[str]:
    return [row.word.verb for row in journal.audit(**asked)]  # type: ignore[arg-type]


def test_a_word_outlives_its_event(journal: Journal) -> None:
    journal.commit(Decision(events=[told("hold", bundle="shop")]))
    journal.commit(Decision(events=[EventRow(time_s=2.0, kind="drift", text="x") for _ in range(EVENTS_KEPT)]))
    assert journal.events(kind="command") == []
    [row] = journal.audit()
    assert (row.time_s, row.text) == (1.0, "ann: hold")
    assert row.word == Word(actor="ann", role="operator", verb="hold", reason="ticket 42", bundles=("shop",))


def test_what_was_not_decided_is_not_in_the_list(journal: Journal) -> None:
    nowhere = MoveRow(
        cluster=ClusterName("eu-1"),
        seq=2,
        old=Oid("a" * 40),
        new=Oid("b" * 40),
        time_s=1,
        manifest=SliceManifest(cluster="eu-1", seq=2, bundles={}),
        causes=(),
    )
    with pytest.raises(Refused):
        journal.commit(Decision(moves=[nowhere], events=[told("emergency")]))
    assert journal.audit() == []


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        pytest.param({}, ["hold", "skip", "cordon", "suspend"], id="all, oldest first"),
        pytest.param({"limit": 2}, ["cordon", "suspend"], id="the newest"),
        pytest.param({"since_s": 3.0}, ["cordon", "suspend"], id="since"),
        pytest.param({"before": 3}, ["hold", "skip"], id="before an id"),
        pytest.param({"actor": "ben"}, ["skip"], id="who"),
        pytest.param({"bundle": "shop"}, ["hold", "skip"], id="bundle"),
        pytest.param({"cluster": "eu-2"}, ["suspend"], id="one of several clusters"),
        pytest.param({"rollout": "shop-1"}, ["skip"], id="rollout"),
        pytest.param({"actor": "ann", "cluster": "eu-1"}, ["cordon", "suspend"], id="both"),
        pytest.param({"bundle": "sho"}, [], id="whole names only"),
    ],
)
def test_it_is_found_by_who_what_and_when(journal: Journal, asked: dict[str, object], found: list[str]) -> None:
    skip = Word(actor="ben", role="admin", verb="skip", reason="x", clusters=("eu-9",), bundles=("shop", "till"))
    both = Word(actor="ann", role="admin", verb="suspend", reason="x", clusters=("eu-1", "eu-2"))
    journal.commit(
        Decision(
            events=[
                told("hold", bundle="shop"),
                EventRow(time_s=2.0, kind="command", text="x", rollout="shop-1", word=skip),
                told("cordon", at=3.0, cluster="eu-1"),
                EventRow(time_s=4.0, kind="command", text="x", bundle="till", word=both),
                EventRow(time_s=5.0, kind="rolled-back", text="nobody's word", bundle="shop"),
            ]
        )
    )
    assert verbs(journal, **asked) == found


def test_words_that_an_older_hub_kept_as_events_come_along(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    with sqlite3.connect(path) as old:
        old.executescript("".join(SCHEMAS[:5]) + "PRAGMA user_version=5;")
        insert = "INSERT INTO events(time_s, kind, cluster, bundle, rollout, text, data) VALUES(?,?,?,?,?,?,x'7b7d')"
        old.execute(insert, (7.0, "released", "", "shop", "", "ann released bundle shop: fixed"))
        old.execute(insert, (8.0, "drift", "eu-1", "shop", "", "not a word"))
    old.close()
    journal = Journal(path)
    try:
        [row] = journal.audit(bundle="shop")
        assert (row.time_s, row.word.verb, row.text) == (7.0, "released", "ann released bundle shop: fixed")
    finally:
        journal.close()
