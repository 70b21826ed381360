"""The journal: one transaction per decision, compare-and-swap on slices, one hub at a time."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from hub.journal import Decision, DirectiveKind, DirectiveRow, EventRow, HoldRow, Journal, MoveRow, RolloutRow, schema
from hub.journal import rollouts as record
from hub.renders import Notes
from proto.errors import Permanent, Refused
from proto.ids import BundleName, ClusterName, Oid, RolloutId
from proto.slices import BundleEntry, SliceManifest

EU = ClusterName("eu-1")
SHOP = BundleName("shop")
FIRST, SECOND, THIRD = Oid("1" * 40), Oid("2" * 40), Oid("3" * 40)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    made = Journal(tmp_path / "journal.db")
    yield made
    made.close()


def move(seq: int, old: Oid | None, new: Oid) -> MoveRow:
    manifest = SliceManifest(
        cluster=EU, seq=seq, bundles={"shop": BundleEntry(subtree="a" * 40, revision="b" * 40, rollout="shop-1")}
    )
    return MoveRow(
        cluster=EU,
        seq=seq,
        old=old,
        new=new,
        time_s=seq,
        manifest=manifest,
        causes=(("shop", "a" * 40, "shop-1", "w"),),
    )


def rollout(number: int, phase: str, *, alive: bool, n: int = 1, **more: Any) -> RolloutRow:
    return RolloutRow(
        number=number,
        id=RolloutId(f"shop-{number}"),
        phase=phase,
        alive=alive,
        n=n,
        step=f"step {n}".encode(),
        begins=b"it begins" if n == 1 else b"",
        **more,
    )


def test_a_decision_survives_a_restart_whole(tmp_path: Path, journal: Journal) -> None:
    journal.commit(
        Decision(
            rollouts=[rollout(1, "running", alive=True)],
            moves=[move(1, None, FIRST)],
            good=[(EU, SHOP, Oid("a" * 40))],
            completed=[(SHOP, EU, Oid("a" * 40))],
            holds=[HoldRow(bundle=SHOP, rollout=RolloutId("shop-1"), reason="why", time_s=1.0, refused={EU: SECOND})],
            events=[EventRow(time_s=1.0, kind="moved", text="eu-1 moved", cluster="eu-1", data={"n": 1})],
            meta={"tip": "b" * 40},
        )
    )
    journal.close()

    again = Journal(tmp_path / "journal.db")
    assert again.slices()[EU].commit == FIRST
    assert again.slices()[EU].manifest.bundles["shop"].rollout == "shop-1"
    [stored] = again.rollouts(alive=True)
    assert (stored.phase, stored.begins, stored.whole, stored.steps) == ("running", b"it begins", b"", (b"step 1",))
    assert again.last_good() == {(EU, SHOP): "a" * 40}
    assert again.completed() == {SHOP: {EU: "a" * 40}}
    assert again.holds()[SHOP].refused == {EU: SECOND}
    assert again.events()[0].data == {"n": 1}
    assert again.meta("tip") == "b" * 40
    assert again.next_number() == 2
    again.close()


@pytest.mark.parametrize(
    "stale",
    [
        pytest.param(move(2, SECOND, THIRD), id="old commit is not the slice's"),
        pytest.param(move(3, FIRST, THIRD), id="a sequence number is skipped"),
        pytest.param(move(1, None, THIRD), id="a first slice where there is one"),
    ],
)
def test_a_stale_move_stores_nothing_of_its_decision(journal: Journal, stale: MoveRow) -> None:
    journal.commit(Decision(moves=[move(1, None, FIRST)]))
    with pytest.raises(Refused, match="no longer at"):
        journal.commit(Decision(rollouts=[rollout(1, "running", alive=True)], moves=[stale]))
    assert journal.slices()[EU].commit == FIRST
    assert journal.rollouts() == []


def test_a_second_hub_on_the_same_data_stops_the_first_from_deciding(tmp_path: Path, journal: Journal) -> None:
    second = Journal(tmp_path / "journal.db")
    with pytest.raises(Refused, match="another hub opened this data folder"):
        journal.commit(Decision(moves=[move(1, None, FIRST)]))
    second.commit(Decision(moves=[move(1, None, FIRST)]))
    assert second.slices()[EU].seq == 1
    second.close()


def test_only_a_clusters_own_commits_are_in_its_chain(journal: Journal) -> None:
    journal.commit(Decision(moves=[move(1, None, FIRST)]))
    journal.commit(Decision(moves=[move(2, FIRST, SECOND)]))
    assert journal.in_chain("eu-1", FIRST)
    assert journal.in_chain("eu-1", SECOND)
    assert not journal.in_chain("eu-2", FIRST)
    assert not journal.in_chain("eu-1", THIRD)
    assert [m["seq"] for m in journal.moves("eu-1")] == [2, 1]


def test_an_event_told_twice_is_stored_once(journal: Journal) -> None:
    told = EventRow(time_s=1.0, kind="drift", text="Deployment/shop/web drifted", cluster="eu-1", dedup="eu-1/boot/7")
    journal.commit(Decision(events=[told]))
    journal.commit(Decision(events=[told]))
    assert len(journal.events(kind="drift")) == 1


def test_events_are_read_by_id_and_by_what_they_are_about(journal: Journal) -> None:
    journal.commit(
        Decision(
            events=[
                EventRow(time_s=1.0, kind="moved", text="one", cluster="eu-1"),
                EventRow(time_s=2.0, kind="drift", text="two", cluster="eu-2", bundle="shop"),
                EventRow(time_s=3.0, kind="drift", text="three", cluster="eu-1", bundle="shop"),
            ]
        )
    )
    first, _, last = journal.events()
    assert [e.text for e in journal.events(since=first.id)] == ["two", "three"]
    assert [e.text for e in journal.events(cluster="eu-1", kind="drift")] == ["three"]
    assert [e.text for e in journal.events(limit=1)] == ["three"]
    assert journal.events(since=last.id) == []


def test_a_hold_ends_when_it_is_released(journal: Journal) -> None:
    journal.commit(
        Decision(holds=[HoldRow(bundle=SHOP, rollout=RolloutId("shop-1"), reason="", time_s=1.0, refused={})])
    )
    journal.commit(Decision(released=[SHOP]))
    assert journal.holds() == {}


def suspension(cluster: str, why: str = "ann: a migration") -> DirectiveRow:
    return DirectiveRow(
        kind=DirectiveKind.SUSPEND, cluster=ClusterName(cluster), bundle="shop", why=why, time_s=1.0, value=0.0
    )


def test_directives_survive_a_restart_and_end_when_they_are_taken_back(tmp_path: Path, journal: Journal) -> None:
    first, second = suspension("eu-1"), suspension("us-1")
    journal.commit(Decision(directives={first.key: first, second.key: second}))
    again = suspension("eu-1", "bob: another reason")
    journal.commit(Decision(directives={again.key: again, second.key: None}))
    journal.close()
    opened = Journal(tmp_path / "journal.db")
    assert opened.directives() == {again.key: again}
    opened.close()


def test_a_directive_of_a_turn_that_is_refused_is_not_stored(journal: Journal) -> None:
    row = suspension("eu-1")
    with pytest.raises(Refused):
        journal.commit(Decision(directives={row.key: row}, moves=[move(7, FIRST, SECOND)]))
    assert journal.directives() == {}


def test_a_journal_of_the_first_schema_is_brought_up_to_date_and_keeps_what_it_had(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    with closing(sqlite3.connect(path)) as db:
        db.executescript(schema.SCHEMAS[0])
        db.execute("INSERT INTO meta VALUES('tip', 'abc')")
        db.execute("PRAGMA user_version=1")
        db.commit()
    opened = Journal(path)
    assert (opened.meta("tip"), opened.directives()) == ("abc", {})
    opened.close()
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (schema.SCHEMA,)


def test_a_rollout_that_an_older_hub_stored_begins_with_the_state_it_had(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "old.db")) as old:
        for statement in "".join(schema.SCHEMAS[:4]).split(";\n"):
            old.execute(statement)
        old.execute("INSERT INTO rollouts VALUES(7, 'shop-7', 'running', 1, ?)", (b"a whole state",))
        old.execute("INSERT INTO rollouts VALUES(6, 'shop-6', 'completed', 0, ?)", (b"its end",))
        old.execute("PRAGMA user_version=4")
        old.commit()
    with closing(Journal(tmp_path / "old.db")) as journal:
        [found] = journal.rollouts(alive=True)
        assert (found.number, found.id, found.begins, found.steps, found.n) == (7, "shop-7", b"a whole state", (), 0)
        assert [row.begins for row in journal.rollouts()] == [b"a whole state", b"its end"]
        assert journal.next_number() == 8
        journal.commit(
            Decision(rollouts=[RolloutRow(number=7, id=found.id, phase="paused", alive=True, n=1, step=b"the first")])
        )
        [found] = journal.rollouts(alive=True)
        assert (found.phase, found.steps, found.n) == ("paused", (b"the first",), 1)


def test_of_each_bundle_the_newest_rollout_that_completed_is_found_and_no_bootstrap(journal: Journal) -> None:
    def row(number: int, phase: str, *bundles: str, bootstrap: bool = False) -> RolloutRow:
        began = {"bundles": bundles, "revision": f"r{number}", "made_at": float(number)}
        begins = orjson.dumps({"value": {"rollout": began}})
        return replace(rollout(number, phase, alive=False), begins=begins, bootstrap=bootstrap)

    assert journal.last_completed() == {}
    rows = [
        row(1, "completed", "db", "shop"),
        row(2, "completed", "shop"),
        row(3, "running", "shop", "web"),
        row(4, "rolled-back", "db"),
        row(5, "completed", "shop", bootstrap=True),
        row(6, "completed", "api"),
    ]
    journal.commit(Decision(rollouts=rows))
    found = journal.last_completed()
    assert {name: (last.number, last.rollout) for name, last in found.items()} == {
        "api": (6, "shop-6"),
        "db": (1, "shop-1"),
        "shop": (2, "shop-2"),
    }
    assert (found[BundleName("db")].revision, found[BundleName("db")].made_s) == ("r1", 1.0)


def test_a_rollout_is_what_it_was_when_it_was_written_whole_and_the_steps_since(journal: Journal) -> None:
    journal.commit(Decision(rollouts=[rollout(1, "running", alive=True)]))
    journal.commit(Decision(rollouts=[rollout(1, "running", alive=True, n=2, whole=b"all of it")]))
    journal.commit(Decision(rollouts=[rollout(1, "paused", alive=True, n=3)]))
    found = journal.rollout("shop-1")
    assert found is not None
    assert (found.phase, found.whole, found.steps, found.n) == ("paused", b"all of it", (b"step 3",), 3)
    assert journal.steps(1) == [(1, b"step 1"), (2, b"step 2"), (3, b"step 3")]


@pytest.mark.parametrize("n", [pytest.param(2, id="a step that is there"), pytest.param(4, id="one is skipped")])
def test_a_step_that_does_not_follow_the_last_stores_nothing_of_its_decision(journal: Journal, n: int) -> None:
    journal.commit(Decision(rollouts=[rollout(1, "running", alive=True)]))
    journal.commit(Decision(rollouts=[rollout(1, "running", alive=True, n=2)]))
    with pytest.raises(Refused, match=f"rollout shop-1: is no longer at step {n - 1}"):
        journal.commit(Decision(rollouts=[rollout(1, "paused", alive=True, n=n)], meta={"tip": "x"}))
    assert journal.steps(1) == [(1, b"step 1"), (2, b"step 2")]
    assert (journal.rollouts()[0].phase, journal.meta("tip")) == ("running", "")


def test_steps_of_old_rollouts_go_and_what_they_were_stays(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "STEPS_KEPT", 2)
    journal.commit(Decision(rollouts=[rollout(1, "running", alive=True)]))  # the oldest, and not over
    for number in range(2, 6):
        journal.commit(Decision(rollouts=[rollout(number, "running", alive=True)]))
        journal.commit(Decision(rollouts=[rollout(number, "completed", alive=False, n=2, whole=b"all of it")]))
    assert [len(journal.steps(number)) for number in range(1, 6)] == [1, 0, 0, 2, 2]
    assert [(row.phase, row.whole, row.n) for row in journal.rollouts(alive=False)] == [
        ("completed", b"all of it", 2)
    ] * 4


def test_one_event_is_found_by_its_id(journal: Journal) -> None:
    journal.commit(Decision(events=[EventRow(time_s=1.0, kind="drift", text=text) for text in ("a", "b", "c")]))
    found = journal.event(2)
    assert found is not None
    assert found.text == "b"
    assert journal.event(9) is None


def test_a_join_token_enrolls_one_key_and_the_same_key_again(journal: Journal) -> None:
    journal.add_join_token("t1", cluster="eu-1", mac_key=b"k", expires_at=10.0)
    journal.enroll("t1", "eu-1", "key-a", 1.0)
    journal.enroll("t1", "eu-1", "key-a", 2.0)
    assert journal.public_key("eu-1") == "key-a"
    with pytest.raises(Refused, match=r"used before, by another key.*flotilla join-token eu-1"):
        journal.enroll("t1", "eu-1", "key-b", 3.0)
    assert journal.public_key("eu-1") == "key-a"


def test_a_join_token_of_another_cluster_enrolls_nobody(journal: Journal) -> None:
    journal.add_join_token("t1", cluster="eu-1", mac_key=b"k", expires_at=10.0)
    with pytest.raises(Refused):
        journal.enroll("t1", "eu-2", "key-a", 1.0)
    assert journal.public_key("eu-2") is None


LOUD = Notes(
    warnings={"secrets": ("bundles/shop/db.yaml:1: Secret/db: ü",), "": ("x",)},
    defines={"Room.a": FIRST},
    uses=("B.c",),
)


def test_what_was_rendered_is_found_by_its_key_with_its_notes_and_first_revision(journal: Journal) -> None:
    journal.remember_renders([("k1", "shop", "a" * 40, "r1", Notes()), ("k2", "shop", "a" * 40, "r2", LOUD)])
    assert journal.renders(["k1", "k2", "k3"]) == {"k1": ("a" * 40, Notes()), "k2": ("a" * 40, LOUD)}
    assert journal.notes_of(["a" * 40, "c" * 40]).keys() == {"a" * 40}
    assert journal.revision_of("a" * 40) == "r1"
    assert journal.revision_of("c" * 40) == ""


def test_equal_notes_are_kept_once_and_go_with_the_last_of_their_renders(journal: Journal) -> None:
    journal.remember_renders([(f"k{number}", "shop", "a" * 40, "r", LOUD) for number in range(3)])
    journal.remember_renders([("k3", "shop", "b" * 40, "r", LOUD)])
    for left, key in ((1, "k0"), (1, "k1"), (1, "k2"), (0, "k3")):
        journal._db.execute("DELETE FROM renders WHERE key=?", (key,))
        assert journal._db.execute("SELECT count(*) FROM notes").fetchone() == (left,)


def test_a_render_that_is_made_anew_takes_its_new_notes(journal: Journal) -> None:
    journal.remember_renders([("k", "shop", "a" * 40, "r", LOUD)])
    journal.remember_renders([("k", "shop", "b" * 40, "r", Notes())])
    assert journal.renders(["k"]) == {"k": ("b" * 40, Notes())}


def test_renders_of_a_hub_that_kept_no_notes_are_known_and_say_nothing(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "old.db")) as old:
        for statement in "".join(schema.SCHEMAS[:2]).split(";\n"):
            old.execute(statement)
        old.execute("INSERT INTO renders VALUES('k', 'shop', ?, 'r')", ("a" * 40,))
        old.execute("PRAGMA user_version=2")
        old.commit()
    with closing(Journal(tmp_path / "old.db")) as journal:
        assert journal.renders(["k"]) == {"k": ("a" * 40, Notes())}


def test_a_journal_of_a_newer_hub_is_refused(tmp_path: Path, journal: Journal) -> None:
    journal._db.execute("PRAGMA user_version=99")
    with pytest.raises(Permanent, match=r"schema 99.*upgrade the hub"):
        Journal(tmp_path / "journal.db")


def test_a_file_that_is_no_database_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "journal.db").write_bytes(b"not a database at all" * 100)
    with pytest.raises(Permanent, match="restore the hub's data folder"):
        Journal(tmp_path / "journal.db")
