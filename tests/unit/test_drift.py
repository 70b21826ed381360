"""Drift from literal `managedFields`: what is suspicious, what a repair proves, and who did it."""

from typing import Any

import pytest
import yaml

from agent.drift import drift
from agent.drift.drift import Suspicion
from agent.fields import ownership, steal
from proto.slices import DriftPolicy

OURS = "{manager: flotilla, operation: Apply, apiVersion: apps/v1, time: '2026-01-01T00:00:00Z', fieldsV1: %s}"
EDIT = "{manager: kubectl-edit, operation: Update, apiVersion: apps/v1, time: '2026-01-02T00:00:00Z', fieldsV1: %s}"
STATUS = (
    "{manager: kube-controller-manager, operation: Update, subresource: status, apiVersion: apps/v1,"
    " time: '2026-01-03T00:00:00Z', fieldsV1: {f:status: {f:replicas: {}}}}"
)

SPEC = "{f:spec: {f:replicas: {}}}"


def obj(*entries: str, version: int = 1, generation: int = 1, uid: str = "u") -> dict[str, Any]:
    metadata: dict[str, Any] = {
        "uid": uid,
        "resourceVersion": str(version),
        "managedFields": [yaml.safe_load(entry) for entry in entries],
    }
    return {"metadata": {**metadata, "generation": generation} if generation else metadata}


def paths(text: str) -> ownership.Paths:
    return ownership.owned({"fieldsV1": yaml.safe_load(text)})


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        pytest.param(obj(OURS % SPEC), obj(), None, id="the resourceVersion that we know"),
        pytest.param(obj(OURS % SPEC), obj(OURS % SPEC, version=2, uid="v"), Suspicion.RECREATED, id="another uid"),
        pytest.param(
            obj(OURS % SPEC), obj(OURS % SPEC, version=2, generation=2), Suspicion.GENERATION, id="generation"
        ),
        pytest.param(
            obj(OURS % SPEC), obj(OURS % "{f:spec: {}}", version=2), Suspicion.OWNERSHIP, id="we own other fields"
        ),
        pytest.param(obj(OURS % SPEC), obj(version=2), Suspicion.OWNERSHIP, id="our entry is gone"),
        pytest.param(
            obj(OURS % SPEC), obj(OURS % SPEC, EDIT % "{f:metadata: {}}", version=2), Suspicion.FIELDS, id="an addition"
        ),
        pytest.param(
            obj(OURS % SPEC),
            obj((OURS % SPEC).replace("01-01", "01-04"), version=2),
            Suspicion.FIELDS,
            id="an apply under our name",
        ),
        pytest.param(obj(OURS % SPEC), obj(OURS % SPEC, STATUS, version=2), None, id="status"),
        pytest.param(
            obj(OURS % SPEC, EDIT % "{f:status: {f:ready: {}}}"),
            obj(OURS % SPEC, EDIT % "{f:status: {f:ready: {}, f:more: {}}}", version=2),
            None,
            id="status without its subresource",
        ),
        pytest.param(
            obj(OURS % SPEC), obj(OURS % SPEC, version=2), None, id="nothing but the version, with generation"
        ),
        pytest.param(
            obj(OURS % SPEC, generation=0),
            obj(OURS % SPEC, version=2, generation=0),
            Suspicion.CONTENT,
            id="only the version, without generation",
        ),
        pytest.param(
            obj(OURS % SPEC, generation=0),
            obj(OURS % SPEC, STATUS, version=2, generation=0),
            None,
            id="status, without generation",
        ),
    ],
)
def test_an_event_is_suspicious_by_the_table(
    before: dict[str, Any], after: dict[str, Any], expected: Suspicion | None
) -> None:
    assert drift.suspicion(drift.baseline(before), after) is expected


