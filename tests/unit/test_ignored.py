"""What is sent of an object at paths that Git leaves to others."""

from copy import deepcopy
from typing import Any

import pytest

from agent.fields.ignored import body_for, pointers
from proto.slices import BUNDLE_LABEL, IgnoreRule

DESIRED: dict[str, Any] = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "web", "namespace": "shop", "labels": {"app": "web", BUNDLE_LABEL: "shop"}},
    "spec": {
        "replicas": 3,
        "selector": {"matchLabels": {"app": "web"}},
        "template": {
            "metadata": {"annotations": {"example.org/a": "git"}},
            "spec": {
                "containers": [
                    {"name": "web", "image": "web:2", "ports": [{"containerPort": 80}]},
                    {"name": "log", "image": "log:2"},
                ],
                "nodeSelector": {"disk": "ssd"},
            },
        },
    },
}
PORT = 'k:{"containerPort":80,"protocol":"TCP"}'
OWN: dict[str, Any] = {
    "f:metadata": {"f:labels": {"f:app": {}, f"f:{BUNDLE_LABEL}": {}}},
    "f:spec": {
        "f:replicas": {},
        "f:selector": {},
        "f:template": {
            "f:metadata": {"f:annotations": {"f:example.org/a": {}}},
            "f:spec": {
                "f:containers": {
                    'k:{"name":"web"}': {
                        ".": {},
                        "f:name": {},
                        "f:image": {},
                        "f:ports": {PORT: {".": {}, "f:containerPort": {}}},
                    },
                    'k:{"name":"log"}': {".": {}, "f:name": {}, "f:image": {}},
                },
                "f:nodeSelector": {},
            },
        },
    },
}


def entry(fields: dict[str, Any], manager: str = "flotilla", operation: str = "Apply") -> dict[str, Any]:
    return {"manager": manager, "operation": operation, "apiVersion": "apps/v1", "fieldsV1": fields}


def live(*others: dict[str, Any], own: dict[str, Any] = OWN, spec: dict[str, Any] | None = None) -> dict[str, Any]:
    """As Git had it before; what the server adds, and whoever else owns something."""
    made = deepcopy(DESIRED)
    made["metadata"] |= {"uid": "u1", "resourceVersion": "7", "managedFields": [entry(own), *others]}
    made["spec"] |= {"replicas": 8, "paused": False}
    made["spec"]["template"]["metadata"]["annotations"] = {"example.org/a": "live"}
    containers = made["spec"]["template"]["spec"]["containers"]
    containers[0] |= {"image": "web:1", "imagePullPolicy": "IfNotPresent", "ports": [_port(80)]}
    containers.reverse()
    made["spec"] |= spec or {}
    return made


def _port(number: int) -> dict[str, Any]:
    return {"containerPort": number, "protocol": "TCP"}


def without(fields: dict[str, Any], *path: str) -> dict[str, Any]:
    made = deepcopy(fields)
    node = made
    for element in path[:-1]:
        node = node[element]
    del node[path[-1]]
    return made


def at(obj: Any, *path: str | int) -> Any:
    for part in path:
        obj = obj.get(part, "nothing") if isinstance(obj, dict) else obj[part]
    return obj


REPLICAS = entry({"f:spec": {"f:replicas": {}}}, "hpa")
NOT_REPLICAS = without(OWN, "f:spec", "f:replicas")


@pytest.mark.parametrize(
    ("seen", "replicas", "version"),
    [
        pytest.param(live(), 8, "7", id="ours alone: the live value, at this version only"),
        pytest.param(live(REPLICAS), "nothing", "7", id="ours and another's: given up, at this version only"),
        pytest.param(live(REPLICAS, own=NOT_REPLICAS), "nothing", "nothing", id="another's: nothing is sent"),
        pytest.param(live(own=NOT_REPLICAS), "nothing", "nothing", id="nobody's: nothing is sent"),
        pytest.param(
            live(entry({"f:spec": {"f:replicas": {}}}, "kube-controller-manager", "Update"), own=NOT_REPLICAS),
            "nothing",
            "nothing",
            id="an autoscaler's: nothing is sent",
        ),
    ],
)
def test_an_ignored_field_goes_by_its_owners(seen: dict[str, Any], replicas: Any, version: str) -> None:
    sent = body_for(DESIRED, seen, ["/spec/replicas"])
    assert at(sent, "spec", "replicas") == replicas
    assert at(sent, "metadata", "resourceVersion") == version
    assert sent["metadata"]["uid"] == "u1"
    assert at(sent, "spec", "template") == DESIRED["spec"]["template"]


