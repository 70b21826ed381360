"""What the agent decides to do, from the slice and the inventory alone."""

import math
from collections.abc import Mapping
from dataclasses import replace

import pytest

from agent.apply import order
from agent.apply.order import Traits
from agent.apply.plan import Failure, Membership, Plan, parent_key, plan
from agent.model import Baseline, Desired, DesiredBundle, Entry
from proto.ids import Oid
from proto.messages import Health
from proto.objects import ObjectKey
from proto.slices import BundlePolicy, DriftPolicy

WRITTEN = Baseline(uid="u", resource_version="1", generation=1, managed=1, own=1, status=1)


def key(text: str) -> ObjectKey:
    """`ConfigMap/web` in namespace shop, `Deployment.apps/web`, or `Namespace/-/shop` without a namespace."""
    gk, *rest = text.split("/")
    kind, _, group = gk.partition(".")
    return ObjectKey(group=group, kind=kind, namespace="" if rest[0] == "-" else "shop", name=rest[-1])


def bundle(name: str, objects: str, **policy: object) -> DesiredBundle:
    """`objects` is `key=blob` parts; a blob is any text here."""
    parts = (part.split("=") for part in objects.split())
    return DesiredBundle(
        name=name,
        subtree=Oid("s" + name),
        rollout=f"{name}-1",
        revision="r",
        policy=BundlePolicy(name=name, **policy),  # type: ignore[arg-type]
        objects={key(text): Oid(blob) for text, blob in parts},
    )


def slice_of(*bundles: DesiredBundle, commit: str = "c") -> Desired:
    return Desired(commit=Oid(commit), seq=1, bundles={one.name: one for one in bundles})


def inventory(name: str, objects: str, *, health: Health = Health.CURRENT) -> dict[ObjectKey, Entry]:
    found = {}
    for part in objects.split():
        text, _, blob = part.partition("=")
        found[key(text)] = Entry(
            key=key(text),
            bundle=name,
            api_version="v1",
            blob=blob,
            baseline=WRITTEN if blob else None,
            health=health,
        )
    return found


def made(
    desired: Desired,
    entries: Mapping[ObjectKey, Entry],
    *,
    traits: Mapping[str, Traits] | None = None,
    failures: Mapping[str, Failure] | None = None,
    parents: Mapping[str, Membership] | None = None,
    now: float = 100.0,
) -> Plan:
    special = {key(text): own for text, own in (traits or {}).items()}
    return plan(
        desired,
        entries,
        order=order.order(
            {
                name: {one: special.get(one, Traits(api_version="v1")) for one in found.objects}
                for name, found in desired.bundles.items()
            }
        ),
        failures={key(text): failure for text, failure in (failures or {}).items()},
        parents=parents if parents is not None else {},
        now=now,
    )


def names(phases: tuple[tuple[ObjectKey, ...], ...]) -> list[str]:
    return [one.name for phase in phases for one in phase]


@pytest.mark.parametrize(
    ("entries", "applied"),
    [
        pytest.param("", ["a", "b"], id="nothing was applied yet"),
        pytest.param("ConfigMap/a=1 ConfigMap/b=1", [], id="everything is as it was applied"),
        pytest.param("ConfigMap/a=0 ConfigMap/b=1", ["a"], id="one has another blob"),
        pytest.param("ConfigMap/a ConfigMap/b=1", ["a"], id="one was never answered"),
    ],
)
def test_only_what_differs_is_applied(entries: str, applied: list[str]) -> None:
    found = made(slice_of(bundle("shop", "ConfigMap/a=1 ConfigMap/b=1")), inventory("shop", entries)).bundles["shop"]
    assert names(found.apply) == applied
    assert found.complete is (not applied)
    assert found.converged is (not applied)
    assert not found.prune


def test_without_a_slice_nothing_is_ever_done() -> None:
    entries = inventory("shop", "ConfigMap/a=1")
    assert made(Desired(commit=Oid(""), seq=0, bundles={}), entries).idle