def test_a_label_of_ours_that_admission_changed_in_passing_is_suspicious() -> None:
    fields = "{f:metadata: {f:labels: {f:a: {}}, f:annotations: {f:n: {}}}}"
    before, same, after = (obj(OURS % fields, version=version) for version in (1, 2, 3))
    before["metadata"] |= {"labels": {"a": "x", "b": "theirs"}, "annotations": {"n": "y"}}
    same["metadata"] |= {"labels": {"a": "x", "b": "other"}, "annotations": {"n": "y"}}
    after["metadata"] |= {"labels": {"a": "x"}, "annotations": {"n": "mutated"}}
    assert drift.suspicion(drift.baseline(before), same) is None
    assert drift.suspicion(drift.baseline(before), after) is drift.Suspicion.FIELDS


def test_a_baseline_depends_on_no_order_of_keys_and_is_the_same_in_every_process() -> None:
    one = obj(OURS % "{f:spec: {f:a: {}, f:b: {}}}", STATUS)
    other = obj(OURS % "{f:spec: {f:b: {}, f:a: {}}}", STATUS)
    assert drift.baseline(one) == drift.baseline(other)
    assert drift.baseline(obj(OURS % SPEC)).own == 5793630710203206109


@pytest.mark.parametrize(
    ("annotations", "expected"),
    [
        pytest.param("", "report", id="none: as the bundle says"),
        pytest.param("annotations: {flotilla.dev/drift: revert}", "revert", id="its own"),
        pytest.param("annotations: {flotilla.dev/drift: ignore}", "ignore", id="ignored"),
        pytest.param("annotations: {flotilla.dev/drift: sometimes}", "report", id="a word that is no mode"),
        pytest.param("annotations: null", "report", id="null annotations"),
    ],
)
def test_an_object_may_have_a_mode_of_its_own(annotations: str, expected: str) -> None:
    desired = yaml.safe_load(f"metadata: {{name: web, {annotations}}}")
    assert drift.mode_of(DriftPolicy(mode="report"), desired) == expected


def test_an_update_under_our_name_is_not_ours() -> None:
    forged = (OURS % SPEC).replace("Apply", "Update")
    assert ownership.own_entry(obj(forged)) is None
    assert len(ownership.foreign(obj(forged, STATUS))) == 1


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("{f:spec: {f:replicas: {}}}", id="a leaf"),
        pytest.param("{f:metadata: {f:labels: {.: {}, f:app: {}}}}", id="a map and its key"),
        pytest.param("""{f:c: {'k:{"name":"a"}': {.: {}, f:image: {}}, 'v:"x"': {}, 'i:0': {}}}""", id="lists"),
        pytest.param("{}", id="nothing"),
    ],
)
def test_a_set_of_paths_becomes_the_same_fields_again(text: str) -> None:
    assert ownership.to_fields(paths(text)) == yaml.safe_load(text)


def test_paths_are_shown_as_the_api_server_shows_them() -> None:
    shown = ownership.render(
        paths(
            """
            f:metadata: {f:finalizers: {'v:"a/b"': {}}}
            f:spec: {f:containers: {'k:{"name":"app"}': {.: {}, f:image: {}, f:args: {'i:1': {}}}}}
            f:ports: {'k:{"protocol":"TCP","containerPort":80}': {f:name: {}}}
            """
        )
    )
    assert shown == (
        '.metadata.finalizers[="a/b"]',
        '.ports[containerPort=80,protocol="TCP"].name',
        '.spec.containers[name="app"]',
    )


@pytest.mark.parametrize(
    ("before", "after", "repaired"),
    [
        pytest.param(obj(OURS % SPEC, version=2), obj(OURS % SPEC, version=2), False, id="nothing was written"),
        pytest.param(
            obj(OURS % SPEC, EDIT % SPEC, version=2),
            obj(OURS % SPEC, EDIT % SPEC, STATUS, version=3),
            False,
            id="only status was written in between",
        ),
        pytest.param(
            obj(OURS % "{}", EDIT % SPEC, version=2),
            obj((OURS % SPEC).replace("01-01", "01-04"), version=3),
            True,
            id="our entry is newer",
        ),
        pytest.param(obj(OURS % "{}", version=2), obj(OURS % SPEC, version=3), True, id="a removal, all in one second"),
        pytest.param(
            obj(OURS % SPEC, version=2, generation=0),
            obj(OURS % SPEC, version=3, generation=0),
            True,
            id="no trace, no generation, all in one second",
        ),
        pytest.param(obj(version=2), obj(OURS % SPEC, version=3), True, id="we had no entry"),
    ],
)
def test_a_repair_is_told_from_an_apply_that_did_nothing(
    before: dict[str, Any], after: dict[str, Any], repaired: bool
) -> None:
    assert drift.repaired(before, after) is repaired


