import itertools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.model import Bundle, Checks, Cluster, Fleet, HelmOptions, Patch, Requirement, Selector, Variant
from hub.renders import RenderRequest
from hub.repo import targets
from proto.ids import BundleName, ClusterName, Oid
from proto.objects import canonical
from proto.slices import BundlePolicy

EVERY = Selector()
EU = Selector(match_labels={"region": "eu"})
TREE = Oid("a" * 40)


def cluster(name: str, *, variables: Mapping[str, Any] | None = None, kubernetes: str = "", **labels: str) -> Cluster:
    return Cluster(name=ClusterName(name), labels=labels, variables=variables or {}, kubernetes=kubernetes)


def bundle(name: str = "shop", *, select: Selector = EVERY, **fields: Any) -> Bundle:
    return Bundle(
        name=BundleName(name), folder=f"bundles/{name}", targets=select, policy=BundlePolicy(name=name), **fields
    )


def fleet(bundles: list[Bundle], clusters: list[Cluster], **variables: Any) -> Fleet:
    return Fleet(
        clusters={found.name: found for found in clusters},
        bundles={found.name: found for found in bundles},
        variables=variables,
    )


def inputs_of(made: Fleet, name: str) -> Mapping[str, Any]:
    """The inputs of the one request that has cluster `name`."""
    (found,) = (
        request.inputs
        for request in targets.render_requests(made, lambda folder: TREE, renderer="1")
        if name in request.clusters
    )
    return found


@pytest.mark.parametrize(
    ("operator", "values", "labels", "expected"),
    [
        ("In", {"eu", "us"}, {"region": "eu"}, True),
        ("In", {"eu", "us"}, {"region": "asia"}, False),
        ("In", {"eu", ""}, {}, False),
        ("NotIn", {"eu"}, {"region": "eu"}, False),
        ("NotIn", {"eu"}, {"region": "us"}, True),
        ("NotIn", {"eu"}, {}, True),
        ("Exists", set(), {"region": ""}, True),
        ("Exists", set(), {}, False),
        ("DoesNotExist", set(), {"region": ""}, False),
        ("DoesNotExist", set(), {}, True),
    ],
)
def test_expressions_match_as_in_kubernetes(
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"],
    values: set[str],
    labels: Mapping[str, str],
    expected: bool,
) -> None:
    requirement = Requirement(key="region", operator=operator, values=frozenset(values))
    assert targets.matches(Selector(match_expressions=(requirement,)), labels) is expected


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        pytest.param(EVERY, True, id="an empty selector matches everything"),
        pytest.param(EU, True, id="one label"),
        pytest.param(Selector(match_labels={"region": "eu", "tier": "prod"}), False, id="all labels have to match"),
        pytest.param(Selector(match_labels={"region": ""}), False, id="an empty value is a value"),
        pytest.param(Selector(match_labels={"absent": ""}), False, id="and a missing label has none"),
        pytest.param(
            replace(EU, match_expressions=(Requirement(key="tier", operator="DoesNotExist"),)),
            False,
            id="labels and expressions have to match",
        ),
    ],
)
def test_selectors(selector: Selector, expected: bool) -> None:
    assert targets.matches(selector, {"region": "eu", "tier": "dev"}) is expected


def test_wanted_lists_each_bundles_clusters_sorted_and_bundles_without_any() -> None:
    made = fleet(
        [bundle("shop", select=EU), bundle("all"), bundle("none", select=Selector(match_labels={"x": "y"}))],
        [cluster("eu-2", region="eu"), cluster("us-1", region="us"), cluster("eu-1", region="eu")],
    )
    assert list(targets.wanted(made).items()) == [
        ("all", ("eu-1", "eu-2", "us-1")),
        ("none", ()),
        ("shop", ("eu-1", "eu-2")),
    ]


def test_a_variable_has_the_value_that_was_said_last() -> None:
    made = fleet(
        [
            bundle(
                variables={"b": "bundle", "c": "bundle", "d": "bundle", "e": "bundle"},
                variants=(
                    Variant(when=EU, variables={"c": "first", "d": "first", "e": "first"}),
                    Variant(when=Selector(match_labels={"region": "us"}), variables={"c": "other"}),
                    Variant(when=EVERY, variables={"d": "second", "e": "second"}),
                ),
            )
        ],
        [cluster("eu-1", region="eu", variables={"e": "cluster", "n": 3})],
        a="fleet",
        b="fleet",
    )
    assert inputs_of(made, "eu-1")["variables"] == {
        "a": "fleet",
        "b": "bundle",
        "c": "first",
        "d": "second",
        "e": "cluster",
        "n": 3,
    }


