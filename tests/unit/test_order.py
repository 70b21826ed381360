"""The order in which a slice's objects are applied."""

from typing import Any

import pytest
import yaml

from agent.apply import order
from agent.apply.order import Order
from proto.objects import ObjectKey, key_of


def manifests(text: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(text))


def order_of(**bundles: str) -> Order:
    return order.order(
        {name: {key_of(obj): order.traits(obj) for obj in manifests(text)} for name, text in bundles.items()}
    )


def names(found: Order) -> list[list[str]]:
    """The phases of bundle shop."""
    return [[key.name for key in phase] for step in found.steps["shop"] for phase in step.phases]


def waits(found: Order, name: str) -> list[str]:
    """What an object of bundle shop has to wait for, beside its turn."""
    waited: set[ObjectKey] = set()
    for step in found.steps["shop"]:
        waited |= step.after
        for key in (key for phase in step.phases for key in phase if key.name == name):
            return sorted(other.name for other in waited | found.needs.get(key, frozenset()))
    raise AssertionError(f"{name} never has its turn")


EVERYTHING = """
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {name: webhook}
---
apiVersion: example.org/v1
kind: Widget
metadata: {name: widget, namespace: shop}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
---
apiVersion: v1
kind: Service
metadata: {name: service, namespace: shop}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: account, namespace: shop}
---
apiVersion: v1
kind: Secret
metadata: {name: secret, namespace: shop}
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.example.org}
spec: {group: example.org, names: {kind: Widget}}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: ingress, namespace: shop}
---
apiVersion: v1
kind: Namespace
metadata: {name: shop}
"""


def test_kinds_come_in_the_order_in_which_they_need_each_other() -> None:
    found = order_of(shop=EVERYTHING)
    assert names(found) == [
        ["shop"],
        ["widgets.example.org"],
        ["secret", "account"],
        ["service"],
        ["web"],
        ["ingress"],
        ["widget"],
        ["webhook"],
    ]
    assert not found.stopped


def test_without_annotations_only_the_namespace_and_the_definition_are_waited_for() -> None:
    found = order_of(shop=EVERYTHING)
    in_namespace = ("account", "ingress", "secret", "service", "web")
    assert {key.name: waits(found, key.name) for key in found.needs} == {
        **{name: ["shop"] for name in in_namespace},
        "widget": ["shop", "widgets.example.org"],
    }


def test_a_custom_resource_waits_for_a_definition_in_another_bundle() -> None:
    found = order_of(
        operator="""
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.example.org}
spec: {group: example.org, names: {kind: Widget}}
""",
        shop="{apiVersion: example.org/v1, kind: Widget, metadata: {name: widget, namespace: shop}}",
    )
    assert waits(found, "widget") == ["widgets.example.org"]


def object_with(name: str, annotation: str = "", value: str = "", *, kind: str = "v1/ConfigMap") -> str:
    api_version, _, kind = kind.rpartition("/")
    annotations = f", annotations: {{{annotation}: {value!r}}}" if annotation else ""
    return f"{{apiVersion: {api_version}, kind: {kind}, metadata: {{name: {name}, namespace: shop{annotations}}}}}"


def bundle(*objects: str) -> str:
    return "\n---\n".join(objects)


@pytest.mark.parametrize("annotation", [order.PHASE_ANNOTATION, order.SYNC_WAVE_ANNOTATION])
def test_waves_go_by_number_and_each_waits_for_all_before_it(annotation: str) -> None:
    found = order_of(
        shop=bundle(
            object_with("last", annotation, "5"),
            object_with("middle"),
            object_with("first", annotation, "-3"),
        )
    )
    assert names(found) == [["first"], ["middle"], ["last"]]
    assert waits(found, "first") == []
    assert waits(found, "middle") == ["first"]
    assert waits(found, "last") == ["first", "middle"]


def test_our_own_phase_wins_over_argos_wave() -> None:
    text = (
        "{apiVersion: v1, kind: ConfigMap, metadata: {name: a, namespace: shop, annotations: "
        "{flotilla.dev/phase: '1', argocd.argoproj.io/sync-wave: '-1'}}}"
    )
    assert names(order_of(shop=bundle(text, object_with("b")))) == [["b"], ["a"]]


def test_namespaces_and_definitions_come_before_every_wave() -> None:
    found = order_of(
        shop=bundle(
            object_with("early", order.PHASE_ANNOTATION, "-10"),
            "{apiVersion: v1, kind: Namespace, metadata: {name: shop}}",
        )
    )
    assert names(found) == [["shop"], ["early"]]
    assert waits(found, "early") == ["shop"]


def test_a_dependency_is_applied_and_waited_for_even_against_the_kind_order() -> None:
    found = order_of(
        shop=bundle(
            object_with("settings", order.DEPENDS_ON_ANNOTATION, "apps/namespaces/shop/Deployment/web"),
            object_with("web", kind="apps/v1/Deployment"),
            object_with("other"),
        )
    )
    assert names(found) == [["other"], ["web"], ["settings"]]
    assert waits(found, "settings") == ["web"]
    assert waits(found, "other") == []


