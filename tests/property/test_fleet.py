"""Whatever a fleet repo holds, loading it ends, and nothing that was there is forgotten without a word."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hub.model import Fleet
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


@settings(deadline=None)
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
    assert ("one" in found.bundles) is not ("one" in found.broken_bundles)
    assert "two" in found.bundles
    assert bool(found.broken_bundles) == any(finding.severity == "error" for finding in found.findings)
    for finding in found.findings:
        assert finding.where.startswith("bundles/")
    for read in found.bundles.values():
        canonical({"variables": read.variables, "helm": [v.helm and v.helm.values for v in read.variants]})


BUNDLE = b"""apiVersion: flotilla.dev/v1alpha1
kind: Bundle
metadata:
  name: shop
spec:
  targets: {matchLabels: {tier: prod}}
  namespace: shop
"""
CLUSTERS = b"""apiVersion: flotilla.dev/v1alpha1
kind: Cluster
metadata: {name: eu-1, labels: {tier: prod}}
spec: {}
---
apiVersion: flotilla.dev/v1alpha1
kind: Cluster
metadata: {name: eu-2, labels: {tier: prod}}
spec: {}
"""


def is_kept(found: Fleet) -> bool:
    return ("shop" in found.bundles) is not ("shop" in found.broken_bundles) and set(found.bundles) <= {"shop"}


@pytest.mark.parametrize("end", range(len(BUNDLE) + 1))
def test_a_bundle_cut_off_anywhere_is_read_or_keeps_what_it_runs(end: int) -> None:
    assert is_kept(fleet.load({"bundles/shop/bundle.yaml": BUNDLE[:end]}))


def spoilt(text: bytes, data: st.DataObject) -> bytes:
    """`text` with some bytes replaced, put in or taken out."""
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(text)))
        text = text[:at] + data.draw(st.binary(max_size=3)) + text[at + data.draw(st.integers(0, 3)) :]
    return text


@settings(deadline=None)
@given(st.data())
def test_a_bundle_with_corrupt_bytes_is_read_or_keeps_what_it_runs(data: st.DataObject) -> None:
    assert is_kept(fleet.load({"bundles/shop/bundle.yaml": spoilt(BUNDLE, data)}))


@settings(deadline=None)
@given(st.data())
def test_clusters_with_corrupt_bytes_are_read_or_known_to_be_missing(data: st.DataObject) -> None:
    text = spoilt(CLUSTERS, data)
    found = fleet.load({"clusters/all.yaml": text})
    said = found.clusters.keys() | found.broken_clusters
    assert found.lost_clusters or not found.findings
    for name in {"eu-1", "eu-2"} - said:  # gone without a word only where the text names it no more
        assert found.lost_clusters or f"name: {name}," not in text.decode(errors="replace")


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(["fleet.yaml", "clusters/a.yaml", "bundles/a/bundle.yaml"]), st.binary()))
def test_any_bytes_are_a_fleet_with_findings(files: dict[str, bytes]) -> None:
    found = fleet.load(files)
    assert ("bundles/a/bundle.yaml" in files) == bool(found.broken_bundles)
    assert not found.bundles
    assert not found.clusters