@pytest.mark.parametrize(
    ("before", "after", "is_drift"),
    [
        pytest.param(
            obj(OURS % "{}", EDIT % SPEC, generation=2), obj(OURS % SPEC, generation=3), True, id="spec came back"
        ),
        pytest.param(
            obj(OURS % "{}", EDIT % SPEC, generation=2),
            obj(OURS % SPEC, EDIT % SPEC, generation=2),
            False,
            id="others still have the value beside us: it was right",
        ),
        pytest.param(
            obj(OURS % "{}", generation=2),
            obj(OURS % SPEC, generation=2),
            False,
            id="ownership was taken from us, generation stands still",
        ),
        pytest.param(
            obj(OURS % "{}", EDIT % "{f:metadata: {f:labels: {f:a: {}}}}"),
            obj(OURS % "{f:metadata: {f:labels: {f:a: {}}}}"),
            True,
            id="a label came back",
        ),
        pytest.param(
            obj(OURS % "{}", generation=0),
            obj(OURS % "{f:data: {f:a: {}}}", generation=0),
            True,
            id="data came back",
        ),
        pytest.param(
            obj(OURS % SPEC, generation=0), obj(OURS % SPEC, generation=0), True, id="a list was put in order"
        ),
        pytest.param(
            obj(OURS % "{f:data: {f:a: {}, f:b: {}}}", generation=0),
            obj(OURS % "{f:data: {f:a: {}}}", generation=0),
            True,
            id="what was applied under our name is gone",
        ),
        pytest.param(obj(OURS % SPEC), obj(OURS % SPEC, uid="v"), True, id="another object"),
    ],
)
def test_healed_ownership_is_told_from_drift(before: dict[str, Any], after: dict[str, Any], is_drift: bool) -> None:
    assert drift.is_drift(before, after) is is_drift


@pytest.mark.parametrize(
    ("entries", "lost", "instead", "expected"),
    [
        pytest.param([EDIT % SPEC], SPEC, "{}", "kubectl-edit", id="who holds it"),
        pytest.param([EDIT % "{f:spec: {}}"], SPEC, "{}", drift.UNKNOWN, id="who holds its parent only"),
        pytest.param([EDIT % SPEC], "{f:spec: {}}", "{}", "kubectl-edit", id="who holds its child"),
        pytest.param([EDIT % "{f:metadata: {}}"], SPEC, "{}", drift.UNKNOWN, id="who holds other things"),
        pytest.param(
            [EDIT % "{f:spec: {f:other: {}}}"], SPEC, "{f:spec: {f:other: {}}}", "kubectl-edit", id="what is instead"
        ),
        pytest.param([STATUS], "{f:status: {f:replicas: {}}}", "{}", drift.UNKNOWN, id="status is nobody's"),
        pytest.param(
            [EDIT % SPEC, (EDIT % SPEC).replace("01-02", "01-05").replace("kubectl-edit", "later")],
            SPEC,
            "{}",
            "later",
            id="the latest of two",
        ),
        pytest.param(
            [EDIT % SPEC, (EDIT % "{f:spec: {}}").replace("01-02", "01-05").replace("kubectl-edit", "later")],
            SPEC,
            "{}",
            "kubectl-edit",
            id="the very path before a later parent",
        ),
        pytest.param([EDIT % SPEC], "{}", "{}", drift.UNKNOWN, id="nothing was lost"),
    ],
)
def test_a_change_is_attributed(entries: list[str], lost: str, instead: str, expected: str) -> None:
    ((_, who),) = drift.attribute(obj(OURS % "{}", *entries), paths(lost), instead=paths(instead))
    assert who.manager == expected
    assert (who.time == "") == (expected == drift.UNKNOWN)