def test_a_slice_without_bundles_prunes_everything_that_was_ours() -> None:
    found = made(slice_of(), inventory("shop", "ConfigMap/a=1 Deployment.apps/web=1"), parents={"shop": Membership()})
    assert names(found.bundles["shop"].prune) == ["web", "a"]


def test_what_git_no_longer_has_is_pruned_in_the_opposite_order() -> None:
    entries = inventory("shop", "ConfigMap/a=1 ConfigMap/old=1 Deployment.apps/old=1 Service/old=1")
    found = made(slice_of(bundle("shop", "ConfigMap/a=1")), entries).bundles["shop"]
    assert [one.kind for phase in found.prune for one in phase] == ["Deployment", "Service", "ConfigMap"]
    assert found.complete
    assert not found.converged


def test_nothing_is_pruned_before_the_new_state_is_applied() -> None:
    entries = inventory("shop", "ConfigMap/a=0 ConfigMap/old=1")
    assert not made(slice_of(bundle("shop", "ConfigMap/a=1")), entries).bundles["shop"].prune


@pytest.mark.parametrize("health", [one for one in Health if one is not Health.CURRENT])
def test_nothing_is_pruned_before_the_new_state_is_current(health: Health) -> None:
    entries = inventory("shop", "Deployment.apps/web=1", health=health) | inventory("shop", "ConfigMap/old=1")
    assert not made(slice_of(bundle("shop", "Deployment.apps/web=1")), entries).bundles["shop"].prune


def test_a_bundle_that_left_the_slice_is_pruned_while_another_is_unhealthy() -> None:
    entries = inventory("web", "Deployment.apps/web=1", health=Health.FAILED) | inventory("old", "ConfigMap/old=1")
    found = made(slice_of(bundle("web", "Deployment.apps/web=1")), entries, parents={"old": Membership()})
    assert names(found.bundles["old"].prune) == ["old"]


@pytest.mark.parametrize(
    "now_in", [pytest.param("new", id="its new bundle"), pytest.param("blocked", id="a new bundle that has to wait")]
)
def test_an_object_that_changes_bundle_is_never_deleted(now_in: str) -> None:
    depends = ("base",) if now_in == "blocked" else ()
    new = bundle(now_in, "ConfigMap/moved=2", depends_on=depends)
    base = bundle("base", "Deployment.apps/base=1")
    entries = inventory("old", "ConfigMap/moved=1") | inventory("base", "Deployment.apps/base=0")
    found = made(slice_of(new, base), entries)
    assert not any(one.prune or one.release for one in found.bundles.values())
    assert names(found.bundles[now_in].apply) == ([] if depends else ["moved"])


@pytest.mark.parametrize(
    ("policy", "pruned", "released"),
    [
        pytest.param({}, ["a"], ["ns", "crd", "volume", "claim"], id="data and definitions are let go"),
        pytest.param(
            {"destructive_prune": True}, ["volume", "claim", "a", "crd", "ns"], [], id="destructivePrune deletes all"
        ),
        pytest.param({"prune": False}, [], ["a", "ns", "crd", "volume", "claim"], id="prune: false lets all go"),
    ],
)
def test_policy_says_what_is_let_go(policy: dict[str, bool], pruned: list[str], released: list[str]) -> None:
    entries = inventory(
        "shop",
        "ConfigMap/a=1 Namespace/-/ns=1 CustomResourceDefinition.apiextensions.k8s.io/-/crd=1 "
        "PersistentVolume/-/volume=1 PersistentVolumeClaim/claim=1",
    )
    gone = made(slice_of(), entries, parents={"shop": Membership(**policy)}).bundles["shop"]  # type: ignore[arg-type]
    left = made(slice_of(bundle("shop", "", allow_empty=True, **policy)), entries).bundles["shop"]
    for found in (gone, left):
        assert sorted(names(found.prune)) == sorted(pruned)
        assert sorted(one.name for one in found.release) == sorted(released)


def test_a_bundle_that_left_with_an_unknown_policy_is_let_go_not_deleted() -> None:
    found = made(slice_of(), inventory("shop", "ConfigMap/a=1")).bundles["shop"]
    assert names((found.release,)) == ["a"]
    assert not found.prune