def test_a_field_that_git_no_longer_has_stays_as_it_is_while_it_is_ignored() -> None:
    desired = deepcopy(DESIRED)
    del desired["spec"]["replicas"]
    assert body_for(desired, live(), ["/spec/replicas"])["spec"]["replicas"] == 8


def test_on_creation_nothing_is_ignored() -> None:
    assert body_for(DESIRED, None, ["/spec/replicas"]) is DESIRED


@pytest.mark.parametrize("rules", [(), ("",), ("spec/replicas",)])
def test_without_a_pointer_the_desired_object_itself_is_sent(rules: tuple[str, ...]) -> None:
    assert body_for(DESIRED, live(), rules) is DESIRED


CONTAINERS = ("spec", "template", "spec", "containers")
IMAGE = "/spec/template/spec/containers/0/image"


@pytest.mark.parametrize(
    ("pointer", "path", "value"),
    [
        pytest.param(IMAGE, (*CONTAINERS, 0, "image"), "web:1", id="the item with the same keys, not the same place"),
        pytest.param(
            "/spec/template/spec/containers/0",
            (*CONTAINERS, 0),
            {"name": "web", "image": "web:1", "ports": [{"containerPort": 80}]},
            id="of a whole item what is ours",
        ),
        pytest.param(
            "/spec/template/spec/containers/0/ports/0/containerPort",
            (*CONTAINERS, 0, "ports"),
            [{"containerPort": 80}],
            id="a key of an item",
        ),
        pytest.param(
            "/spec/template/metadata/annotations/example.org~1a",
            ("spec", "template", "metadata", "annotations"),
            {"example.org/a": "live"},
            id="an escaped slash",
        ),
        pytest.param(
            "/spec/template/metadata/annotations/example.org~01a",
            ("spec", "template", "metadata", "annotations"),
            {"example.org/a": "git"},
            id="an escaped tilde is another name",
        ),
        pytest.param("/spec/selector/matchLabels/app", ("spec", "selector", "matchLabels", "app"), "web", id="atomic"),
        pytest.param(f"{IMAGE}/deeper", (*CONTAINERS, 0, "image"), "web:2", id="below a plain value"),
        pytest.param("/spec/template/spec/containers/9/image", (*CONTAINERS, 0, "image"), "web:2", id="no such item"),
        pytest.param("/spec/template/spec/containers/-/image", (*CONTAINERS, 0, "image"), "web:2", id="no index"),
        pytest.param("/spec/none/at/all", ("spec", "none"), "nothing", id="nowhere"),
        pytest.param("/metadata/name", ("metadata", "name"), "web", id="identity"),
        pytest.param("/kind", ("kind",), "Deployment", id="kind"),
        pytest.param("/metadata/labels", ("metadata", "labels", BUNDLE_LABEL), "shop", id="membership"),
        pytest.param("/metadata", ("metadata", "namespace"), "shop", id="all metadata"),
    ],
)
def test_pointers_lead_to_the_field_that_is_meant(pointer: str, path: tuple[str | int, ...], value: Any) -> None:
    assert at(body_for(DESIRED, live(), [pointer]), *path) == value


def test_inside_a_struct_that_is_owned_whole_the_live_value_is_sent_in_ours() -> None:
    seen = live()
    seen["spec"]["template"]["spec"]["nodeSelector"] = {"disk": "hdd", "zone": "b"}
    sent = body_for(DESIRED, seen, ["/spec/template/spec/nodeSelector/zone"])
    assert at(sent, "spec", "template", "spec", "nodeSelector") == {"disk": "ssd", "zone": "b"}
    assert sent["metadata"]["resourceVersion"] == "7"


def test_of_a_map_each_part_goes_by_its_own_owner() -> None:
    desired = {**DESIRED, "kind": "ConfigMap", "apiVersion": "v1", "data": {"a": "git", "b": "git", "c": "git"}}
    seen = deepcopy(desired)
    seen["data"] = {"a": "live", "b": "theirs", "c": "both", "d": "added"}
    seen["metadata"] |= {
        "uid": "u1",
        "resourceVersion": "7",
        "managedFields": [
            entry({"f:data": {".": {}, "f:a": {}, "f:c": {}}}),
            entry({"f:data": {"f:b": {}, "f:c": {}, "f:d": {}}}, "operator"),
        ],
    }
    assert body_for(desired, seen, ["/data"])["data"] == {"a": "live"}


