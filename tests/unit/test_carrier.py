"""What wake-ups carry, judged by what the stock git would send."""

from pathlib import Path

import pytest

from hub.slices.carrier import Carrier
from hub.slices.gitstore import GitStore
from proto import wire
from proto.messages import GitObject
from proto.objects import git_id
from tests.unit.test_gitstore import EU, SHOP, US, objects_by_git, put_bundle, put_move, put_slice

WEB = {"a/B/c.json": b"1"}


@pytest.fixture
def store(tmp_path: Path) -> GitStore:
    return GitStore.create(tmp_path / "slices.git")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param({}, {"shop": SHOP, "web": WEB}, id="the first slice"),
        pytest.param(
            {"shop": SHOP, "web": WEB}, {"shop": {**SHOP, "shop/Service/web.json": b"2"}, "web": WEB}, id="file"
        ),
        pytest.param({"shop": SHOP}, {"shop": {**SHOP, "other/Service/web.json": b"3"}}, id="a folder that is new"),
        pytest.param({"shop": SHOP}, {"shop": WEB}, id="nothing is left of it"),
        pytest.param({"shop": SHOP, "web": WEB}, {"web": WEB}, id="a bundle goes"),
        pytest.param({"shop": SHOP}, {"shop": SHOP, "web": WEB}, id="a bundle comes"),
    ],
)
def test_a_wake_up_carries_what_git_would_send(
    store: GitStore, before: dict[str, dict[str, bytes]], after: dict[str, dict[str, bytes]]
) -> None:
    one = put_slice(store, 1, {name: put_bundle(store, files) for name, files in before.items()}) if before else None
    two = put_move(store, 2, {name: put_bundle(store, files) for name, files in after.items()}, parent=one)
    found = [git_id(item.kind, item.data) for item in Carrier(store).carried(two)]
    assert len(set(found)) == len(found)
    assert objects_by_git(store, two.commit, *([f"^{one}"] if one else [])) <= set(found)


def test_clusters_alike_are_carried_the_same_objects_which_are_read_once(
    store: GitStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop, changed = put_bundle(store, SHOP), put_bundle(store, {**SHOP, "shop/Service/web.json": b"2"})
    ones = [put_slice(store, 1, {"shop": shop}, cluster=name) for name in (EU, US)]
    first, second = (
        put_move(store, 2, {"shop": changed}, parent=one, cluster=name)
        for one, name in zip(ones, (EU, US), strict=True)
    )
    carrier = Carrier(store)
    carried = carrier.carried(first)
    monkeypatch.setattr(store, "object", lambda oid: pytest.fail(f"{oid} is read again"))
    alone = [pair for pair in second.objects if pair not in first.objects]
    assert [kind for kind, _ in alone] == ["blob", "tree", "commit"]
    assert set(carrier.carried(second)) - set(carried) == {GitObject(kind=kind, data=data) for kind, data in alone}


def test_too_many_new_bytes_are_left_to_a_fetch(store: GitStore) -> None:
    fits = put_bundle(store, {"n/K/1.json": b"x" * (wire.MAX_CARRIED_BYTES - 2000)})
    assert Carrier(store).carried(put_move(store, 1, {"a": fits}))
    over = put_bundle(store, {"n/K/1.json": b"x" * wire.MAX_CARRIED_BYTES})
    assert Carrier(store).carried(put_move(store, 1, {"a": over})) == ()
    half = {
        name: put_bundle(store, {f"n/K/{name}.json": name.encode() * (wire.MAX_CARRIED_BYTES // 2)})
        for name in ("a", "b")
    }
    assert Carrier(store).carried(put_move(store, 1, half)) == ()