def test_a_deleted_object_stays_away_where_drift_is_only_reported() -> None:
    entries = inventory("shop", "ConfigMap/a=1", health=Health.NOT_FOUND)
    entries[key("ConfigMap/a")].baseline = None
    reverting = made(slice_of(bundle("shop", "ConfigMap/a=1")), entries).bundles["shop"]
    reporting = made(slice_of(bundle("shop", "ConfigMap/a=1", drift=DriftPolicy(mode="report"))), entries)
    assert names(reverting.apply) == ["a"]
    assert not reporting.bundles["shop"].apply


def test_a_failed_object_waits_for_its_time_and_stops_nothing_else() -> None:
    failures = {"ConfigMap/a": Failure(blob="1", error="no", not_before=130.0)}
    desired = slice_of(bundle("shop", "ConfigMap/a=1 ConfigMap/b=1"))
    found = made(desired, {}, failures=failures, now=129.0)
    assert names(found.bundles["shop"].apply) == ["b"]
    assert found.due_at == 130.0
    assert names(made(desired, {}, failures=failures, now=130.0).bundles["shop"].apply) == ["a", "b"]


def test_a_failed_object_is_due_at_once_when_git_changes_it() -> None:
    failures = {"ConfigMap/a": Failure(blob="1", error="no", not_before=math.inf)}
    assert names(made(slice_of(bundle("shop", "ConfigMap/a=2")), {}, failures=failures).bundles["shop"].apply) == ["a"]


def test_an_object_waits_for_what_it_needs_and_says_so() -> None:
    desired = slice_of(bundle("shop", "ConfigMap/a=1 Deployment.apps/web=1"))
    traits = {"ConfigMap/a": Traits(api_version="v1", depends_on=(key("Deployment.apps/web"),))}
    first = made(desired, {}, traits=traits).bundles["shop"]
    assert names(first.apply) == ["web"]
    assert first.waiting == {
        key("ConfigMap/a"): "ConfigMap/shop/a: waits for Deployment/shop/web, which is not applied yet"
    }
    unready = inventory("shop", "Deployment.apps/web=1", health=Health.IN_PROGRESS)
    second = made(desired, unready, traits=traits).bundles["shop"]
    assert second.waiting == {
        key("ConfigMap/a"): "ConfigMap/shop/a: waits for Deployment/shop/web, which is not Current yet"
    }
    third = made(desired, inventory("shop", "Deployment.apps/web=1"), traits=traits).bundles["shop"]
    assert names(third.apply) == ["a"]


def test_a_later_wave_waits_for_an_unchanged_object_of_an_earlier_one() -> None:
    traits = {"ConfigMap/b": Traits(api_version="v1", wave=1)}
    entries = inventory("shop", "Deployment.apps/web=1", health=Health.IN_PROGRESS)
    found = made(slice_of(bundle("shop", "Deployment.apps/web=1 ConfigMap/b=1")), entries, traits=traits)
    assert not found.bundles["shop"].apply


def test_a_stopped_object_keeps_its_bundle_from_pruning_and_is_named() -> None:
    traits = {"ConfigMap/a": Traits(api_version="v1", problem="its annotation is wrong")}
    entries = inventory("shop", "ConfigMap/b=1 ConfigMap/old=1")
    found = made(slice_of(bundle("shop", "ConfigMap/a=1 ConfigMap/b=1")), entries, traits=traits).bundles["shop"]
    assert found.stopped == {key("ConfigMap/a"): "ConfigMap/shop/a: its annotation is wrong"}
    assert not found.apply
    assert not found.prune
    assert not found.complete


