"""The store: what is saved survives a kill, and whatever is wrong with the file, the agent goes on from memory."""

import sqlite3
from pathlib import Path

import pytest

from agent.inventory import Applied, Inventory
from agent.model import Baseline, Entry
from proto.ids import Oid
from proto.messages import Health
from proto.objects import ObjectKey

WEB = ObjectKey(group="apps", kind="Deployment", namespace="shop", name="web")
NODE = ObjectKey(group="", kind="Namespace", namespace="", name="shop")
BLOB, TREE, COMMIT = Oid("1" * 40), Oid("2" * 40), Oid("3" * 40)


def known(version: int = 1) -> Baseline:
    return Baseline(
        uid="0-1", resource_version=str(version), generation=3, managed=-(1 << 63), own=(1 << 63) - 1, status=0
    )


def web(version: int = 1) -> Entry:
    return Entry(key=WEB, bundle="shop", api_version="apps/v1", blob=BLOB, baseline=known(version))


def shop() -> Entry:
    return Entry(key=NODE, bundle="shop", api_version="v1")


def write(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)


def damage(path: Path) -> None:
    """All but the first page."""
    size = size_of(path)
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (size - 4096))


def size_of(path: Path) -> int:
    return path.stat().st_size


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "inventory.db"


async def test_what_was_saved_is_there_after_a_kill(path: Path) -> None:
    killed = Inventory(path)
    killed.put(web())
    killed.put(shop())
    killed.bundle_applied("shop", Applied(commit=COMMIT, subtree=TREE))
    killed.slice_taken_up(COMMIT, 7)
    assert await killed.save()
    # No close: SQLite's file is as a kill leaves it.
    with Inventory(path) as found:
        assert found.problem == ""
        assert dict(found.entries) == {WEB: web(), NODE: shop()}
        assert dict(found.applied) == {"shop": Applied(commit=COMMIT, subtree=TREE)}
        assert (found.commit, found.seq) == (COMMIT, 7)
    killed.close()


async def test_what_was_not_saved_is_not_there(path: Path) -> None:
    with Inventory(path) as inventory:
        inventory.put(shop())
        assert await inventory.save()
        inventory.put(web())
        inventory.drop(NODE)
    with Inventory(path) as found:
        assert list(found.entries) == [NODE]


async def test_what_left_is_gone_after_a_save(path: Path) -> None:
    with Inventory(path) as inventory:
        inventory.put(web())
        inventory.put(shop())
        inventory.bundle_applied("shop", Applied(commit=COMMIT, subtree=TREE))
        assert await inventory.save()
        inventory.drop(NODE)
        inventory.drop(NODE)
        inventory.bundle_applied("shop", None)
        inventory.put(web(version=2))
        assert await inventory.save()
    with Inventory(path) as found:
        assert dict(found.entries) == {WEB: web(version=2)}
        assert not found.applied


async def test_health_is_not_stored(path: Path) -> None:
    entry = web()
    entry.health, entry.reason = Health.FAILED, "CrashLoop"
    with Inventory(path) as inventory:
        inventory.put(entry)
        assert await inventory.save()
    with Inventory(path) as found:
        assert found.entries[WEB].health is Health.UNKNOWN


async def test_a_save_without_changes_writes_nothing(path: Path) -> None:
    with Inventory(path) as inventory:
        inventory.put(web())
        assert await inventory.save()
        before = {file.name: file.read_bytes() for file in path.parent.iterdir()}
        assert await inventory.save()
        assert {file.name: file.read_bytes() for file in path.parent.iterdir()} == before


async def test_memory_alone_is_a_store_too() -> None:
    with Inventory(None) as inventory:
        inventory.put(web())
        assert await inventory.save()
        assert inventory.entries[WEB] == web()
        assert inventory.problem == ""


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"not a database at all, but long enough to be looked at " * 20, id="something else"),
        pytest.param(b"SQLite format 3\0" + b"\xff" * 4096, id="a damaged header"),
    ],
)
async def test_a_file_that_cannot_be_read_is_put_aside(path: Path, content: bytes) -> None:
    write(path, content)
    with Inventory(path) as inventory:
        assert "cannot be read" in inventory.problem
        assert not inventory.entries
        inventory.put(web())
        assert await inventory.save()
        assert inventory.problem == ""
    with Inventory(path) as found:
        assert dict(found.entries) == {WEB: web()}
    assert path.with_name("inventory.db.bad").read_bytes()[:16] == content[:16]


