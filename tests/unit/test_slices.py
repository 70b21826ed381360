"""The slice's own files, its labels and its commit messages."""

import pytest

from proto import slices
from proto.errors import ProtocolError, UnsupportedVersion
from proto.slices import BundleEntry, BundlePolicy, DriftPolicy, IgnoreRule, SliceManifest

MANIFEST = SliceManifest(cluster="eu-1", seq=4, bundles={"shop": BundleEntry(subtree="t", revision="r", rollout="x")})
POLICY = BundlePolicy(
    name="shop",
    drift=DriftPolicy(mode="report", ignore=(IgnoreRule(kind="Deployment", paths=("/spec/replicas",)),)),
    depends_on=("db",),
    destructive_prune=True,
)


def test_the_files_of_a_slice_come_back_as_they_were() -> None:
    assert slices.read_manifest(slices.to_file(MANIFEST)) == MANIFEST
    assert slices.read_policy(slices.to_file(POLICY)) == POLICY


def test_equal_values_are_equal_files() -> None:
    other = SliceManifest(seq=4, cluster="eu-1", bundles={"shop": BundleEntry(rollout="x", revision="r", subtree="t")})
    assert slices.to_file(other) == slices.to_file(MANIFEST)
    assert slices.to_file(MANIFEST) == (
        b'{\n  "bundles": {\n    "shop": {\n      "revision": "r",\n      "rollout": "x",\n      "subtree": "t"\n'
        b'    }\n  },\n  "cluster": "eu-1",\n  "format": 1,\n  "seq": 4\n}\n'
    )


def test_unknown_fields_of_the_same_format_are_ignored() -> None:
    data = slices.to_file(MANIFEST).replace(b'"seq": 4', b'"seq": 4, "later": {}')
    assert slices.read_manifest(data) == MANIFEST


@pytest.mark.parametrize(
    ("data", "error", "said"),
    [
        pytest.param(b'{"format": 2}', UnsupportedVersion, "has format 2.*upgrade the agent", id="newer"),
        pytest.param(b'{"format": 2, "seq": "a string now"}', UnsupportedVersion, "format 2", id="newer, other types"),
        pytest.param(b'{"seq": 4}', ProtocolError, "slice.json: is not valid", id="no format"),
        pytest.param(b'{"format": 1}', ProtocolError, "is not valid", id="nothing but a format"),
        pytest.param(b"apiVersion: v1", ProtocolError, "is not valid", id="no JSON"),
        pytest.param(b"", ProtocolError, "is not valid", id="empty"),
    ],
)
def test_a_file_that_cannot_be_read_says_why(data: bytes, error: type[ProtocolError], said: str) -> None:
    with pytest.raises(error, match=said):
        slices.read_manifest(data)


def test_a_policy_with_an_unknown_mode_is_refused() -> None:
    with pytest.raises(ProtocolError, match=r"bundle\.json"):
        slices.read_policy(b'{"format": 1, "name": "shop", "drift": {"mode": "destroy"}}')


def test_membership_is_added_to_a_copy_and_keeps_other_labels() -> None:
    obj = {"kind": "ConfigMap", "metadata": {"name": "a", "labels": {"app": "web"}}}

    labelled = slices.with_membership(obj, "shop")

    assert labelled["metadata"]["labels"] == {"app": "web", **slices.membership_labels("shop")}
    assert obj["metadata"] == {"name": "a", "labels": {"app": "web"}}
    assert slices.with_membership({"metadata": {"name": "a", "labels": None}}, "shop")["metadata"]["labels"]


def test_an_applyset_id_has_the_form_that_kubectl_checks() -> None:
    ids = {slices.applyset_id(name) for name in ("shop", "db")}
    assert len(ids) == 2
    assert all(one.startswith("applyset-") and one.endswith("-v1") and len(one) == 55 for one in ids)
    assert all(len(value) <= 63 for value in slices.membership_labels("shop").values())


def test_a_commit_message_does_not_depend_on_order() -> None:
    trailers = [("Bundle", "shop"), ("Rollout", "shop-3"), ("Bundle", "db"), ("Bundle", "db")]
    message = slices.commit_message(
        cluster="eu-1", seq=4, bundles=[("shop", "r1..r2"), ("db", "added")], trailers=trailers
    )
    again = slices.commit_message(
        cluster="eu-1", seq=4, bundles=[("db", "added"), ("shop", "r1..r2")], trailers=trailers[::-1]
    )

    assert message == again
    assert message == "eu-1 #4: db added, shop r1..r2\n\nBundle: db\nBundle: shop\nRollout: shop-3\n"
    assert slices.commit_message(cluster="eu-1", seq=1, bundles=[], trailers=[]) == "eu-1 #1: nothing\n"


@pytest.mark.parametrize(
    ("trailers", "expected"),
    [
        pytest.param([(slices.PREDECESSOR_TRAILER, "a" * 40)], "a" * 40, id="checkpoint"),
        pytest.param([("Bundle", "shop")], None, id="ordinary commit"),
        pytest.param([(slices.PREDECESSOR_TRAILER, "main")], None, id="not an id"),
    ],
)
def test_a_checkpoint_names_its_predecessor(trailers: list[tuple[str, str]], expected: str | None) -> None:
    message = slices.commit_message(cluster="eu-1", seq=9, bundles=[], trailers=trailers)
    assert slices.predecessor(message) == expected