def test_each_writer_of_what_was_lost_is_named_with_its_part() -> None:
    bob = (EDIT % "{f:spec: {f:image: {}}}").replace("kubectl-edit", "bob").replace("01-02", "01-05")
    carol = (EDIT % "{f:spec: {f:ports: {f:other: {}}}}").replace("kubectl-edit", "carol")
    found = drift.attribute(
        obj(OURS % "{}", EDIT % SPEC, bob, carol),
        paths("{f:spec: {f:replicas: {}, f:image: {}, f:ports: {f:http: {}}}, f:metadata: {f:labels: {f:a: {}}}}"),
        instead=paths("{f:spec: {f:ports: {f:other: {}}}}"),
    )
    assert [(who.manager, who.fields) for _, who in found] == [
        ("bob", (".spec.image",)),
        ("kubectl-edit", (".spec.replicas",)),
        ("carol", (".spec.ports.http",)),
        (drift.UNKNOWN, (".metadata.labels.a",)),
    ]


def test_additions_are_told_of_each_who_is_no_controller() -> None:
    hpa = (EDIT % SPEC).replace("kubectl-edit", "kube-controller-manager").replace("01-02", "01-06")
    late = (EDIT % "{f:metadata: {f:labels: {f:x: {}}}}").replace("kubectl-edit", "late")
    live = obj(OURS % "{f:spec: {f:image: {}}}", EDIT % "{f:spec: {f:image: {}, f:paused: {}}}", hpa, late)
    found = [(who.manager, who.fields) for _, who in drift.additions(live)]
    assert found == [("kubectl-edit", (".spec.paused",)), ("late", (".metadata.labels.x",))]
    some = drift.additions(live, kept=lambda path: path[0] == "f:spec")
    assert [who.manager for _, who in some] == ["late"]
    assert not drift.additions(live, controllers={"kubectl-edit", "kube-controller-manager", "late"})


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param("{f:metadata: {f:finalizers: {.: {}, 'v:\"a/b\"': {}}}}", id="finalizers"),
        pytest.param('{f:metadata: {f:ownerReferences: {\'k:{"uid":"u"}\': {}}}}', id="owners"),
        pytest.param("{f:status: {f:x: {}}, f:spec: {.: {}}}", id="status, and the struct that ours is in"),
        pytest.param("{f:spec: {f:image: {}}}", id="what is ours, too"),
    ],
)
def test_what_is_a_controllers_by_right_is_no_addition(fields: str) -> None:
    assert not drift.additions(obj(OURS % "{f:spec: {f:image: {}}}", EDIT % fields))


def test_the_heir_of_emptied_managed_fields_added_nothing() -> None:
    assert not drift.additions(obj(OURS % "{}", (EDIT % SPEC).replace("kubectl-edit", ownership.WIPED)))


# --- steal --------------------------------------------------------------------------------------------------------

ITEM = "f:spec: {f:ports: {'k:{\"port\":%d}': {.: {}, f:port: {}}}}"
DNS = 'f:spec: {f:ports: {\'k:{"port":%s,"protocol":"%s"}\': {.: {}, f:port: {}}}}'
KEEP = "f:metadata: {f:labels: {f:a: {}}}"


def own(text: str) -> str:
    return OURS % f"{{{text}}}"


def edited(text: str) -> str:
    return EDIT % f"{{{text}}}"


