"""Sets of paths are read and written as `fieldsV1` of a real server."""

import orjson
import pytest

from hub.sim import fieldset

WRITTEN = b"""{
  "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
  "f:spec": {
    "f:replicas": {},
    "f:template": {"f:spec": {"f:containers": {
      "k:{\\"name\\":\\"app\\"}": {".": {}, "f:args": {}, "f:image": {}},
      "k:{\\"name\\":\\"side\\"}": {}
    }}}
  },
  "f:finalizers": {"v:\\"example.org/keep\\"": {}}
}"""


def test_what_is_read_is_written_again() -> None:
    paths = fieldset.parse(orjson.loads(WRITTEN))
    assert ("f:metadata", "f:labels") in paths
    assert ("f:spec",) not in paths
    assert ("f:finalizers", 'v:"example.org/keep"') in paths
    assert fieldset.parse(fieldset.dump(paths)) == paths
    assert fieldset.dump(paths) == orjson.loads(WRITTEN)


def test_fields_come_before_items_and_the_dot_before_both() -> None:
    paths = [("f:b",), ("f:a", 'k:{"x":1}'), ("f:a",), ("f:a", "f:z")]
    assert orjson.dumps(fieldset.dump(paths)) == b'{"f:a":{".":{},"f:z":{},"k:{\\"x\\":1}":{}},"f:b":{}}'


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"x:a": {}}, id="an unknown kind of element"),
        pytest.param({"f:a": 1}, id="a leaf that is no object"),
    ],
)
def test_what_is_no_field_set_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="is no element of fieldsV1"):
        fieldset.parse(fields)


def test_keys_of_an_item_are_sorted() -> None:
    assert fieldset.key_element({"protocol": "TCP", "port": 80}) == 'k:{"port":80,"protocol":"TCP"}'


def test_fields_on_the_way_are_named_and_items_are_not() -> None:
    paths = frozenset({("f:a", 'k:{"n":1}', "f:b")})
    assert fieldset.with_named_fields(paths) == paths | {("f:a",)}


def test_what_is_at_or_below_a_root_goes() -> None:
    paths = frozenset({("f:status",), ("f:status", "f:x"), ("f:spec", "f:status")})
    assert fieldset.without_below(paths, frozenset({("f:status",)})) == {("f:spec", "f:status")}


def test_paths_are_shown_as_the_server_writes_them() -> None:
    path = ("f:spec", "f:containers", 'k:{"name":"app"}', "f:ports", 'k:{"containerPort":80,"protocol":"TCP"}')
    assert fieldset.show(path) == '.spec.containers[name="app"].ports[containerPort=80,protocol="TCP"]'
    assert fieldset.show(("f:a", 'v:"x"', "i:0")) == '.a[="x"][0]'