def test_the_last_matching_variant_gives_the_path() -> None:
    made = fleet(
        [
            bundle(
                source="base",
                variants=(
                    Variant(when=EU, kustomize="overlays/eu"),
                    Variant(when=Selector(match_labels={"tier": "prod"}), kustomize=""),
                    Variant(when=EVERY),
                ),
            )
        ],
        [cluster("eu", region="eu"), cluster("prod", region="eu", tier="prod"), cluster("us", region="us")],
    )
    assert [inputs_of(made, name)["path"] for name in ("eu", "prod", "us")] == ["overlays/eu", "", "base"]


def test_helm_options_of_variants_are_laid_over_those_of_the_bundle() -> None:
    made = fleet(
        [
            bundle(
                helm=HelmOptions(values={"image": {"tag": "1", "pull": "Always"}, "l": [1]}, values_files=("a.yaml",)),
                variants=(
                    Variant(when=EU, helm=HelmOptions(values={"image": {"tag": "2"}, "l": [2]}, release="shop-eu")),
                    Variant(when=EU, helm=HelmOptions(values={"x": None}, values_files=("b.yaml",))),
                ),
            )
        ],
        [cluster("eu-1", region="eu"), cluster("us-1", region="us")],
    )
    assert inputs_of(made, "eu-1")["helm"] == {
        "values": {"image": {"tag": "2", "pull": "Always"}, "l": [2], "x": None},
        "valuesFiles": ["a.yaml", "b.yaml"],
        "release": "shop-eu",
    }
    assert inputs_of(made, "us-1")["helm"] == {
        "values": {"image": {"tag": "1", "pull": "Always"}, "l": [1]},
        "valuesFiles": ["a.yaml"],
        "release": "",
    }


def test_helm_options_of_a_variant_alone_count() -> None:
    made = fleet([bundle(variants=(Variant(when=EU, helm=HelmOptions(release="x")),))], [cluster("eu", region="eu")])
    assert inputs_of(made, "eu")["helm"] == {"values": {}, "valuesFiles": [], "release": "x"}


def test_checks_are_an_input_and_part_of_the_key_only_where_they_refuse() -> None:
    def request(checks: Checks) -> RenderRequest:
        made = replace(fleet([bundle()], [cluster("eu-1")]), checks=checks)
        return targets.render_requests(made, lambda folder: TREE, renderer="1")[0]

    usual, allow, refuse = (request(Checks(secrets=word)) for word in ("warn", "allow", "refuse"))
    assert "checks" not in usual.inputs
    assert allow.inputs["checks"] == {"secrets": "allow"}
    assert allow.key == usual.key
    assert refuse.key != usual.key


def test_the_whole_inputs_of_a_simple_bundle() -> None:
    made = fleet([bundle(namespace="shop")], [cluster("eu-1", kubernetes="1.36", region="eu")])
    assert inputs_of(made, "eu-1") == {
        "path": "",
        "namespace": "shop",
        "helm": None,
        "variables": {},
        "kubernetes": "1.36",
        "policy": {"name": "shop"},
    }


def test_clusters_with_the_same_inputs_share_a_request() -> None:
    made = fleet(
        [bundle("shop", variants=(Variant(when=EU, variables={"currency": "EUR"}),)), bundle("none", select=EU)],
        [cluster("a", region="us"), cluster("b", region="us", variables={"x": 1}), cluster("c", tier="dev")],
    )
    requests = targets.render_requests(made, lambda folder: TREE, renderer="1")
    assert [(request.bundle.name, request.clusters) for request in requests] == [
        ("shop", ("a", "c")),
        ("shop", ("b",)),
    ]
    assert len({request.key for request in requests}) == 2


def test_the_folders_tree_is_asked_for_once_per_bundle_and_only_where_it_is_needed() -> None:
    asked: list[str] = []

    def folder_tree(folder: str) -> Oid:
        asked.append(folder)
        return TREE

    made = fleet([bundle("shop"), bundle("none", select=EU)], [cluster("a"), cluster("b", variables={"x": 1})])
    targets.render_requests(made, folder_tree, renderer="1")
    assert asked == ["bundles/shop"]