@pytest.mark.parametrize(
    ("desired", "entries", "stolen"),
    [
        pytest.param(
            "{spec: {ports: [{port: 80}]}}",
            [own(KEEP), edited(ITEM % 81)],
            (".spec.ports[port=81]",),
            id="a port in the place of another",
        ),
        pytest.param(
            "{spec: {ports: [{port: 80}]}}",
            [own(ITEM % 80), edited(ITEM % 81)],
            (),
            id="a port beside ours is an addition",
        ),
        pytest.param(
            "{spec: {env: {name: A, value: x}}}",
            [own("f:spec: {f:env: {f:name: {}}}"), edited("f:spec: {f:env: {f:valueFrom: {f:key: {}}}}")],
            (".spec.env.valueFrom.key",),
            id="one field of a struct in the place of another",
        ),
        pytest.param(
            "{spec: {type: A, a: x}}",
            [own("f:spec: {f:a: {}}"), edited("f:spec: {f:type: {}, f:b: {}}")],
            (),
            id="a value that was changed in place calls for no theft",
        ),
        pytest.param(
            "{metadata: {labels: {a: x}}}",
            [own("f:spec: {}"), edited("f:metadata: {f:labels: {f:b: {}}}")],
            (),
            id="a label beside a lost one stays",
        ),
        pytest.param(
            "{spec: {ports: [{port: 80}]}}",
            [own(KEEP), edited(ITEM % 81).replace("kubectl-edit", "kube-controller-manager")],
            (),
            id="controllers are not robbed",
        ),
        pytest.param(
            "{spec: {ports: [{port: 80}]}}",
            [own(KEEP), edited(ITEM % 80).replace("kubectl-edit", "kube-controller-manager"), edited(ITEM % 81)],
            (),
            id="what a controller has is not lost",
        ),
        pytest.param(
            "{spec: {ports: [{port: 80}]}}",
            [own(KEEP), edited(ITEM % 81).replace("apps/v1", "apps/v1beta1")],
            (),
            id="paths of another version may mean other things",
        ),
        pytest.param("{spec: {ports: [{port: 80}]}}", [edited(ITEM % 81)], (), id="without an entry of ours"),
        pytest.param(
            "{spec: {replicas: null, image: x}}",
            [own("f:spec: {f:image: {}}"), edited("f:spec: {f:paused: {}}")],
            (),
            id="what is null was never owned",
        ),
        pytest.param(
            "{spec: {ports: [{port: 53}, {port: 53, protocol: UDP}]}}",
            [own(DNS % ("53", "UDP")), edited(DNS % ("54", "TCP"))],
            ('.spec.ports[port=54,protocol="TCP"]',),
            id="an item whose other key is a default, beside one that says it",
        ),
        pytest.param(
            "{spec: {args: [a, b]}}",
            [own(KEEP), edited("f:spec: {f:args: {'v:\"c\"': {}}}")],
            ('.spec.args[="c"]',),
            id="a value of a set",
        ),
    ],
)
def test_what_stands_in_the_place_of_lost_fields_is_found(
    desired: str, entries: list[str], stolen: tuple[str, ...]
) -> None:
    live = obj(*entries)
    assert ownership.render(steal.siblings(live, yaml.safe_load(desired))) == stolen


def test_what_is_there_and_only_lost_its_owner_is_not_replaced() -> None:
    desired = yaml.safe_load("{spec: {ports: [{port: 53, protocol: UDP}, {port: 53}], x: 1}}")
    live = obj(own(KEEP), edited(DNS % ("54", "TCP")))
    live["spec"] = {"ports": [{"port": 53, "protocol": name} for name in ("UDP", "TCP")], "x": 1}
    assert steal.siblings(live, desired) == frozenset()
    live["spec"]["ports"].pop()
    assert ownership.render(steal.siblings(live, desired)) == ('.spec.ports[port=54,protocol="TCP"]',)


def test_after_a_refusal_fields_beside_a_changed_one_are_stolen_too() -> None:
    live = obj(own("f:spec: {f:a: {}}"), edited("f:spec: {f:type: {}, f:b: {}}"))
    desired = yaml.safe_load("{spec: {type: A, a: x}}")
    assert ownership.render(steal.siblings(live, desired, wide=True)) == (".spec.b",)