@pytest.mark.parametrize(
    ("others", "entries", "message"),
    [
        pytest.param([], "", "depends on bundle base, which this cluster does not run", id="absent"),
        pytest.param(
            [bundle("base", "ConfigMap/b=1")], "", "waits for bundle base to be applied and Current", id="not applied"
        ),
        pytest.param([bundle("base", "ConfigMap/b=1")], "ConfigMap/b=1", "", id="applied and Current"),
        pytest.param(
            [bundle("base", "ConfigMap/b=1", depends_on=("shop",))], "", "depends on itself through base", id="circle"
        ),
    ],
)
def test_a_bundle_waits_for_the_bundles_it_depends_on(others: list[DesiredBundle], entries: str, message: str) -> None:
    shop = bundle("shop", "ConfigMap/a=1", depends_on=("base",))
    found = made(slice_of(shop, *others), inventory("base", entries)).bundles["shop"]
    assert message in found.blocked
    assert bool(found.blocked) is bool(message)
    assert names(found.apply) == ([] if message else ["a"])


def test_an_unhealthy_dependency_does_not_trouble_a_bundle_that_has_nothing_to_apply() -> None:
    shop = bundle("shop", "ConfigMap/a=1", depends_on=("base",))
    base = bundle("base", "Deployment.apps/b=1")
    entries = inventory("shop", "ConfigMap/a=1") | inventory("base", "Deployment.apps/b=1", health=Health.FAILED)
    assert not made(slice_of(shop, base), entries).bundles["shop"].blocked


def test_an_object_in_two_bundles_goes_to_the_first_and_is_a_problem_of_the_other() -> None:
    found = made(slice_of(bundle("b", "ConfigMap/x=2 ConfigMap/y=1"), bundle("a", "ConfigMap/x=1")), {})
    assert names(found.bundles["a"].apply) == ["x"]
    assert names(found.bundles["b"].apply) == ["y"]
    assert "bundle a has it too" in found.bundles["b"].stopped[key("ConfigMap/x")]


ONE = Membership(kinds=frozenset({"ConfigMap"}), namespaces=frozenset({"shop"}))


def test_the_parent_names_old_and_new_kinds_until_the_prune_is_done() -> None:
    desired = slice_of(bundle("shop", "ConfigMap/a=1"))
    both = made(desired, inventory("shop", "ConfigMap/a=1 Secret/old=1")).bundles["shop"]
    assert both.members == Membership(kinds=frozenset({"ConfigMap", "Secret"}), namespaces=frozenset({"shop"}))
    assert both.parent_stale
    after = made(desired, inventory("shop", "ConfigMap/a=1"), parents={"shop": both.members or Membership()}).bundles[
        "shop"
    ]
    assert after.members == ONE
    assert after.parent_stale


def test_the_parent_keeps_the_policy_for_the_day_when_the_bundle_is_gone() -> None:
    entries = inventory("shop", "ConfigMap/a=1")
    found = made(slice_of(bundle("shop", "ConfigMap/a=1", prune=False)), entries, parents={"shop": ONE})
    assert found.bundles["shop"].parent_stale
    assert found.bundles["shop"].members == replace(ONE, prune=False)


def test_a_parent_that_says_the_right_thing_is_left_alone() -> None:
    parents = {"shop": ONE}
    assert made(slice_of(bundle("shop", "ConfigMap/a=1")), inventory("shop", "ConfigMap/a=1"), parents=parents).idle


def test_the_parent_of_a_bundle_that_is_gone_goes_too() -> None:
    parents = {"old": ONE}
    assert not made(slice_of(), inventory("old", "ConfigMap/a=1"), parents=parents).bundles["old"].parent_stale
    last = made(slice_of(), {}, parents=parents).bundles["old"]
    assert last.members is None
    assert last.parent_stale
    assert last.converged


def test_a_parent_that_cannot_be_written_waits_for_its_time() -> None:
    failures = {parent_key("shop"): Failure(blob="", error="no", not_before=130.0)}
    found = plan(
        slice_of(bundle("shop", "", allow_empty=True)),
        inventory("shop", "Secret/old=1", health=Health.CURRENT),
        order=order.Order(),
        failures=failures,
        parents={},
        now=100.0,
    )
    assert not found.bundles["shop"].parent_stale
    assert names(found.bundles["shop"].prune) == ["old"]
    assert found.due_at == 130.0