BASE = bundle(source="base", namespace="shop", helm=HelmOptions(values={"a": 1}), variables={"v": 1})


@pytest.mark.parametrize(
    ("changed_bundle", "changed_cluster", "tree", "renderer"),
    [
        pytest.param(BASE, {}, Oid("b" * 40), "1", id="sources"),
        pytest.param(BASE, {}, TREE, "2", id="renderer"),
        pytest.param(replace(BASE, source="other"), {}, TREE, "1", id="path"),
        pytest.param(replace(BASE, namespace="other"), {}, TREE, "1", id="namespace"),
        pytest.param(replace(BASE, helm=None), {}, TREE, "1", id="no Helm options"),
        pytest.param(replace(BASE, helm=HelmOptions(values={"a": 2})), {}, TREE, "1", id="Helm values"),
        pytest.param(replace(BASE, variables={"v": "1"}), {}, TREE, "1", id="a variable's type"),
        pytest.param(replace(BASE, policy=BundlePolicy(name="shop", prune=False)), {}, TREE, "1", id="policy"),
        pytest.param(BASE, {"kubernetes": "1.35"}, TREE, "1", id="Kubernetes version"),
        pytest.param(BASE, {"variables": {"v": 2}}, TREE, "1", id="the cluster's variables"),
    ],
)
def test_the_key_changes_with_all_that_the_result_depends_on(
    changed_bundle: Bundle, changed_cluster: dict[str, Any], tree: Oid, renderer: str
) -> None:
    (before,) = targets.render_requests(fleet([BASE], [cluster("a")]), lambda folder: TREE, renderer="1")
    (after,) = targets.render_requests(
        fleet([changed_bundle], [cluster("a", **changed_cluster)]), lambda folder: tree, renderer=renderer
    )
    assert before.key != after.key


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param(replace(BASE, where="elsewhere:9"), id="where it is written"),
        pytest.param(replace(BASE, rollout="careful"), id="how it is rolled out"),
        pytest.param(replace(BASE, targets=Selector(match_labels={"tier": "prod"})), id="whom it is for"),
        pytest.param(replace(BASE, variants=(Variant(when=EU, kustomize="x"),)), id="a variant for others"),
    ],
)
def test_the_key_does_not_change_with_anything_else(changed: Bundle) -> None:
    (before,) = targets.render_requests(fleet([BASE], [cluster("a")]), lambda folder: TREE, renderer="1")
    (after,) = targets.render_requests(fleet([changed], [cluster("b", tier="prod")]), lambda folder: TREE, renderer="1")
    assert before.key == after.key


LABELS = st.dictionaries(st.sampled_from("abc"), st.sampled_from("xyz"), max_size=3)


@given(st.lists(LABELS, max_size=8), st.lists(LABELS, max_size=3))
def test_every_wanted_cluster_is_in_exactly_one_request_and_inputs_are_json(
    clusters: list[dict[str, str]], selectors: list[dict[str, str]]
) -> None:
    variants = tuple(Variant(when=Selector(match_labels=labels), variables=labels) for labels in selectors)
    bundles = [bundle(f"b{n}", select=Selector(match_labels=found)) for n, found in enumerate(selectors)]
    made = fleet(
        [*bundles, bundle("every", variants=variants)],
        [replace(cluster(f"c{n}"), labels=labels) for n, labels in enumerate(clusters)],
    )
    requests = targets.render_requests(made, lambda folder: TREE, renderer="1")
    for name, expected in targets.wanted(made).items():
        rendered = itertools.chain(*(request.clusters for request in requests if request.bundle.name == name))
        assert sorted(rendered) == list(expected)
    assert len({(request.bundle.name, request.key) for request in requests}) == len(requests)
    for request in requests:
        canonical(request.inputs)


def test_patches_of_matching_variants_come_after_those_of_the_bundle() -> None:
    first, eu, us = (Patch(path=f"{name}.yaml", where=name) for name in ("first", "eu", "us"))
    variants = (
        Variant(when=EU, patches=(eu,)),
        Variant(when=Selector(match_labels={"region": "us"}), patches=(us,)),
    )
    found = inputs_of(fleet([bundle(patches=(first,), variants=variants)], [cluster("a", region="eu")]), "a")
    assert [patch["path"] for patch in found["patches"]] == ["first.yaml", "eu.yaml"]
    assert found["patchFiles"] == ["eu.yaml", "first.yaml", "us.yaml"]


