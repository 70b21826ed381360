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


def hook(name: str, *, kind: str = "batch/v1/Job", **annotations: str) -> str:
    """`helm_hook="…"` is annotation `helm.sh/hook`, `argo_hook="…"` Argo CD's; likewise for the others."""
    full = {
        "helm_hook": order.HELM_HOOK_ANNOTATION,
        "helm_weight": order.HELM_WEIGHT_ANNOTATION,
        "helm_deletion": order.HELM_DELETION_ANNOTATION,
        "argo_hook": order.ARGO_HOOK_ANNOTATION,
        "argo_deletion": order.ARGO_DELETION_ANNOTATION,
        "wave": order.SYNC_WAVE_ANNOTATION,
    }
    api_version, _, kind = kind.rpartition("/")
    metadata = {
        "name": name,
        "namespace": "shop",
        "annotations": {full[key]: text for key, text in annotations.items()},
    }
    return yaml.safe_dump({"apiVersion": api_version, "kind": kind, "metadata": metadata})


NAMESPACE = "{apiVersion: v1, kind: Namespace, metadata: {name: shop}}"


def test_hooks_come_before_and_after_the_rest_and_each_step_waits_for_those_before_it() -> None:
    found = order_of(
        shop=bundle(
            hook("smoke", helm_hook="post-install, post-upgrade"),
            object_with("web", kind="apps/v1/Deployment"),
            object_with("early", order.SYNC_WAVE_ANNOTATION, "-9"),
            hook("migrate", helm_hook="Pre-Install,PRE-UPGRADE", helm_weight="1"),
            hook("account", helm_hook="pre-install", helm_weight="-5", kind="v1/ServiceAccount"),
            NAMESPACE,
        )
    )
    assert names(found) == [["shop"], ["account"], ["migrate"], ["early"], ["web"], ["smoke"]]
    assert waits(found, "account") == ["shop"]
    assert waits(found, "migrate") == ["account", "shop"]
    assert waits(found, "early") == ["account", "migrate", "shop"]
    assert waits(found, "smoke") == ["account", "early", "migrate", "shop", "web"]
    assert {key.name for key in found.hooks["shop"]} == {"migrate", "smoke"}


@pytest.mark.parametrize(
    ("annotations", "stage"),
    [
        pytest.param({"helm_hook": "pre-install"}, "BEFORE", id="before an install"),
        pytest.param({"helm_hook": "pre-upgrade"}, "BEFORE", id="before an upgrade"),
        pytest.param({"helm_hook": "post-upgrade"}, "AFTER", id="after an upgrade"),
        pytest.param({"helm_hook": "post-install,pre-upgrade"}, "AFTER", id="needs what the install makes"),
        pytest.param({"helm_hook": "post-install,post-delete"}, "AFTER", id="and at the end, which we do not run"),
        pytest.param({"helm_hook": "crd-install"}, "MAIN", id="no hook since Helm 3"),
        pytest.param({"helm_hook": " "}, "MAIN", id="empty"),
        pytest.param({"helm_hook": "test"}, "NEVER", id="a test"),
        pytest.param({"helm_hook": "test-success,test-failure"}, "NEVER", id="tests of Helm 2"),
        pytest.param({"helm_hook": "pre-delete, post-rollback"}, "NEVER", id="deletion and rollback"),
        pytest.param({"argo_hook": "PreSync"}, "BEFORE", id="Argo: before"),
        pytest.param({"argo_hook": "Sync"}, "MAIN", id="Argo: beside"),
        pytest.param({"argo_hook": "PostSync"}, "AFTER", id="Argo: after"),
        pytest.param({"argo_hook": "SyncFail"}, "NEVER", id="Argo: after a failure"),
        pytest.param({"argo_hook": "Skip"}, "NEVER", id="Argo: skipped"),
        pytest.param({"argo_hook": "PostSync", "helm_hook": "pre-install"}, "AFTER", id="Argo's word wins"),
    ],
)
def test_a_hook_has_its_stage(annotations: dict[str, str], stage: str) -> None:
    (own,) = (order.traits(obj) for obj in manifests(hook("a", **annotations)))
    assert (own.stage.name, own.problem) == (stage, "")


