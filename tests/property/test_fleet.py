"""Whatever a fleet repo holds, loading it ends, and nothing that was there is forgotten without a word."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from hub.repo import fleet
from proto.objects import canonical

ODD = st.one_of(
    st.sampled_from(["", "x", "10m", "5%", "../x", "/", "rest", "A_b", "é", None, True, -1, 0, 1.5, 10**20]),
    st.recursive(
        st.none() | st.integers() | st.text(max_size=3),
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
        max_leaves=4,
    ),
)
TOP = st.sampled_from(["apiVersion", "kind", "metadata", "name", "labels", "spec", "targets", "source", "path", "helm"])
DEEP = st.sampled_from(
    ["matchLabels", "matchExpressions", "key", "operator", "values", "variants", "when", "variables"]
)
FIELDS = TOP | DEEP


def bundle(name: str) -> dict[str, Any]:
    return {
        "apiVersion": "flotilla.dev/v1alpha1",
        "kind": "Bundle",
        "metadata": {"name": name},
        "spec": {
            "targets": {"matchExpressions": [{"key": "a", "operator": "In", "values": ["b"]}]},
            "source": {"path": "base"},
            "variants": [{"when": {}, "helm": {"values": {"x": 1}}, "variables": {"v": 1}}],
            "drift": {"ignore": [{"kind": "X", "paths": ["/spec"]}]},
            "dependsOn": ["two"],
        },
    }


def damaged(value: Any, draw: Any) -> Any:
    """`value` with something odd somewhere in it."""
    if isinstance(value, dict) and value and draw(st.booleans()):
        key = draw(st.sampled_from(sorted(value)))
        return {**value, key: damaged(value[key], draw)}
    if isinstance(value, list) and value and draw(st.booleans()):
        return [damaged(value[0], draw), *value[1:]]
    if isinstance(value, dict) and draw(st.booleans()):
        return {**value, draw(FIELDS): draw(ODD)}
    return draw(ODD)


@given(st.data())
def test_a_damaged_bundle_is_read_or_named_and_the_other_one_stays(data: st.DataObject) -> None:
    one = damaged(bundle("one"), data.draw)
    two = {**bundle("two"), "spec": {"targets": {}}}
    found = fleet.load(
        {
            "bundles/one/bundle.yaml": json.dumps(one).encode(),
            "bundles/two/bundle.yaml": json.dumps(two).encode(),
        }
    )
    said = found.bundles.keys() | found.broken_bundles
    assert len(said) == 2 or "two" in found.broken_bundles  # a second bundle of that name
    assert "two" in said
    assert bool(found.broken_bundles) == any(finding.severity == "error" for finding in found.findings)
    for finding in found.findings:
        assert finding.where.startswith("bundles/")
    for read in found.bundles.values():
        canonical({"variables": read.variables, "helm": [v.helm and v.helm.values for v in read.variants]})


@given(st.dictionaries(st.sampled_from(["fleet.yaml", "clusters/a.yaml", "bundles/a/bundle.yaml"]), st.binary()))
def test_any_bytes_are_a_fleet_with_findings(files: dict[str, bytes]) -> None:
    found = fleet.load(files)
    assert ("bundles/a/bundle.yaml" in files) == bool(found.broken_bundles)
    assert not found.bundles
    assert not found.clusters