def test_a_kustomize_folder_goes_with_the_source_that_it_may_be_laid_over() -> None:
    made = bundle(source="chart", kustomize="base", variants=(Variant(when=EU, kustomize="overlays/eu"),))
    clusters = [cluster("a", region="eu"), cluster("b")]
    found = [inputs_of(fleet([made], clusters), name) for name in ("a", "b")]
    assert [(each["path"], each["chart"]) for each in found] == [("overlays/eu", "chart"), ("base", "chart")]


def test_what_is_not_used_is_in_no_inputs() -> None:
    found = inputs_of(fleet([bundle()], [cluster("a")]), "a")
    assert not found.keys() & {"patches", "patchFiles", "chart"}


MANY = [
    cluster("a", region="eu", variables={"domain": "a.org", "size": 1}),
    cluster("b", region="eu", variables={"domain": "b.org", "size": 1}),
    cluster("c", region="us", variables={"domain": "c.org", "size": 1}),
    cluster("d", region="us", variables={"domain": "d.org", "size": True}),
]


@pytest.mark.parametrize(
    ("mentions", "expected"),
    [
        pytest.param((), [("a", "b", "c", "d")], id="nothing"),
        pytest.param(("HOME", "cluster.labels.zone"), [("a", "b", "c", "d")], id="what no cluster has"),
        pytest.param(("size",), [("a", "b", "c"), ("d",)], id="a variable, whose type counts"),
        pytest.param(("domain",), [("a",), ("b",), ("c",), ("d",)], id="a variable that differs everywhere"),
        pytest.param(("cluster.labels.region",), [("a", "b"), ("c", "d")], id="a label"),
        pytest.param(("cluster.name",), [("a",), ("b",), ("c",), ("d",)], id="the name"),
        pytest.param(("*",), [("a",), ("b",), ("c",), ("d",)], id="perhaps any variable"),
    ],
)
def test_clusters_share_a_render_that_differ_only_in_what_no_file_mentions(
    mentions: tuple[str, ...], expected: list[tuple[str, ...]]
) -> None:
    made = fleet([bundle(mentions=frozenset(mentions))], MANY)
    requests = targets.render_requests(made, lambda folder: TREE, renderer="1")
    assert [request.clusters for request in requests] == expected
    assert len({request.key for request in requests}) == len(expected)


def test_inputs_have_what_is_mentioned_and_the_names_of_the_rest() -> None:
    made = fleet([bundle(mentions=frozenset({"domain", "cluster.name", "cluster.labels.region", "NONE"}))], MANY)
    found = inputs_of(made, "c")
    assert found["variables"] == {"domain": "c.org", "cluster.name": "c", "cluster.labels.region": "us"}
    assert found["known"] == ["size"]


@pytest.mark.parametrize(
    "variables",
    [
        pytest.param({}, id="none"),
        pytest.param({"domain": "a.org", "size": 3, "on": True, "none": None}, id="of several types"),
        pytest.param({"text": 'two\nlines, "quoted": {}\n    "variables": 0', "é": "ü"}, id="text with line breaks"),
        pytest.param({"deep": {"list": [1, {"variables": 0}, []], "empty": {}}}, id="nested"),
    ],
)
@pytest.mark.parametrize("namespace", ["", 'x\n    "variables": 0', '"variables": 0'])
def test_the_key_of_a_request_is_that_of_its_inputs(variables: dict[str, Any], namespace: str) -> None:
    """Though what clusters have in common is hashed once for all of them."""
    made = replace(bundle(mentions=frozenset({"*"})), namespace=namespace)
    fleet_of_two = fleet([made], [cluster("a", variables=variables), cluster("b", kubernetes="1.35")])
    requests = targets.render_requests(fleet_of_two, lambda folder: TREE, renderer="7")
    assert len(requests) == 2
    for request in requests:
        assert request.key == targets.render_key(TREE, request.inputs, renderer="7")


def test_a_variable_that_no_file_mentions_changes_no_key() -> None:
    made = bundle(mentions=frozenset({"domain"}))

    def key(**variables: Any) -> str:
        (request,) = targets.render_requests(
            fleet([made], [cluster("a", variables={"domain": "x", **variables})]), lambda folder: TREE, renderer="1"
        )
        return request.key

    assert key() == key(other=1) == key(other=2, more="x")
    assert key() != key(domain="y")