def test_two_items_of_a_list_are_dropped_without_mixing_them_up() -> None:
    seen = live(own=without(OWN, "f:spec", "f:template", "f:spec", "f:containers"))
    seen["metadata"]["managedFields"].append(
        entry({"f:spec": {"f:template": {"f:spec": OWN["f:spec"]["f:template"]["f:spec"]}}}, "operator")
    )
    containers = body_for(
        DESIRED, seen, ["/spec/template/spec/containers/0/image", "/spec/template/spec/containers/1"]
    )["spec"]["template"]["spec"]["containers"]
    assert containers == [{"name": "web", "ports": [{"containerPort": 80}]}]


def test_an_item_that_somebody_took_away_is_made_whole_again() -> None:
    seen = live()
    seen["spec"]["template"]["spec"]["containers"] = []
    assert at(body_for(DESIRED, seen, [IMAGE]), *CONTAINERS) == DESIRED["spec"]["template"]["spec"]["containers"]


def test_an_item_that_is_ignored_itself_stays_away() -> None:
    seen = live(own=without(OWN, "f:spec", "f:template", "f:spec", "f:containers", 'k:{"name":"log"}'))
    del seen["spec"]["template"]["spec"]["containers"][0]
    seen["metadata"]["managedFields"].append(
        entry({"f:spec": {"f:template": {"f:spec": {"f:containers": {'k:{"name":"log"}': {}}}}}}, "late")
    )
    sent = body_for(DESIRED, seen, ["/spec/template/spec/containers/1"])
    assert [item["name"] for item in at(sent, *CONTAINERS)] == ["web"]


def test_neither_side_is_changed() -> None:
    seen, before, wanted = live(), deepcopy(live()), deepcopy(DESIRED)
    body_for(DESIRED, seen, ["/spec/replicas", "/spec/template/spec", "/metadata/labels"])
    assert (seen, DESIRED) == (before, wanted)


@pytest.mark.parametrize(
    ("rule", "matches"),
    [
        pytest.param({}, True, id="all"),
        pytest.param(
            {"group": "apps", "kind": "Deployment", "namespace": "shop", "name": "web"}, True, id="everything"
        ),
        pytest.param({"group": ""}, False, id="another group"),
        pytest.param({"kind": "StatefulSet"}, False, id="another kind"),
        pytest.param({"namespace": "other"}, False, id="another namespace"),
        pytest.param({"name": "api"}, False, id="another name"),
        pytest.param({"labels": {"app": "web"}}, True, id="some labels"),
        pytest.param({"labels": {"app": "web", "tier": "front"}}, False, id="a label too many"),
        pytest.param({"labels": {"app": "api"}}, False, id="another label"),
    ],
)
def test_a_rule_matches_the_object_as_git_has_it(rule: dict[str, Any], matches: bool) -> None:
    rules = [IgnoreRule(**rule, paths=("/spec/replicas",)), IgnoreRule(paths=("/data",))]
    assert pointers(rules, DESIRED) == (("/spec/replicas",) if matches else ()) + ("/data",)


ROLE: dict[str, Any] = {
    "apiVersion": "rbac.authorization.k8s.io/v1",
    "kind": "ClusterRole",
    "metadata": {"name": "monitoring"},
    "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"monitoring": "yes"}}]},
    "rules": [],
}


def test_rules_of_an_aggregated_role_are_not_sent_at_its_creation() -> None:
    assert pointers((), ROLE) == ("/rules",)
    assert "rules" not in body_for(ROLE, None, pointers((), ROLE))


def test_a_role_that_becomes_an_aggregated_one_keeps_the_rules_that_only_git_gave_it() -> None:
    rules = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]
    metadata: dict[str, Any] = {"name": "monitoring", "uid": "u1", "resourceVersion": "7"}
    metadata["managedFields"] = [entry({"f:rules": {}})]
    seen = {**ROLE, "rules": rules, "metadata": metadata}
    assert body_for(ROLE, seen, pointers((), ROLE))["rules"] == rules
    metadata["managedFields"] = [entry({"f:rules": {}}), entry({"f:rules": {}}, "clusterrole-aggregation-controller")]
    assert "rules" not in body_for(ROLE, seen, pointers((), ROLE))


def test_a_plain_role_sends_its_rules() -> None:
    plain = {name: value for name, value in ROLE.items() if name != "aggregationRule"}
    assert pointers((), plain) == ()