def test_a_theft_moves_paths_to_our_entry_and_tests_the_version() -> None:
    live = obj(own(KEEP), edited(ITEM % 81 + ", f:data: {f:x: {}}"), STATUS, version=7)
    stolen = steal.siblings(live, yaml.safe_load("{spec: {ports: [{port: 80}]}}"))
    patch = steal.steal(live, stolen)
    assert patch is not None
    test, replace = patch
    assert test == {"op": "test", "path": "/metadata/resourceVersion", "value": "7"}
    ours, theirs, status = replace["value"]
    assert ours["fieldsV1"] == yaml.safe_load(f"{{{KEEP}, {ITEM % 81}}}")
    assert theirs["fieldsV1"] == {"f:data": {"f:x": {}}}
    assert status == yaml.safe_load(STATUS)


def test_an_entry_from_which_everything_was_stolen_goes_away() -> None:
    live = obj(own(KEEP), edited(ITEM % 81))
    patch = steal.steal(live, steal.siblings(live, yaml.safe_load("{spec: {ports: [{port: 80}]}}")))
    assert patch is not None
    assert [entry["manager"] for entry in patch[1]["value"]] == ["flotilla"]


def test_what_we_share_with_the_heir_of_emptied_managed_fields_becomes_ours_alone() -> None:
    heir = (EDIT % "{f:spec: {f:replicas: {}, f:theirs: {}}}").replace("kubectl-edit", ownership.WIPED)
    patch = steal.unshare(obj(OURS % SPEC, heir), {ownership.WIPED})
    assert patch is not None
    ours, left = patch[1]["value"]
    assert ours["fieldsV1"] == yaml.safe_load(SPEC)
    assert left["fieldsV1"] == {"f:spec": {"f:theirs": {}}}
    assert steal.unshare(obj(OURS % SPEC), {ownership.WIPED}) is None


def test_additions_become_ours_to_be_removed_and_can_be_given_back() -> None:
    other = (EDIT % "{f:metadata: {f:labels: {f:b: {}}}, f:spec: {f:paused: {}}}").replace("apps/v1", "apps/v2")
    live = obj(OURS % SPEC, EDIT % "{f:spec: {f:replicas: {}, f:paused: {}}}", other, STATUS, version=7)
    patch = steal.steal_additions(live)
    assert patch is not None
    test, replace = patch
    assert test == {"op": "test", "path": "/metadata/resourceVersion", "value": "7"}
    entries = [(entry["manager"], entry["apiVersion"], entry["fieldsV1"]) for entry in replace["value"]]
    assert entries == [
        (
            "flotilla",
            "apps/v1",
            yaml.safe_load("{f:metadata: {f:labels: {f:b: {}}}, f:spec: {f:replicas: {}, f:paused: {}}}"),
        ),
        ("kubectl-edit", "apps/v1", {"f:spec": {"f:replicas": {}}}),
        # What `paused` is in another version nobody can tell.
        ("kubectl-edit", "apps/v2", {"f:spec": {"f:paused": {}}}),
        ("kube-controller-manager", "apps/v1", {"f:status": {"f:replicas": {}}}),
    ]
    stolen = {"metadata": {**live["metadata"], "resourceVersion": "8", "managedFields": replace["value"]}}
    test, replace = steal.give_back(stolen, live)
    assert test["value"] == "8"
    assert {entry["manager"] + entry["apiVersion"]: entry["fieldsV1"] for entry in replace["value"]} == {
        entry["manager"] + entry["apiVersion"]: entry["fieldsV1"] for entry in live["metadata"]["managedFields"]
    }
    assert steal.steal_additions(live, kept=lambda path: True) is None


def test_what_is_ours_in_name_only_can_be_disowned() -> None:
    live = obj(OURS % "{f:spec: {f:replicas: {}, f:paused: {}}}", STATUS, version=7)
    patch = steal.disown(live, {"spec": {"replicas": 1}})
    assert patch is not None
    assert [entry["fieldsV1"] for entry in patch[1]["value"]] == [
        {"f:spec": {"f:replicas": {}}},
        {"f:status": {"f:replicas": {}}},
    ]
    assert steal.disown(live, {"spec": {"replicas": 1, "paused": False}}) is None