def test_a_dependency_in_a_later_wave_lifts_what_depends_on_it() -> None:
    found = order_of(
        shop=bundle(
            object_with("b", order.PHASE_ANNOTATION, "2"),
            object_with("a", order.DEPENDS_ON_ANNOTATION, "/namespaces/shop/ConfigMap/b"),
        )
    )
    assert names(found) == [["b"], ["a"]]


def test_a_dependency_may_be_in_another_bundle() -> None:
    found = order_of(
        shop=object_with("a", order.DEPENDS_ON_ANNOTATION, "/namespaces/shop/ConfigMap/b"), base=object_with("b")
    )
    assert waits(found, "a") == ["b"]
    assert names(found) == [["a"]]


def test_a_cluster_scoped_dependency_has_the_short_form() -> None:
    found = order_of(
        shop=bundle(
            object_with("a", order.DEPENDS_ON_ANNOTATION, "/Namespace/shop, /namespaces/shop/ConfigMap/b"),
            object_with("b"),
            "{apiVersion: v1, kind: Namespace, metadata: {name: shop}}",
        )
    )
    assert waits(found, "a") == ["b", "shop"]


CIRCLE = bundle(
    object_with("a", order.DEPENDS_ON_ANNOTATION, "/namespaces/shop/ConfigMap/b"),
    object_with("b", order.DEPENDS_ON_ANNOTATION, "/namespaces/shop/ConfigMap/a"),
    object_with("c", order.DEPENDS_ON_ANNOTATION, "/namespaces/shop/ConfigMap/a"),
    object_with("free"),
)


@pytest.mark.parametrize(
    ("text", "stopped"),
    [
        pytest.param(
            CIRCLE,
            {
                "a": "depends on itself through ConfigMap/shop/b",
                "b": "depends on itself through ConfigMap/shop/a",
                "c": "depends on ConfigMap/shop/a, which cannot be applied",
            },
            id="a circle, and what is behind it",
        ),
        pytest.param(
            bundle(object_with("a", order.DEPENDS_ON_ANNOTATION, "/namespaces/shop/ConfigMap/a"), object_with("free")),
            {"a": "depends on itself through ConfigMap/shop/a"},
            id="itself",
        ),
        pytest.param(
            bundle(
                object_with("a", order.DEPENDS_ON_ANNOTATION, "/namespaces/shop/ConfigMap/nowhere"),
                object_with("b", order.DEPENDS_ON_ANNOTATION, "/namespaces/shop/ConfigMap/a"),
                object_with("c", order.DEPENDS_ON_ANNOTATION, "/namespaces/shop/ConfigMap/b"),
                object_with("free"),
            ),
            {
                "a": "depends on ConfigMap/shop/nowhere, which this cluster's slice does not have",
                "b": "depends on ConfigMap/shop/a, which cannot be applied",
                "c": "depends on ConfigMap/shop/a, which cannot be applied",
            },
            id="missing, and what is behind it",
        ),
        pytest.param(
            bundle(object_with("a", order.PHASE_ANNOTATION, "soon"), object_with("free")),
            {"a": "annotation flotilla.dev/phase is 'soon', not an integer"},
            id="a phase that is no number",
        ),
        pytest.param(
            bundle(object_with("a", order.DEPENDS_ON_ANNOTATION, "web"), object_with("free")),
            {"a": "annotation config.kubernetes.io/depends-on has 'web'"},
            id="a reference that is none",
        ),
    ],
)
def test_what_can_never_have_its_turn_is_stopped_and_nothing_else(text: str, stopped: dict[str, str]) -> None:
    found = order_of(shop=text)
    assert names(found) == [["free"]]
    assert {key.name for key in found.stopped} == set(stopped)
    for key, message in found.stopped.items():
        assert message.startswith(f"ConfigMap/shop/{key.name}: ")
        assert stopped[key.name] in message


def test_a_definition_that_depends_on_its_own_resource_stops_both() -> None:
    found = order_of(
        shop="""
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata:
  name: widgets.example.org
  annotations: {config.kubernetes.io/depends-on: example.org/namespaces/shop/Widget/widget}
spec: {group: example.org, names: {kind: Widget}}
---
{apiVersion: example.org/v1, kind: Widget, metadata: {name: widget, namespace: shop}}
"""
    )
    assert {key.kind for key in found.stopped} == {"CustomResourceDefinition", "Widget"}


def test_a_chain_of_a_thousand_dependencies_is_no_problem() -> None:
    links = (
        object_with(f"c{n}", order.DEPENDS_ON_ANNOTATION, f"/namespaces/shop/ConfigMap/c{n - 1}")
        for n in range(1, 1000)
    )
    found = order_of(shop=bundle(*links, object_with("c0")))
    assert names(found) == [[f"c{n}"] for n in range(1000)]


def test_pruning_ranks_put_namespaces_and_definitions_last() -> None:
    keys = [key_of(obj) for obj in manifests(EVERYTHING)]
    assert [key.name for key in sorted(keys, key=order.rank, reverse=True)][-2:] == ["widgets.example.org", "shop"]
