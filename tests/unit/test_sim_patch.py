"""Patches of three kinds on plain JSON."""

from typing import Any

import pytest
import yaml

from hub.openapi.schema import schemas
from hub.sim import patch

DEPLOYMENT = schemas().of("apps", "v1", "Deployment")


@pytest.mark.parametrize(
    ("operations", "result"),
    [
        pytest.param("[{op: add, path: /a, value: 1}]", "{l: [1, 2], a: 1}", id="add"),
        pytest.param("[{op: add, path: /l/-, value: 3}]", "{l: [1, 2, 3]}", id="append"),
        pytest.param("[{op: add, path: /l/0, value: 0}]", "{l: [0, 1, 2]}", id="insert"),
        pytest.param("[{op: remove, path: /l/0}]", "{l: [2]}", id="remove"),
        pytest.param("[{op: replace, path: /l/1, value: x}]", "{l: [1, x]}", id="replace"),
        pytest.param("[{op: move, from: /l, path: /m}]", "{m: [1, 2]}", id="move"),
        pytest.param("[{op: copy, from: /l/0, path: /m}]", "{l: [1, 2], m: 1}", id="copy"),
        pytest.param("[{op: test, path: /l/0, value: 1}]", "{l: [1, 2]}", id="a test that holds"),
        pytest.param("[{op: add, path: /a~1b~0c, value: 1}]", "{l: [1, 2], a/b~c: 1}", id="escapes"),
    ],
)
def test_a_json_patch_does_its_operations(operations: str, result: str) -> None:
    before = {"l": [1, 2]}
    assert patch.json_patch(before, yaml.safe_load(operations)) == yaml.safe_load(result)
    assert before == {"l": [1, 2]}


@pytest.mark.parametrize(
    ("operations", "malformed"),
    [
        pytest.param([{"op": "test", "path": "/l/0", "value": 2}], False, id="a test that does not hold"),
        pytest.param([{"op": "remove", "path": "/none"}], False, id="nothing to remove"),
        pytest.param([{"op": "replace", "path": "/l/7", "value": 1}], False, id="nothing to replace"),
        pytest.param([{"op": "add", "path": "/a/b", "value": 1}], False, id="no parent"),
        pytest.param([{"op": "dance", "path": "/l"}], True, id="an unknown operation"),
        pytest.param({"op": "add"}, True, id="no list"),
    ],
)
def test_a_json_patch_that_fails_says_whether_it_could_ever_work(operations: Any, malformed: bool) -> None:
    with pytest.raises(patch.Unpatchable) as caught:
        patch.json_patch({"l": [1]}, operations)
    assert caught.value.malformed is malformed


def test_a_merge_patch_merges_maps_removes_nulls_and_replaces_lists() -> None:
    before = {"a": {"b": 1, "c": 2}, "l": [1, 2]}
    assert patch.merge_patch(before, {"a": {"b": None, "d": 3}, "l": [3]}) == {"a": {"c": 2, "d": 3}, "l": [3]}


def containers(change: str) -> list[Any]:
    before = yaml.safe_load(
        """
        spec: {template: {spec: {containers: [{name: a, image: "a:1", args: [x]}, {name: b, image: "b:1"}]}}}
        """
    )
    pod = {"spec": {"template": {"spec": yaml.safe_load(change)}}}
    after = patch.strategic_patch(before, pod, DEPLOYMENT)
    found: list[Any] = after["spec"]["template"]["spec"].get("containers")
    return found


@pytest.mark.parametrize(
    ("change", "result"),
    [
        pytest.param(
            "{containers: [{name: b, image: 'b:2'}]}",
            "[{name: a, image: 'a:1', args: [x]}, {name: b, image: 'b:2'}]",
            id="an item by its key",
        ),
        pytest.param(
            "{containers: [{name: n}]}",
            "[{name: n}, {name: a, image: 'a:1', args: [x]}, {name: b, image: 'b:1'}]",
            id="a new item comes first, as on the real server",
        ),
        pytest.param(
            "{containers: [{name: a, $patch: delete}]}", "[{name: b, image: 'b:1'}]", id="an item that is deleted"
        ),
        pytest.param("{containers: [{$patch: replace}, {name: n}]}", "[{name: n}]", id="a list that is replaced"),
        pytest.param(
            "{$setElementOrder/containers: [{name: b}, {name: a}]}",
            "[{name: b, image: 'b:1'}, {name: a, image: 'a:1', args: [x]}]",
            id="an order",
        ),
        pytest.param(
            "{containers: [{name: a, args: [y], image: null}]}",
            "[{name: a, args: [y]}, {name: b, image: 'b:1'}]",
            id="an atomic list and a null",
        ),
    ],
)
def test_a_strategic_patch_merges_lists_by_their_keys(change: str, result: str) -> None:
    assert containers(change) == yaml.safe_load(result)


def test_a_strategic_patch_without_the_key_is_refused() -> None:
    with pytest.raises(patch.Unpatchable, match="does not contain declared merge key: name"):
        containers("{containers: [{image: x}]}")


def test_retained_keys_are_all_that_stays() -> None:
    before = {"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}}
    change = {"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}}
    assert patch.strategic_patch(before, change, DEPLOYMENT) == {"spec": {"strategy": {"type": "Recreate"}}}
