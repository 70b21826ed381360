"""The simulated server's objects, their versions, and what its event logs remember; selectors."""

from typing import Any

import pytest

from hub.sim import selectors
from hub.sim.store import Store

TABLE = ("", "configmaps")


def config(name: str = "a", **labels: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "labels": labels}}


def test_every_write_takes_the_next_version_and_is_one_event() -> None:
    store = Store()
    first = store.put(TABLE, ("ns", "a"), config())
    second = store.put(TABLE, ("ns", "a"), config(team="a"))
    last = store.delete(TABLE, ("ns", "a"), config(team="a"))
    assert [first.revision + 1, first.revision + 2] == [second.revision, last.revision]
    events = store.log(TABLE).since(0)
    assert events is not None
    assert [(event.type, event.before and event.before.labels) for event in events] == [
        ("ADDED", None),
        ("MODIFIED", {}),
        ("DELETED", {"team": "a"}),
    ]
    assert last.read()["metadata"]["resourceVersion"] == str(last.revision)
    assert store.get(TABLE, ("ns", "a")) is None


def test_a_log_goes_on_from_any_version_that_it_remembers() -> None:
    store = Store()
    versions = [store.put(TABLE, ("ns", name), config(name)).revision for name in "abc"]
    log = store.log(TABLE)
    position = log.position(versions[0])
    assert position is not None
    assert [event.key[1] for event in log.since(position) or ()] == ["b", "c"]
    assert log.since(log.position(versions[2]) or 0) == []


def test_a_log_forgets_its_oldest_events() -> None:
    store = Store(window=2)
    versions = [store.put(TABLE, ("ns", str(number)), config()).revision for number in range(5)]
    log = store.log(TABLE)
    assert log.position(versions[0]) is None
    assert log.since(0) is None
    position = log.position(versions[1])
    assert position is not None
    assert [event.key[1] for event in log.since(position) or ()] == ["2", "3", "4"]


def test_after_a_restart_only_what_is_new_is_remembered() -> None:
    store = Store()
    old = store.put(TABLE, ("ns", "a"), config()).revision
    last = store.put(TABLE, ("ns", "b"), config()).revision
    store.forget()
    assert store.log(TABLE).position(old) is None
    assert store.log(TABLE).position(last) == 0
    assert [key for key, _ in store.items(TABLE)] == [("ns", "a"), ("ns", "b")]


def test_items_are_ordered_and_of_one_namespace_if_asked() -> None:
    store = Store()
    for key in (("y", "a"), ("x", "b"), ("x", "a")):
        store.put(TABLE, key, config())
    assert [key for key, _ in store.items(TABLE)] == [("x", "a"), ("x", "b"), ("y", "a")]
    assert [key for key, _ in store.items(TABLE, "x")] == [("x", "a"), ("x", "b")]


@pytest.mark.parametrize(
    ("text", "labels", "matches"),
    [
        pytest.param("", {}, True, id="nothing selects all"),
        pytest.param("a=b", {"a": "b"}, True, id="equal"),
        pytest.param("a==b,c=d", {"a": "b"}, False, id="all of several"),
        pytest.param("a!=b", {}, True, id="an absent label is not equal"),
        pytest.param("a in (b, c)", {"a": "c"}, True, id="one of several values"),
        pytest.param("a notin (b,c),x", {"x": ""}, True, id="none of several values"),
        pytest.param("example.org/a", {"example.org/a": "1"}, True, id="there"),
        pytest.param("!a", {"a": "1"}, False, id="not there"),
    ],
)
def test_labels_are_selected(text: str, labels: dict[str, str], matches: bool) -> None:
    assert selectors.parse(text).matches(("ns", "name"), labels) is matches


def test_names_are_selected() -> None:
    selector = selectors.parse("", "metadata.name=a,metadata.namespace!=x")
    assert selector.matches(("y", "a"), {})
    assert not selector.matches(("x", "a"), {})
    assert not selector.matches(("y", "b"), {})


def test_events_are_selected_by_what_they_are_about() -> None:
    table = ("", "events")
    event = {"type": "Warning", "involvedObject": {"uid": "u", "kind": "Pod"}}
    selector = selectors.parse("", "involvedObject.uid=u,type!=Normal", table=table)
    assert selector.matches(("ns", "e"), {}, selectors.fields_of(table, event))
    assert not selector.matches(("ns", "e"), {}, selectors.fields_of(table, {**event, "type": "Normal"}))
    assert not selector.matches(("ns", "e"), {}, selectors.fields_of(table, {}))


@pytest.mark.parametrize(
    ("labels", "fields"),
    [("a===b", ""), ("a in b", ""), (",", ""), ("", "data.x=1"), ("", "metadata.name"), ("", "involvedObject.uid=u")],
)
def test_what_is_no_selector_is_refused(labels: str, fields: str) -> None:
    with pytest.raises(ValueError, match=r"unable to parse|is not a known field selector"):
        selectors.parse(labels, fields)
