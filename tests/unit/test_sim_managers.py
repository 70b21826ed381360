"""Server-side apply: who owns what after which write; the expected sets are those of a real server."""

from typing import Any

import pytest
import yaml

from hub.openapi.schema import schemas
from hub.sim import fieldset, managers, merge
from hub.sim.managers import Conflicts, Operation, Writer

DEPLOYMENT = schemas().of("apps", "v1", "Deployment")
CONFIG = schemas().of("", "v1", "ConfigMap")


def writer(manager: str, operation: Operation = "Apply") -> Writer:
    return Writer(operation=operation, manager=manager, api_version="v1")


class Live:
    """One object of which `apply` and `edit` are writes."""

    def __init__(self, node: Any = CONFIG) -> None:
        self.node = node
        self.obj: dict[str, Any] | None = None
        self.clock = 0

    def now(self) -> str:
        self.clock += 1
        return f"2026-01-01T00:00:{self.clock:02}Z"

    def keep(self, obj: dict[str, Any], entries: list[dict[str, Any]]) -> None:
        self.obj = {**obj, "metadata": {**obj.get("metadata", {}), "managedFields": entries}}

    def apply(self, manager: str, manifest: str, *, force: bool = False) -> "Live":
        applied = yaml.safe_load(manifest)
        made = managers.apply(
            self.obj, applied, writer=writer(manager), node=self.node, force=force, now=self.now(), empty={}
        )
        self.keep(*made)
        return self

    def edit(self, manager: str, manifest: str) -> "Live":
        new = yaml.safe_load(manifest)
        claims = managers.claims_for_update(self.obj, new, subresource="")
        entries = managers.update(
            self.obj,
            new,
            claims=claims,
            writer=writer(manager, "Update"),
            node=self.node,
            now=self.now(),
            empty=managers.skeleton(self.node),
        )
        self.keep(new, entries)
        return self

    def owners(self) -> dict[str, set[str]]:
        """Paths by manager, as messages show them."""
        assert self.obj is not None
        return {
            entry["manager"]: {fieldset.show(path) for path in fieldset.parse(entry["fieldsV1"])}
            for entry in managers.entries_of(self.obj)
        }

    def value(self) -> dict[str, Any]:
        assert self.obj is not None
        return {name: value for name, value in self.obj.items() if name != "metadata"}


def test_an_applier_owns_leaves_and_an_update_owns_the_maps_it_made_too() -> None:
    assert Live().apply("f", "{data: {a: '1'}}").owners() == {"f": {".data.a"}}
    assert Live().edit("e", "{data: {a: '1'}}").owners() == {"e": {".data", ".data.a"}}


def test_a_value_of_another_is_a_conflict_that_names_it_and_nothing_changes() -> None:
    live = Live().edit("e", "{data: {a: '1', b: '1'}}")
    with pytest.raises(Conflicts) as caught:
        live.apply("f", "{data: {a: '2', b: '1'}}")
    assert caught.value.causes == (('conflict with "e" using v1', ".data.a"),)
    assert str(caught.value) == 'Apply failed with 1 conflict: conflict with "e" using v1: .data.a'


def test_force_takes_over_and_equal_values_are_shared() -> None:
    live = Live().edit("e", "{data: {a: '1', b: '1'}}").apply("f", "{data: {a: '2', b: '1'}}", force=True)
    assert live.value() == {"data": {"a": "2", "b": "1"}}
    assert live.owners() == {"f": {".data.a", ".data.b"}, "e": {".data", ".data.b"}}


def test_what_the_applier_drops_goes_unless_somebody_else_owns_it() -> None:
    live = Live().apply("f", "{data: {a: '1', b: '1'}}").apply("g", "{data: {b: '1'}}").apply("f", "{data: {}}")
    assert live.value() == {"data": {"b": "1"}}
    assert live.owners() == {"g": {".data.b"}, "f": {".data"}}


def test_a_removal_leaves_no_trace() -> None:
    live = Live().apply("f", "{data: {a: '1', b: '1'}}").edit("e", "{data: {b: '1'}}")
    assert live.owners() == {"f": {".data.b"}}


def test_an_apply_that_changes_nothing_moves_nothing_but_its_time() -> None:
    live = Live().apply("f", "{data: {a: '1'}}")
    before = live.obj
    live.apply("f", "{data: {a: '1'}}")
    assert before is not None
    assert live.obj is not None
    assert merge.same(before["data"], live.obj["data"])
    assert live.owners() == {"f": {".data.a"}}


def test_after_a_wipe_nothing_is_tracked_until_somebody_applies() -> None:
    live = Live().apply("f", "{data: {a: '1'}}")
    live.edit("e", "{metadata: {managedFields: [{}]}, data: {a: '1'}}")
    assert live.owners() == {}
    live.edit("e", "{data: {a: '2'}}")
    assert live.owners() == {}
    live.apply("f", "{data: {a: '3'}}", force=True)
    assert live.owners() == {"before-first-apply": {".data"}, "f": {".data.a"}}


def test_more_than_ten_updaters_become_ancient_changes() -> None:
    live = Live()
    data: dict[str, str] = {}
    for number in range(13):
        data[f"k{number:02}"] = "1"
        live.edit(f"m{number:02}", yaml.safe_dump({"data": data}))
    owners = live.owners()
    assert len(owners) == 10
    assert owners["ancient-changes"] == {".data", ".data.k00", ".data.k01", ".data.k02", ".data.k03"}
    assert "m03" not in owners
    assert owners["m12"] == {".data.k12"}


def test_list_items_are_found_by_their_keys_and_defaults_of_keys_count() -> None:
    live = Live(DEPLOYMENT).apply(
        "f",
        """
        spec: {template: {spec: {containers: [{name: a, args: [x, y], ports: [{containerPort: 80}]}]}}}
        """,
    )
    a = '.spec.template.spec.containers[name="a"]'
    port = a + '.ports[containerPort=80,protocol="TCP"]'
    assert live.owners()["f"] == {a, f"{a}.name", f"{a}.args", port, f"{port}.containerPort"}


def test_apply_restores_the_order_of_a_list_and_keeps_foreign_items() -> None:
    wanted = "spec: {template: {spec: {containers: [{name: a}, {name: b}]}}}"
    live = Live(DEPLOYMENT).apply("f", wanted)
    live.edit("e", "spec: {template: {spec: {containers: [{name: b}, {name: x}, {name: a}]}}}")
    live.apply("f", wanted)
    containers = live.value()["spec"]["template"]["spec"]["containers"]
    assert [container["name"] for container in containers] == ["x", "a", "b"]


def test_an_item_that_is_there_twice_is_refused() -> None:
    with pytest.raises(merge.Malformed, match=r"duplicate entries for key \[name=\"A\"\]"):
        Live(DEPLOYMENT).apply("f", "spec: {template: {spec: {containers: [{name: a, env: [{name: A}, {name: A}]}]}}}")


def test_an_item_without_its_keys_is_refused() -> None:
    node = schemas().from_crd(
        yaml.safe_load(
            """
            type: object
            properties:
              list:
                type: array
                x-kubernetes-list-type: map
                x-kubernetes-list-map-keys: [name]
                items: {type: object, properties: {name: {type: string}}}
            """
        )
    )
    with pytest.raises(merge.Malformed, match=r"\.list: .* omits key field \"name\""):
        Live(node).apply("f", "list: [{value: a}]")