@pytest.mark.parametrize(
    ("text", "runs", "cleanup"),
    [
        pytest.param(hook("a", helm_hook="pre-install"), True, False, id="a Job"),
        pytest.param(hook("a", helm_hook="pre-install", kind="v1/Pod"), True, False, id="a Pod"),
        pytest.param(hook("a", argo_hook="Sync"), True, False, id="a Job beside the rest"),
        pytest.param(hook("a", helm_hook="pre-install", kind="v1/ConfigMap"), False, False, id="it does not run"),
        pytest.param(hook("a", helm_hook="pre-install", kind="example.org/v1/Job"), False, False, id="another's Job"),
        pytest.param(hook("a"), False, False, id="no hook"),
        pytest.param(hook("a", helm_deletion="hook-succeeded"), False, False, id="a policy without a hook"),
        pytest.param(hook("a", helm_hook="test"), False, False, id="left out"),
        pytest.param(
            hook("a", helm_hook="pre-install", helm_deletion="before-hook-creation,hook-succeeded"),
            True,
            True,
            id="both",
        ),
        pytest.param(
            hook("a", helm_hook="pre-install", helm_deletion="hook-failed"), True, False, id="failed ones stay"
        ),
        pytest.param(hook("a", argo_hook="PreSync", argo_deletion="HookSucceeded"), True, True, id="Argo's word"),
    ],
)
def test_what_runs_is_a_hook_and_may_go_once_it_succeeded(text: str, runs: bool, cleanup: bool) -> None:
    (own,) = (order.traits(obj) for obj in manifests(text))
    assert (own.hook, own.cleanup) == (runs, cleanup)


def test_a_sync_wave_wins_over_a_hooks_weight_which_counts_for_hooks_alone() -> None:
    weighed = object_with("b", order.HELM_WEIGHT_ANNOTATION, "-7")
    hooks = (
        hook("x", helm_hook="pre-install", helm_weight="9", wave="1"),
        hook("y", helm_hook="pre-install", wave="2"),
    )
    assert names(order_of(shop=bundle(*hooks, weighed, object_with("a")))) == [["x"], ["y"], ["a", "b"]]


def test_what_is_left_out_has_no_turn_and_is_no_dependency() -> None:
    found = order_of(
        shop=bundle(
            hook("check", helm_hook="test"),
            object_with("a", order.DEPENDS_ON_ANNOTATION, "batch/namespaces/shop/Job/check"),
            object_with("free"),
        )
    )
    assert names(found) == [["free"]]
    assert {key.name for key in found.left_out["shop"]} == {"check"}
    (message,) = found.stopped.values()
    assert "depends on Job/shop/check, which is a hook that is left out" in message


def test_what_follows_waits_for_what_can_never_have_its_turn() -> None:
    found = order_of(shop=bundle(hook("migrate", helm_hook="pre-install", helm_weight="soon"), object_with("web")))
    assert {key.name for key in found.stopped} == {"migrate"}
    assert waits(found, "web") == ["migrate"]


def test_a_word_that_is_no_hook_stops_the_object_and_is_named() -> None:
    found = order_of(shop=bundle(hook("a", helm_hook="post-install, pre-instal"), object_with("free")))
    assert names(found) == [["free"]]
    (message,) = found.stopped.values()
    assert message == "Job/shop/a: annotation helm.sh/hook has 'pre-instal', which is no hook"


@pytest.mark.parametrize(("text", "mode"), [("report", "report"), ("ignore", "ignore"), ("often", None)])
def test_an_object_may_have_its_own_drift_mode(text: str, mode: str | None) -> None:
    found = order_of(shop=bundle(object_with("a", "flotilla.dev/drift", text), object_with("b")))
    assert {key.name: own for key, own in found.modes.items()} == ({"a": mode} if mode else {})


def test_of_an_object_in_two_bundles_the_first_ones_traits_count() -> None:
    late = object_with("a", order.PHASE_ANNOTATION, "7")
    found = order_of(zoo=bundle(late, object_with("z")), shop=bundle(object_with("a"), object_with("b")))
    assert names(found) == [["a", "b"]]
    assert {key.name: name for key, name in found.shared.items()} == {"a": "shop"}


def test_objects_that_wait_for_the_same_share_one_set() -> None:
    objects = (object_with(f"c{n}", order.PHASE_ANNOTATION, str(n % 10)) for n in range(2000))
    found = order_of(shop=bundle(*objects, NAMESPACE))
    assert len({id(needs) for needs in found.needs.values()}) == 1


@pytest.mark.parametrize(
    ("annotations", "spec", "expires"),
    [
        pytest.param({}, {"ttlSecondsAfterFinished": 0}, True, id="with a time to live"),
        pytest.param({}, {}, False, id="without"),
        pytest.param(
            {"helm_hook": "pre-install"}, {"ttlSecondsAfterFinished": 0}, False, id="a hook: its end must be seen"
        ),
    ],
)
def test_an_ordinary_job_with_a_time_to_live_may_be_gone(
    annotations: dict[str, str], spec: dict[str, int], expires: bool
) -> None:
    (manifest,) = manifests(hook("a", **annotations))
    assert order.traits({**manifest, "spec": spec}).expires is expires
