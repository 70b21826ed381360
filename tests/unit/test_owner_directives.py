"""What people ask beside Git: annotations read, the hub's directives kept, each sync acted on once."""

from pathlib import Path

import pytest

from agent.owner.directives import FILE, Asked, DirectiveStore, asked
from proto.messages import Directives


@pytest.mark.parametrize(
    ("annotations", "suspended"),
    [
        pytest.param({}, "", id="nothing"),
        pytest.param({"flotilla.dev/suspend": "true"}, "by its annotation flotilla.dev/suspend", id="true"),
        pytest.param({"flotilla.dev/suspend": " "}, "", id="blank"),
        pytest.param({"flotilla.dev/suspend": "False"}, "", id="false"),
        pytest.param(
            {"flotilla.dev/suspend": "we move"}, "by its annotation flotilla.dev/suspend: we move", id="a reason"
        ),
        pytest.param(
            {"kustomize.toolkit.fluxcd.io/reconcile": "disabled"},
            "by its annotation kustomize.toolkit.fluxcd.io/reconcile: disabled",
            id="Flux's",
        ),
        pytest.param({"kustomize.toolkit.fluxcd.io/reconcile": "enabled"}, "", id="Flux's other word"),
    ],
)
def test_annotations_suspend(annotations: dict[str, str], suspended: str) -> None:
    assert asked(annotations) == Asked(suspended=suspended)


def test_a_changed_sync_of_either_name_is_another_wish() -> None:
    first = asked({"flotilla.dev/sync": "1"}).sync
    both = asked({"flotilla.dev/sync": "1", "reconcile.fluxcd.io/requestedAt": "2026"}).sync
    assert first == "1"
    assert both not in ("", first)


def test_directives_hold_over_a_restart(tmp_path: Path) -> None:
    directives = Directives(suspended={"shop": "ada: why"}, paused_until="2026-01-01T00:00:00Z", sync={"shop": 1})
    DirectiveStore(tmp_path).take(directives)
    again = DirectiveStore(tmp_path)
    assert again.current == directives
    assert again.problem == ""
    assert [file.name for file in tmp_path.iterdir()] == [FILE]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"directives": 1}'], ids=["empty", "cut", "list", "other"])
def test_a_file_that_cannot_be_read_is_as_none_until_the_hub_speaks_again(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)
    store = DirectiveStore(tmp_path)
    assert store.current == Directives()
    assert "cannot be read" in store.problem
    store.take(Directives())
    assert store.problem == ""
    assert DirectiveStore(tmp_path).problem == ""


def test_a_disk_that_cannot_be_written_is_told_and_memory_holds(tmp_path: Path) -> None:
    (tmp_path / "directives.new").mkdir()
    store = DirectiveStore(tmp_path)
    store.take(Directives(suspended={"shop": "ada: why"}))
    assert store.current.suspended == {"shop": "ada: why"}
    assert "cannot be written" in store.problem
    (tmp_path / "directives.new").rmdir()
    store.take(store.current)
    assert store.problem == ""
    assert DirectiveStore(tmp_path).current.suspended == {"shop": "ada: why"}


def test_each_sync_is_acted_on_once_also_over_a_restart(tmp_path: Path) -> None:
    store = DirectiveStore(tmp_path)
    assert store.due(["shop", "web"]) == frozenset()
    store.take(Directives(sync={"shop": 4}))
    assert store.due(["shop", "web"]) == {"shop"}
    store.begun(["shop"])
    assert DirectiveStore(tmp_path).due(["shop", "web"]) == frozenset()
    store.take(Directives(sync={"shop": 4, "*": 1}))
    assert store.due(["shop", "web"]) == {"shop", "web"}
    store.begun(["web"])
    assert store.due(["shop", "web"]) == {"shop"}
    store.take(Directives(sync={"shop": 5, "*": 1}))
    assert store.due(["shop", "web"]) == {"shop"}


def test_a_hub_that_forgets_a_sync_asks_for_none(tmp_path: Path) -> None:
    store = DirectiveStore(tmp_path)
    store.take(Directives(sync={"shop": 4}))
    store.begun(["shop"])
    store.take(Directives())
    assert store.due(["shop"]) == frozenset()
