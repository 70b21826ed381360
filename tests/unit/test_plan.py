"""What the agent decides to do, from the slice and the inventory alone."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from agent.apply import order
from agent.apply.order import Stage, Traits
from agent.apply.plan import Failure, Membership, Plan, parent_key, plan
from agent.model import Baseline, Desired, DesiredBundle, Entry, Limits
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
    limits: Limits | None = None,
    suspended: Mapping[str, str] | None = None,
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
        limits=limits or Limits(),
        suspended=suspended or {},
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


WEBHOOK = "ValidatingWebhookConfiguration.admissionregistration.k8s.io/-/hook"
OPERATED = f"{WEBHOOK}=1 Widget.example.org/w=1 Deployment.apps/operator=1 ConfigMap/a=1"


@pytest.mark.parametrize(
    ("failure", "pruned"),
    [
        pytest.param(None, ["hook", "w"], id="it is to go"),
        pytest.param(Failure(blob="", error="finalizer", not_before=130.0), ["hook"], id="it is being deleted"),
        pytest.param(
            Failure(blob="", error="finalizer", not_before=130.0, tries=6), ["hook", "operator", "a"], id="it hangs"
        ),
        pytest.param(
            Failure(blob="", error="denied", not_before=130.0, permanent=True),
            ["hook", "operator", "a"],
            id="it cannot be deleted",
        ),
    ],
)
def test_a_controller_stays_until_the_custom_resources_are_gone_but_not_for_ever(
    failure: Failure | None, pruned: list[str]
) -> None:
    failures = {"Widget.example.org/w": failure} if failure is not None else {}
    arguments: dict[str, Any] = {"failures": failures, "parents": {"shop": Membership(), "other": Membership()}}
    found = made(slice_of(), inventory("shop", OPERATED), **arguments)
    assert names(found.bundles["shop"].prune) == pruned
    apart = inventory("shop", OPERATED.partition(" Deployment")[0]) | inventory("other", "Deployment.apps/operator=1")
    found = made(slice_of(), apart, **arguments)
    assert names(found.bundles["other"].prune) == (["operator"] if "operator" in pruned else [])


def test_custom_resources_of_a_bundle_that_may_not_prune_yet_hold_up_nobody() -> None:
    desired = slice_of(bundle("shop", "Deployment.apps/web=1"))
    entries = inventory("shop", "Deployment.apps/web=1 Widget.example.org/w=1", health=Health.IN_PROGRESS)
    found = made(desired, entries | inventory("old", "ConfigMap/a=1"), parents={"old": Membership()})
    assert names(found.bundles["old"].prune) == ["a"]


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


def test_the_parent_of_a_bundle_that_is_gone_stays_until_another_has_taken_its_objects_over() -> None:
    desired, entries = slice_of(bundle("new", "ConfigMap/a=2")), inventory("old", "ConfigMap/a=1")
    first = made(desired, entries, parents={"old": ONE}, suspended={"new": "Ada"})
    assert first.bundles["old"].members == ONE
    assert not first.bundles["old"].parent_stale
    dropped = made(slice_of(), entries, parents={"old": ONE})
    assert names(dropped.bundles["old"].prune) == ["a"]
    taken = made(desired, inventory("new", "ConfigMap/a=2"), parents={"old": ONE})
    assert taken.bundles["old"].members is None
    assert taken.bundles["old"].parent_stale


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


# --- hooks and Jobs -------------------------------------------------------------------------------------------------

MIGRATE = key("Job.batch/migrate")
HOOK = Traits(api_version="batch/v1", stage=Stage.BEFORE, hook=True)
GOES = replace(HOOK, cleanup=True)
WITH_HOOK = bundle("shop", "Job.batch/migrate=1 ConfigMap/a=1")


def job(
    *,
    reason: str = "JobComplete",
    health: Health = Health.CURRENT,
    finished: bool = True,
    gone: bool = False,
    blob: str = "1",
    name: str = "Job.batch/migrate",
) -> dict[ObjectKey, Entry]:
    found = inventory("shop", f"{name}={blob}", health=health)
    entry = found[key(name)]
    entry.reason, entry.finished, entry.baseline = reason, finished, None if gone else WRITTEN
    return found


RUNNING: dict[str, Any] = {"reason": "JobRunning", "finished": False}
FAILED: dict[str, Any] = {"reason": "JobFailed", "health": Health.FAILED}


@pytest.mark.parametrize(
    ("state", "applied", "why"),
    [
        pytest.param(None, ["migrate"], "not applied yet", id="it was not made"),
        pytest.param({"blob": "0"}, ["migrate"], "not applied yet", id="an older one succeeded"),
        pytest.param(
            {"reason": "JobNotStarted", "health": Health.IN_PROGRESS, "finished": False},
            [],
            "not Current yet",
            id="new",
        ),
        pytest.param(RUNNING, [], "not complete yet", id="it runs"),
        pytest.param(FAILED, [], "Failed", id="it failed"),
        pytest.param(FAILED | {"gone": True}, [], "Failed", id="it failed and its time to live is over"),
        pytest.param({}, ["a"], "", id="it succeeded"),
        pytest.param({"gone": True}, ["a"], "", id="it succeeded and is gone"),
        pytest.param({"gone": True, "reason": "Finished"}, ["a"], "", id="as a restarted agent knows it"),
        pytest.param({"reason": "JobSuspended", "finished": False}, ["a"], "", id="it is suspended"),
    ],
)
def test_what_follows_a_hook_waits_until_it_succeeded(
    state: dict[str, Any] | None, applied: list[str], why: str
) -> None:
    entries = job(**state) if state is not None else {}
    found = made(slice_of(WITH_HOOK), entries, traits={"Job.batch/migrate": HOOK}).bundles["shop"]
    assert names(found.apply) == applied
    waiting = {key("ConfigMap/a"): f"ConfigMap/shop/a: waits for Job/shop/migrate, which is {why}"} if why else {}
    assert found.waiting == waiting


def test_a_failed_hook_holds_up_its_own_bundle_and_no_other() -> None:
    desired = slice_of(WITH_HOOK, bundle("other", "ConfigMap/o=1"))
    found = made(desired, job(**FAILED), traits={"Job.batch/migrate": HOOK})
    assert names(found.bundles["other"].apply) == ["o"]


@pytest.mark.parametrize(
    ("own", "converged"),
    [pytest.param(HOOK, False, id="a hook"), pytest.param(Traits(api_version="batch/v1"), True, id="an ordinary Job")],
)
def test_a_running_hook_is_unfinished_and_a_running_job_is_current(own: Traits, converged: bool) -> None:
    entries = job(**RUNNING) | inventory("shop", "ConfigMap/a=1 ConfigMap/old=1")
    found = made(slice_of(WITH_HOOK), entries, traits={"Job.batch/migrate": own}).bundles["shop"]
    assert found.complete
    assert found.unfinished == (frozenset() if converged else {MIGRATE})
    assert names(found.prune) == (["old"] if converged else [])
    del entries[key("ConfigMap/old")]
    found = made(slice_of(WITH_HOOK), entries, traits={"Job.batch/migrate": own}).bundles["shop"]
    assert found.converged is converged


@pytest.mark.parametrize(
    "own",
    [
        pytest.param(Traits(api_version="v1", wave=1), id="a later wave"),
        pytest.param(Traits(api_version="v1", depends_on=(MIGRATE,)), id="depends-on"),
    ],
)
@pytest.mark.parametrize("runs", [True, False])
def test_whoever_waits_for_an_ordinary_job_waits_until_it_is_complete(own: Traits, runs: bool) -> None:
    found = made(slice_of(WITH_HOOK), job(**(RUNNING if runs else {})), traits={"ConfigMap/a": own})
    assert names(found.bundles["shop"].apply) == ([] if runs else ["a"])


@pytest.mark.parametrize("runs", [True, False])
def test_a_bundle_waits_for_the_jobs_of_the_bundle_it_depends_on(runs: bool) -> None:
    desired = slice_of(bundle("shop", "Job.batch/migrate=1"), bundle("top", "ConfigMap/a=1", depends_on=("shop",)))
    found = made(desired, job(**(RUNNING if runs else {}))).bundles["top"]
    assert bool(found.blocked) is runs


def test_a_pod_of_a_hook_is_done_when_it_succeeded_and_not_when_it_is_ready() -> None:
    desired = slice_of(bundle("shop", "Pod/check=1 ConfigMap/a=1"))
    for reason, finished, applied in (("", False, []), ("PodFailed", False, []), ("PodSucceeded", True, ["a"])):
        entries = job(name="Pod/check", reason=reason, finished=finished)
        found = made(desired, entries, traits={"Pod/check": HOOK}).bundles["shop"]
        assert names(found.apply) == applied, reason


@pytest.mark.parametrize(
    ("own", "state", "finish", "unfinished"),
    [
        pytest.param(GOES, {}, True, True, id="it succeeded"),
        pytest.param(GOES, {"gone": True}, False, False, id="and is gone"),
        pytest.param(GOES, RUNNING, False, True, id="it runs"),
        pytest.param(GOES, FAILED, False, True, id="it failed: people want to see why"),
        pytest.param(HOOK, {}, False, False, id="no such policy"),
        pytest.param(GOES, {"blob": "0"}, False, False, id="an older one succeeded"),
    ],
)
def test_a_hook_is_deleted_once_it_succeeded(
    own: Traits, state: dict[str, Any], finish: bool, unfinished: bool
) -> None:
    entries = job(**state) | inventory("shop", "ConfigMap/a=1")
    found = made(slice_of(WITH_HOOK), entries, traits={"Job.batch/migrate": own}).bundles["shop"]
    assert found.finish == ((MIGRATE,) if finish else ())
    assert found.unfinished == ({MIGRATE} if unfinished else set())
    if finish:
        assert not found.idle
        assert not found.converged


def test_a_hook_whose_deletion_failed_waits_for_its_time() -> None:
    failures = {"Job.batch/migrate": Failure(blob="", error="no", not_before=130.0)}
    found = made(slice_of(WITH_HOOK), job(), traits={"Job.batch/migrate": GOES}, failures=failures)
    assert not found.bundles["shop"].finish
    assert found.due_at == 130.0


def test_what_is_left_out_is_not_applied_and_not_waited_for_and_pruned_if_it_was_ours() -> None:
    traits = {"Job.batch/migrate": replace(HOOK, stage=Stage.NEVER, hook=False)}
    found = made(slice_of(WITH_HOOK), inventory("shop", "ConfigMap/a=1"), traits=traits).bundles["shop"]
    assert not found.apply
    assert found.converged
    assert found.members == Membership(kinds=frozenset({"ConfigMap"}), namespaces=frozenset({"shop"}))
    found = made(slice_of(WITH_HOOK), job() | inventory("shop", "ConfigMap/a=1"), traits=traits).bundles["shop"]
    assert names(found.prune) == ["migrate"]


def test_an_object_with_its_own_drift_mode_stays_away_when_somebody_deletes_it() -> None:
    entries = inventory("shop", "ConfigMap/a=1 ConfigMap/b=1")
    for entry in entries.values():
        entry.baseline = None
    traits = {"ConfigMap/a": Traits(api_version="v1", mode="report")}
    found = made(slice_of(bundle("shop", "ConfigMap/a=1 ConfigMap/b=1")), entries, traits=traits)
    assert names(found.bundles["shop"].apply) == ["b"]
    traits = {"ConfigMap/a": Traits(api_version="v1", mode="revert")}
    told = bundle("shop", "ConfigMap/a=1 ConfigMap/b=1", drift=DriftPolicy(mode="report"))
    assert names(made(slice_of(told), entries, traits=traits).bundles["shop"].apply) == ["a"]


# --- the cluster's owner --------------------------------------------------------------------------------------------


def test_what_the_guard_forbids_is_neither_applied_nor_pruned_and_said() -> None:
    limits = Limits(forbidden_kinds=("Secret",), protected_namespaces=("kube-*",))
    entries = inventory("shop", "ConfigMap/a=1 Secret/old=1 ConfigMap/old=1")
    desired = slice_of(bundle("shop", "ConfigMap/a=1 Secret/new=1", destructive_prune=True))
    found = made(desired, entries, limits=limits).bundles["shop"]
    assert not found.apply
    assert found.stopped == {
        key("Secret/new"): "Secret/shop/new: the guard ConfigMap of this cluster forbids Secret "
        "(change the guard ConfigMap, or take it out of the bundle)",
        key("Secret/old"): "Secret/shop/old: is not pruned: the guard ConfigMap of this cluster forbids Secret "
        "(change the guard ConfigMap, or remove the object yourself)",
    }
    gone = made(slice_of(), entries, limits=limits, parents={"shop": Membership()}).bundles["shop"]
    assert names(gone.prune) == ["a", "old"]
    assert gone.stopped.keys() == {key("Secret/old")}
    assert not gone.converged


def test_what_is_forbidden_and_applied_already_is_left_as_it_is() -> None:
    limits = Limits(forbidden_kinds=("ConfigMap",))
    found = made(slice_of(bundle("shop", "ConfigMap/a=1")), inventory("shop", "ConfigMap/a=1"), limits=limits)
    assert found.bundles["shop"].converged
    assert not found.bundles["shop"].stopped


def test_a_closed_cluster_is_not_written_at_all() -> None:
    limits = Limits(closed="the guard ConfigMap of this cluster cannot be read")
    entries = job() | inventory("shop", "ConfigMap/old=1")
    desired = slice_of(WITH_HOOK, bundle("other", "ConfigMap/o=1"))
    found = made(desired, entries, limits=limits, traits={"Job.batch/migrate": GOES}, parents={"gone": Membership()})
    assert found.idle
    assert all(text.endswith("cannot be read") for one in found.bundles.values() for text in one.stopped.values())
    assert found.bundles["other"].stopped


def shop(count: int, name: str = "shop", *, kind: str = "ConfigMap") -> str:
    return " ".join(f"{kind}/{name}{number}=1" for number in range(count))


@pytest.mark.parametrize(
    ("share", "pruned"),
    [pytest.param(0.29, False, id="above the share"), pytest.param(0.3, True, id="just the share")],
)
@pytest.mark.parametrize(
    "state",
    [
        pytest.param({}, id="at once"),
        pytest.param({"waits": "apply"}, id="while one of the bundles has to wait"),
        pytest.param({"waits": "failure"}, id="while some deletions are to be tried again"),
    ],
)
def test_more_than_the_largest_share_is_not_pruned_in_small_steps_either(
    share: float, pruned: bool, state: dict[str, str]
) -> None:
    desired = slice_of(
        bundle("shop", shop(3)), bundle("other", "Deployment.apps/o=1 ConfigMap/x=1 " + shop(2, "other"))
    )
    entries = inventory("shop", shop(4)) | inventory("other", "Deployment.apps/o=1 ConfigMap/x=1 " + shop(4, "other"))
    failures = {}
    if state.get("waits") == "apply":
        entries[key("ConfigMap/x")].blob = "0"
    elif state.get("waits") == "failure":
        failures = {"ConfigMap/other2": Failure(blob="", error="busy", not_before=200.0)}
    found = made(desired, entries, limits=Limits(max_pruned_share=share), failures=failures)
    assert any(one.prune for one in found.bundles.values()) is pruned
    for name, one in found.bundles.items():
        if pruned:
            assert one.kept is None
        else:
            assert one.kept is not None
            assert one.kept.reason == "PruneLimit"
            assert one.kept.message == (
                f"bundle {name}: nothing is pruned: of 10 objects 3 would be deleted, and the guard ConfigMap of this "
                "cluster allows 29% at once (take fewer out of Git at a time, or raise it there)"
            )


def test_what_is_let_go_is_no_deletion() -> None:
    limits = Limits(max_pruned_share=0.0)
    entries = inventory("shop", "ConfigMap/a=1 PersistentVolumeClaim/data=1")
    found = made(slice_of(bundle("shop", "ConfigMap/a=1")), entries, limits=limits).bundles["shop"]
    assert names((found.release,)) == ["data"]
    assert found.kept is None


def test_once_allowed_a_prune_comes_to_its_end_though_the_share_changes_on_the_way() -> None:
    limits = Limits(max_pruned_share=0.5)
    kept, claims = shop(4, "kept"), shop(3, "claim", kind="PersistentVolumeClaim")
    entries = inventory("shop", f"{kept} {shop(4, 'old')} {claims}")
    desired = slice_of(bundle("shop", kept))
    while True:
        found = made(desired, entries, limits=limits).bundles["shop"]
        assert found.kept is None
        if not found.surplus:
            break
        done = found.release or found.prune[0]
        del entries[done[0]]


def test_new_objects_count_before_they_are_made_so_that_a_renamed_bundle_is_not_refused_for_a_moment() -> None:
    entries = inventory("shop", shop(4, "old"))
    found = made(slice_of(bundle("shop", shop(4, "new"))), entries, limits=Limits(max_pruned_share=0.5))
    assert found.bundles["shop"].kept is None


@pytest.mark.parametrize("in_slice", [True, False])
def test_nothing_of_a_suspended_bundle_is_written(in_slice: bool) -> None:
    desired = slice_of(WITH_HOOK) if in_slice else slice_of()
    entries = job() | inventory("shop", "ConfigMap/old=1")
    arguments: dict[str, Any] = {"traits": {"Job.batch/migrate": GOES}, "parents": {"shop": Membership()}}
    found = made(desired, entries, suspended={"shop": "Ada: looks at it"}, **arguments)
    assert found.idle
    assert found.due_at == math.inf
    assert found.bundles["shop"].suspended == "Ada: looks at it"
    assert not made(desired, entries, suspended={"other": "Ada"}, **arguments).idle


def test_a_suspended_bundle_that_is_done_holds_up_nobody_and_one_that_is_not_does() -> None:
    desired = slice_of(bundle("base", "ConfigMap/b=1"), bundle("shop", "ConfigMap/a=1", depends_on=("base",)))
    suspended = {"base": "Ada: looks at it"}
    assert made(desired, {}, suspended=suspended).bundles["shop"].blocked
    done = made(desired, inventory("base", "ConfigMap/b=1"), suspended=suspended)
    assert names(done.bundles["shop"].apply) == ["a"]
    assert done.bundles["base"].converged


def test_a_bundle_that_is_empty_by_mistake_keeps_what_it_had_and_says_so() -> None:
    entries = inventory("shop", "ConfigMap/a=1 PersistentVolumeClaim/data=1")
    found = made(slice_of(bundle("shop", "")), entries).bundles["shop"]
    assert not found.prune
    assert not found.release
    assert not found.converged
    assert found.kept is not None
    assert (found.kept.reason, found.kept.message) == (
        "Empty",
        "bundle shop is empty in the slice; nothing is pruned unless the bundle says allowEmpty: true",
    )
    meant = made(slice_of(bundle("shop", "", allow_empty=True)), entries).bundles["shop"]
    assert names(meant.prune) == ["a"]
    assert meant.kept is None


def test_a_bundle_whose_objects_all_moved_away_is_rightly_empty() -> None:
    found = made(slice_of(bundle("new", "ConfigMap/a=1"), bundle("old", "")), inventory("old", "ConfigMap/a=1"))
    assert found.bundles["old"].kept is None
    assert found.bundles["old"].converged


def test_who_waits_for_a_shared_object_waits_for_the_bundle_that_has_it() -> None:
    desired = slice_of(bundle("a", "ConfigMap/x=1"), bundle("b", "ConfigMap/x=2 ConfigMap/y=1"))
    traits = {"ConfigMap/y": Traits(api_version="v1", depends_on=(key("ConfigMap/x"),))}
    assert names(made(desired, inventory("a", "ConfigMap/x=1"), traits=traits).bundles["b"].apply) == ["y"]
