"""Object keys, canonical bytes, and Git ids, held against Git itself."""

from pathlib import Path

import pygit2
import pytest
from pygit2.enums import FileMode

from proto import objects
from proto.errors import InvalidInput, ProtocolError
from proto.ids import Oid, check_name, is_oid, slice_ref
from proto.objects import ObjectKey

DEPLOYMENT = ObjectKey(group="apps", kind="Deployment", namespace="shop", name="web")


@pytest.mark.parametrize(
    ("key", "path", "text"),
    [
        pytest.param(DEPLOYMENT, "shop/Deployment.apps/web.json", "Deployment/shop/web", id="namespaced"),
        pytest.param(
            ObjectKey(group="", kind="Namespace", namespace="", name="shop"),
            "_cluster/Namespace/shop.json",
            "Namespace/shop",
            id="cluster-scoped, core group",
        ),
        pytest.param(
            ObjectKey(group="rbac.authorization.k8s.io", kind="ClusterRole", namespace="", name="system:node"),
            "_cluster/ClusterRole.rbac.authorization.k8s.io/system:node.json",
            "ClusterRole/system:node",
            id="dots in the group, colon in the name",
        ),
        pytest.param(
            ObjectKey(group="apiextensions.k8s.io", kind="CustomResourceDefinition", namespace="", name="a.b.json"),
            "_cluster/CustomResourceDefinition.apiextensions.k8s.io/a.b.json.json",
            "CustomResourceDefinition/a.b.json",
            id="name that ends like a file",
        ),
    ],
)
def test_a_key_and_its_path_say_the_same(key: ObjectKey, path: str, text: str) -> None:
    assert key.path == path
    assert ObjectKey.from_path(path) == key
    assert str(key) == text


@pytest.mark.parametrize(
    "path",
    [
        "",
        "a",
        "a/b",
        "a/b/c",
        "a/b/c.yaml",
        "a/b/.json",
        "/b/c.json",
        "a//c.json",
        "a/b/c/d.json",
        "a/b/c.json/",
        "a/.g/c.json",
    ],
)
def test_a_path_that_is_no_object_is_refused(path: str) -> None:
    with pytest.raises(ProtocolError, match="slice path"):
        ObjectKey.from_path(path)


@pytest.mark.parametrize(
    ("manifest", "said"),
    [
        pytest.param({}, "has no apiVersion, kind or metadata.name", id="empty"),
        pytest.param({"apiVersion": "v1", "kind": "Pod", "metadata": None}, "has no apiVersion", id="no metadata"),
        pytest.param({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": ""}}, "has no", id="empty name"),
        pytest.param({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": 5}}, "has no", id="name is a number"),
        pytest.param(
            {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a/b"}}, "not a name that Kubernetes", id="slash"
        ),
        pytest.param(
            {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": ".."}}, "not a name that Kubernetes", id="dots"
        ),
    ],
)
def test_an_object_without_identity_is_refused(manifest: dict[str, object], said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        objects.key_of(manifest)


def test_the_version_is_no_part_of_a_key() -> None:
    metadata = {"name": "web", "namespace": "shop"}
    for version in ("apps/v1", "apps/v1beta1"):
        assert objects.key_of({"apiVersion": version, "kind": "Deployment", "metadata": metadata}) == DEPLOYMENT


def test_equal_values_have_equal_bytes() -> None:
    assert objects.canonical({"b": [1, {"d": None, "c": "ü"}], "a": True}) == objects.canonical(
        {"a": True, "b": [1, {"c": "ü", "d": None}]}
    )
    assert objects.canonical({"b": 1, "a": []}) == b'{\n  "a": [],\n  "b": 1\n}\n'


@pytest.mark.parametrize(
    "value",
    [
        pytest.param({1: "a"}, id="key is a number"),
        pytest.param({"a": 2**70}, id="more than 64 bits"),
        pytest.param({"a": object()}, id="no JSON"),
        pytest.param({"a": "\ud800"}, id="half a character"),
    ],
)
def test_what_json_cannot_hold_is_our_error(value: object) -> None:
    with pytest.raises(InvalidInput, match="cannot be written as JSON"):
        objects.canonical(value)


def test_ids_are_those_of_git(tmp_path: Path) -> None:
    repo = pygit2.init_repository(str(tmp_path), bare=True)
    blob, other = objects.blob_id(b"content"), objects.blob_id(b"")
    assert str(repo.create_blob(b"content")) == blob
    assert str(repo.create_blob(b"")) == other

    inner = repo.TreeBuilder()
    inner.insert("x.json", repo.create_blob(b"content"), FileMode.BLOB)
    inner_id = inner.write()
    builder = repo.TreeBuilder()
    entries: dict[str, tuple[bool, Oid]] = {}
    for name in ("a", "a.b", "a0", "A", "ü"):
        entries[name] = (True, Oid(str(inner_id)))
        builder.insert(name, inner_id, FileMode.TREE)
    for name in ("a-", "a.json", "b", "z"):
        entries[name] = (False, blob)
        builder.insert(name, repo.create_blob(b"content"), FileMode.BLOB)

    data = objects.tree_bytes(entries)

    assert objects.git_id("tree", data) == str(builder.write())
    assert data == repo.odb.read(objects.git_id("tree", data))[1]


@pytest.mark.parametrize("name", ["a", "eu-1", "0", "a" * 63])
def test_names_that_are_safe_everywhere_are_taken(name: str) -> None:
    assert check_name("cluster", name) == name
    assert slice_ref(name) == f"refs/heads/clusters/{name}"


@pytest.mark.parametrize("name", ["", "-a", "a-", "A", "a.b", "a/b", "..", "a_b", "a" * 64, "a\n", "é"])
def test_names_that_are_not_are_refused_with_the_remedy(name: str) -> None:
    with pytest.raises(InvalidInput, match="use at most 63 lower-case letters"):
        check_name("cluster", name)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a" * 40, True), ("A" * 40, False), ("a" * 39, False), ("a" * 40 + "\n", False), ("g" * 40, False), ("", False)],
)
def test_what_an_object_id_looks_like(text: str, expected: bool) -> None:
    assert is_oid(text) is expected