async def test_an_empty_file_is_a_new_one(path: Path) -> None:
    write(path, b"")
    with Inventory(path) as inventory:
        assert inventory.problem == ""


async def test_a_file_of_another_format_is_put_aside(path: Path) -> None:
    with Inventory(path) as inventory:
        inventory.put(web())
        assert await inventory.save()
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 99")
    db.close()
    with Inventory(path) as found:
        assert "has format 99" in found.problem
        assert not found.entries


@pytest.mark.parametrize("damage", ["baseline = x'c1'", "api_version = x'ff'"])
async def test_a_row_that_makes_no_sense_gives_no_half_inventory(path: Path, damage: str) -> None:
    with Inventory(path) as inventory:
        inventory.put(web())
        inventory.put(shop())
        assert await inventory.save()
    db = sqlite3.connect(path)
    db.execute(f"UPDATE object SET {damage} WHERE name = 'web'")
    db.commit()
    db.close()
    with Inventory(path) as found:
        assert "cannot be read" in found.problem
        assert not found.entries


async def test_a_full_disk_is_told_and_made_up_for_when_there_is_room(path: Path) -> None:
    with Inventory(path) as inventory:
        db = inventory._db
        assert db is not None
        pages = db.execute("PRAGMA page_count").fetchone()[0]
        db.execute(f"PRAGMA max_page_count = {pages}")
        keys = [ObjectKey(group="", kind="ConfigMap", namespace="shop", name=f"c{n}") for n in range(300)]
        for key in keys:
            inventory.put(Entry(key=key, bundle="shop", api_version="v1", blob=BLOB, baseline=known()))
        assert not await inventory.save()
        assert "cannot be written" in inventory.problem
        assert "full" in inventory.problem
        assert len(inventory.entries) == 300
        inventory.drop(keys[0])
        db.execute("PRAGMA max_page_count = 100000")
        assert await inventory.save()
        assert inventory.problem == ""
    with Inventory(path) as found:
        assert set(found.entries) == set(keys[1:])


async def test_a_folder_that_cannot_be_made_leaves_memory(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file where the folder should be")
    with Inventory(tmp_path / "state" / "inventory.db") as inventory:
        assert inventory.problem
        inventory.put(web())
        assert not await inventory.save()
        assert inventory.entries[WEB] == web()
        (tmp_path / "state").unlink()
        assert await inventory.save()
        assert inventory.problem == ""
    with Inventory(tmp_path / "state" / "inventory.db") as found:
        assert dict(found.entries) == {WEB: web()}


async def test_a_file_that_is_damaged_while_it_is_open_is_written_anew(path: Path) -> None:
    with Inventory(path) as inventory:
        for number in range(200):
            key = ObjectKey(group="", kind="ConfigMap", namespace="shop", name=f"c{number}")
            inventory.put(Entry(key=key, bundle="shop", api_version="v1", blob=BLOB, baseline=known()))
        assert await inventory.save()
        assert inventory._db is not None
        inventory._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        damage(path)
        inventory._db.execute("PRAGMA shrink_memory")
        for key in list(inventory.entries):
            inventory.drop(key)
        inventory.put(web())
        saved = [await inventory.save(), await inventory.save()]
        assert saved == [False, True]
    with Inventory(path) as found:
        assert dict(found.entries) == {WEB: web()}


async def test_an_object_costs_about_a_kilobyte(path: Path) -> None:
    with Inventory(path) as inventory:
        for number in range(1000):
            key = ObjectKey(group="apps", kind="Deployment", namespace="a-namespace", name=f"deployment-{number}")
            inventory.put(Entry(key=key, bundle="shop", api_version="apps/v1", blob=BLOB, baseline=known()))
        assert await inventory.save()
    assert size_of(path) < 500_000


@pytest.mark.parametrize("health", [Health.CURRENT, Health.FAILED])
async def test_how_an_object_ended_is_kept_because_nobody_may_tell_it_again(path: Path, health: Health) -> None:
    job = ObjectKey(group="batch", kind="Job", namespace="shop", name="migrate")
    with Inventory(path) as inventory:
        inventory.put(Entry(key=job, bundle="shop", api_version="batch/v1", blob=BLOB, finished=True, health=health))
        inventory.put(Entry(key=WEB, bundle="shop", api_version="apps/v1", blob=BLOB, health=health))
        assert await inventory.save()
    with Inventory(path) as found:
        assert (found.entries[job].finished, found.entries[job].health) == (True, health)
        assert (found.entries[WEB].finished, found.entries[WEB].health) == (False, Health.UNKNOWN)
