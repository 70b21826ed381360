"""The confirmation step when things go wrong: what is asked, what is told, and what is left for the next try."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import anyio
import orjson
import pytest

from agent.drift import drift, revert
from agent.drift.flight import Flight
from agent.drift.revert import Confirmed, Stance
from agent.kube.api_status import Conflict, Invalid, NotFound
from agent.model import Baseline, Entry, Resource, WatchEvent
from proto import objects
from proto.errors import Refused, Transient
from proto.messages import DriftReport
from proto.objects import ObjectKey
from proto.slices import DriftPolicy, with_membership
from tests.fakes import FakeCluster

MAPS = Resource(group="", version="v1", kind="ConfigMap", plural="configmaps", namespaced=True)
KEY = ObjectKey(group="", kind="ConfigMap", namespace="shop", name="settings")
DESIRED = with_membership(
    {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"}, "data": {"mode": "prod"}}, "shop"
)
OWN: dict[str, Any] = {"f:data": {"f:mode": {}}}


def live(
    version: int, own: Mapping[str, Any], *others: tuple[str, Mapping[str, Any]], uid: str = "u", time: str = "1"
) -> dict[str, Any]:
    ours = {"manager": "flotilla", "operation": "Apply", "apiVersion": "v1", "time": time, "fieldsV1": own}
    theirs = [
        {"manager": name, "operation": "Update", "apiVersion": "v1", "time": "2", "fieldsV1": fields}
        for name, fields in others
    ]
    metadata = {"uid": uid, "resourceVersion": str(version), "labels": DESIRED["metadata"]["labels"]}
    data = {"mode": "prod" if own == OWN else "test"}
    return {"metadata": {**metadata, "managedFields": [ours, *theirs]}, "data": data}


GOOD = live(1, OWN)
EDITED = live(2, {}, ("kubectl-edit", OWN))
MENDED = live(3, OWN, time="3")


class Api(FakeCluster):
    """Answers each verb from its own list; an exception is raised. `calls` tells what was asked."""

    def __init__(self, **answers: Sequence[Any]) -> None:
        super().__init__()
        self.answers = {verb: list(given) for verb, given in answers.items()}
        self.calls: list[str] = []
        self.sent: list[tuple[dict[str, Any], bool]] = []
        """What was applied, and whether on conditions."""

    def _next(self, verb: str) -> Any:
        self.calls.append(verb)
        answer = self.answers[verb].pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def resource(self, api_version: str, kind: str) -> Resource:
        return MAPS

    async def apply(
        self,
        resource: Resource,
        key: ObjectKey,
        body: bytes,
        *,
        force: bool,
        dry_run: bool = False,
        conditional: bool = False,
        subresource: str = "",
    ) -> tuple[bool, dict[str, Any]]:
        assert force
        self.sent.append((orjson.loads(body), conditional))
        answer = self._next("dry_run" if dry_run else "apply")
        return answer if isinstance(answer, tuple) else (False, answer)

    async def get(self, resource: Resource, key: ObjectKey, *, metadata_only: bool = False) -> dict[str, Any]:
        found: dict[str, Any] = self._next("get")
        return found

    async def json_patch(
        self, resource: Resource, key: ObjectKey, operations: Sequence[Mapping[str, Any]]
    ) -> dict[str, Any]:
        found: dict[str, Any] = self._next("json_patch")
        return found


async def confirm(
    api: Api, obj: Mapping[str, Any], *, kind: Any = "MODIFIED", policy: DriftPolicy | None = None
) -> tuple[Baseline | None, DriftReport | None]:
    """The new baseline and the one drift that was told; events show the whole object."""
    confirmed = await confirm_all(api, obj, kind=kind, policy=policy)
    assert len(confirmed.reports) <= 1
    return confirmed.baseline, confirmed.reports[0] if confirmed.reports else None


async def confirm_all(
    api: Api,
    obj: Mapping[str, Any],
    *,
    kind: Any = "MODIFIED",
    policy: DriftPolicy | None = None,
    stance: Stance | None = None,
    finished: bool = False,
) -> Confirmed:
    policy = policy or DriftPolicy()
    return await revert.confirm(
        api,
        Entry(key=KEY, bundle="shop", api_version="v1", baseline=drift.baseline(GOOD), finished=finished),
        WatchEvent(kind=kind, resource=MAPS, object=obj),
        desired=objects.canonical(DESIRED),
        policy=policy,
        stance=stance or Stance(mode=policy.mode),
        observed="2026-01-01T00:00:00Z",
        seen_at=anyio.current_time(),
    )


async def test_one_apply_confirms_and_reverts() -> None:
    api = Api(apply=[MENDED])
    baseline, report = await confirm(api, EDITED)
    assert api.calls == ["apply"]
    assert baseline == drift.baseline(MENDED)
    assert report is not None
    assert (report.object, report.bundle, report.fields) == ("ConfigMap/shop/settings", "shop", (".data.mode",))
    assert (report.manager, report.operation, report.time) == ("kubectl-edit", "Update", "2")
    assert (report.observed, report.action, report.revert_ms >= 0) == ("2026-01-01T00:00:00Z", "reverted", True)


async def test_an_apply_that_moves_nothing_is_no_drift() -> None:
    same = live(2, OWN, ("somebody", {"f:data": {"f:more": {}}}))
    baseline, report = await confirm(Api(apply=[same]), same, policy=DriftPolicy(additions="tolerate"))
    assert (baseline, report) == (drift.baseline(same), None)


async def test_ignore_mode_asks_nothing() -> None:
    api = Api()
    assert await confirm(api, EDITED, policy=DriftPolicy(mode="ignore")) == (drift.baseline(EDITED), None)
    assert api.calls == []


async def test_an_object_that_is_being_deleted_is_waited_for() -> None:
    going = live(2, OWN)
    going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    api = Api()
    assert await confirm(api, going) == (drift.baseline(going), None)
    assert api.calls == []


@pytest.mark.parametrize(
    "api",
    [
        pytest.param(lambda: Api(apply=[Transient("x", "down")]), id="the apply"),
        pytest.param(lambda: Api(apply=[Invalid("x", "no")], get=[Transient("x", "down")]), id="the second look"),
    ],
)
async def test_an_api_server_that_is_away_leaves_everything_for_the_next_try(api: Callable[[], Api]) -> None:
    with pytest.raises(Transient):
        await confirm(api(), EDITED)


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(Refused("ConfigMap/shop/settings apply failed (Forbidden)", "no"), id="forbidden"),
        pytest.param(Invalid("ConfigMap/shop/settings apply failed (Invalid)", "no"), id="invalid"),
    ],
)
async def test_a_revert_that_is_refused_is_told_as_failed(error: Exception) -> None:
    baseline, report = await confirm(Api(apply=[error], get=[live(2, OWN)]), EDITED)
    assert baseline == drift.baseline(EDITED)
    assert report is not None
    assert (report.action, report.error, report.revert_ms) == ("failed", str(error), 0.0)


async def test_a_refused_apply_steals_and_tries_again() -> None:
    beside: dict[str, Any] = {"f:data": {"f:mode": {}, "f:other": {}}}
    seen = live(2, {"f:data": {"f:x": {}}}, ("kubectl-edit", beside))
    api = Api(apply=[Invalid("x", "no"), MENDED], get=[seen], json_patch=[seen])
    _, report = await confirm(api, seen)
    assert api.calls == ["apply", "get", "json_patch", "apply"]
    assert report is not None
    assert report.action == "reverted"


def robbed(version: int) -> dict[str, Any]:
    seen = live(version, {"f:x": {}}, ("kubectl-edit", {"f:data": {"f:other": {}}}))
    return {**seen, "data": {"other": "x"}}


async def test_a_theft_that_others_overtake_looks_again() -> None:
    lost_race = Conflict("x", "written since")
    api = Api(json_patch=[lost_race, lost_race, robbed(4)], get=[robbed(3), robbed(4)], apply=[MENDED])
    _, report = await confirm(api, robbed(2))
    assert api.calls == ["json_patch", "get", "json_patch", "get", "json_patch", "apply"]
    assert report is not None


async def test_a_theft_that_others_always_overtake_is_left_for_the_next_try() -> None:
    api = Api(json_patch=[Conflict("x", "written since")] * 9, get=[robbed(version) for version in range(3, 12)])
    with pytest.raises(Transient, match="ConfigMap/shop/settings managedFields"):
        await confirm(api, robbed(2))


async def test_a_theft_that_admission_refuses_is_told_as_failed() -> None:
    api = Api(json_patch=[Conflict("x", "admission says no")], get=[robbed(2)] * 2)
    _, report = await confirm(api, robbed(2))
    assert report is not None
    assert (report.action, report.error) == ("failed", "x: admission says no")


async def test_a_deleted_object_is_looked_for_then_made_again() -> None:
    made = live(9, OWN, uid="v")
    api = Api(get=[NotFound("x", "gone")], apply=[(True, made)])
    baseline, report = await confirm(api, GOOD, kind="DELETED")
    assert api.calls == ["get", "apply"]
    assert baseline == drift.baseline(made)
    assert report is not None
    assert (report.what, report.manager, report.action) == ("deleted", drift.UNKNOWN, "reverted")


async def test_a_deleted_object_that_cannot_be_made_again_is_told() -> None:
    api = Api(
        get=[NotFound("x", "gone")], apply=[NotFound("ConfigMap/shop/settings", "no namespace", what="namespace")]
    )
    baseline, report = await confirm(api, GOOD, kind="DELETED")
    assert baseline is None
    assert report is not None
    assert (report.what, report.action, report.error) == ("deleted", "failed", "ConfigMap/shop/settings: no namespace")


async def test_an_object_that_was_deleted_while_it_was_reverted_is_told_as_deleted() -> None:
    _, report = await confirm(Api(apply=[(True, live(9, OWN, uid="v"))]), EDITED)
    assert report is not None
    assert report.what == "deleted"


async def test_what_ran_to_its_end_and_is_gone_is_not_made_anew() -> None:
    api = Api(get=[NotFound("ConfigMap/shop/settings", "does not exist")])
    confirmed = await confirm_all(api, GOOD, kind="DELETED", finished=True)
    assert confirmed == Confirmed(baseline=None)
    assert api.calls == ["get"]


async def test_report_mode_sends_one_dry_run() -> None:
    api = Api(dry_run=[live(2, OWN, time="3")])
    baseline, report = await confirm(api, EDITED, policy=DriftPolicy(mode="report"))
    assert api.calls == ["dry_run"]
    assert baseline == drift.baseline(EDITED)
    assert report is not None
    assert (report.action, report.fields, report.manager) == ("reported", (".data.mode",), "kubectl-edit")


async def test_drift_that_is_told_again_has_the_same_id_and_drift_that_came_back_another() -> None:
    report = DriftPolicy(mode="report")
    later = live(7, {}, ("kubectl-edit", OWN))
    _, one = await confirm(Api(dry_run=[live(2, OWN, time="3")]), EDITED, policy=report)
    _, two = await confirm(Api(dry_run=[live(7, OWN, time="8")]), later, policy=report)
    assert one is not None
    assert two is not None
    assert one.id == two.id
    _, one = await confirm(Api(apply=[MENDED]), EDITED)
    _, two = await confirm(Api(apply=[live(8, OWN, time="8")]), later)
    assert one is not None
    assert two is not None
    assert one.id != two.id


# --- additions ----------------------------------------------------------------------------------------------------

BESIDE = live(2, OWN, ("kubectl-edit", {"f:data": {"f:more": {}}}))
STOLEN = live(3, {"f:data": {"f:mode": {}, "f:more": {}}})
REMOVE = DriftPolicy(additions="revert")


async def test_an_addition_is_stolen_and_applied_away() -> None:
    api = Api(get=[BESIDE], apply=[BESIDE, live(4, OWN, time="3")], json_patch=[STOLEN])
    confirmed = await confirm_all(api, BESIDE, policy=REMOVE)
    assert api.calls[-3:] == ["apply", "json_patch", "apply"]
    assert [(told.what, told.action, told.fields) for told in confirmed.reports] == [
        ("added", "reverted", (".data.more",))
    ]
    assert not confirmed.stands


async def test_an_addition_that_came_while_another_was_stolen_is_told_too() -> None:
    both = live(3, OWN, ("kubectl-edit", {"f:data": {"f:more": {}}}), ("late", {"f:data": {"f:most": {}}}))
    api = Api(get=[both], apply=[BESIDE, live(5, OWN, time="3")], json_patch=[Conflict("x", "written since"), STOLEN])
    confirmed = await confirm_all(api, BESIDE, policy=REMOVE)
    assert {told.manager for told in confirmed.reports} == {"kubectl-edit", "late"}


async def test_an_addition_that_cannot_be_removed_is_given_back() -> None:
    refused = Invalid("ConfigMap/shop/settings apply failed (Invalid)", "immutable")
    api = Api(get=[BESIDE, STOLEN], apply=[BESIDE, refused], json_patch=[STOLEN, live(4, OWN)])
    confirmed = await confirm_all(api, BESIDE, policy=REMOVE)
    assert api.calls[-4:] == ["json_patch", "apply", "get", "json_patch"]
    assert [(told.what, told.action, told.error) for told in confirmed.reports] == [("added", "failed", str(refused))]
    assert confirmed.stands


async def test_an_addition_that_admission_lets_nobody_take_over_is_told_as_failed() -> None:
    refused = Refused("ConfigMap/shop/settings patch failed (Forbidden)", "denied")
    api = Api(get=[BESIDE], apply=[BESIDE], json_patch=[refused])
    confirmed = await confirm_all(api, BESIDE, policy=REMOVE)
    assert api.calls[-1] == "json_patch"
    assert [(told.what, told.action, told.error) for told in confirmed.reports] == [("added", "failed", str(refused))]
    assert confirmed.stands


async def test_what_a_killed_agent_stole_and_cannot_remove_stops_no_revert() -> None:
    seen = live(3, {"f:data": {"f:more": {}}}, ("kubectl-edit", OWN))
    refused = Invalid("ConfigMap/shop/settings apply failed (Invalid)", "immutable")
    api = Api(
        get=[seen, seen], apply=[refused, live(5, OWN, time="5")], json_patch=[live(4, {}, ("kubectl-edit", OWN))]
    )
    confirmed = await confirm_all(api, seen, policy=DriftPolicy(additions="tolerate"))
    assert [told.action for told in confirmed.reports] == ["reverted"]


async def test_an_api_server_that_goes_away_before_an_addition_is_removed_takes_no_report_along() -> None:
    api = Api(
        get=[EDITED],
        apply=[live(3, OWN, ("kubectl-edit", {"f:data": {"f:more": {}}}), time="3")],
        json_patch=[Transient("x", "down")],
    )
    confirmed = await confirm_all(api, EDITED, policy=REMOVE)
    assert [(told.what, told.action) for told in confirmed.reports] == [("changed", "reverted")]
    assert confirmed.stands


# --- who says what ------------------------------------------------------------------------------------------------


async def test_drift_that_may_not_be_undone_is_told_with_the_reason() -> None:
    api = Api(dry_run=[live(2, OWN, time="3")])
    confirmed = await confirm_all(api, EDITED, stance=Stance(mode="report", stays_as="paused", why="until noon"))
    (told,) = confirmed.reports
    assert (told.action, told.error) == ("paused", "until noon")
    assert confirmed.stands


async def test_an_addition_that_may_not_be_removed_is_told_with_the_reason() -> None:
    stance = Stance(mode="report", stays_as="paused", why="until noon")
    confirmed = await confirm_all(Api(dry_run=[BESIDE]), BESIDE, policy=REMOVE, stance=stance)
    assert [(told.what, told.action, told.error) for told in confirmed.reports] == [("added", "paused", "until noon")]
    assert confirmed.stands


async def test_another_object_in_its_place_that_ours_cannot_be_made_of_is_left_to_the_pass() -> None:
    other = live(9, {}, ("kubectl-create", OWN), uid="other")
    refused = Invalid("ConfigMap/shop/settings apply failed (Invalid)", "immutable")
    api = Api(get=[other, other], apply=[refused])
    confirmed = await confirm_all(api, other)
    assert confirmed.baseline is None
    assert [(told.what, told.action) for told in confirmed.reports] == [("deleted", "failed")]


# --- Flight -------------------------------------------------------------------------------------------------------


def event(version: int, kind: Any = "MODIFIED") -> WatchEvent:
    return WatchEvent(kind=kind, resource=MAPS, object=live(version, OWN))


def test_events_pass_when_nothing_is_under_way() -> None:
    assert not Flight().keeps(KEY, event(1))


def test_the_latest_event_is_judged_when_the_write_was_answered() -> None:
    flight = Flight()
    flight.begin(KEY)
    assert flight.keeps(KEY, event(5))
    latest = event(7)
    assert flight.keeps(KEY, latest)
    assert flight.end(KEY, drift.baseline(live(6, OWN))) is latest
    assert not flight.keeps(KEY, event(8))


def test_two_writes_of_one_object_end_with_the_second() -> None:
    flight = Flight()
    flight.begin(KEY)
    flight.begin(KEY)
    latest = event(7)
    assert flight.keeps(KEY, latest)
    assert flight.end(KEY) is None
    assert flight.keeps(KEY, latest)
    assert flight.end(KEY) is latest


def test_what_came_before_our_answer_is_old_wherever_it_arrives() -> None:
    flight = Flight()
    flight.begin(KEY)
    assert flight.keeps(KEY, event(5))
    assert flight.end(KEY, drift.baseline(live(6, OWN))) is None
    assert flight.keeps(KEY, event(5))
    assert not flight.keeps(KEY, event(6))
    # The watch has passed our write: from here on nothing is held back, whatever its number.
    assert not flight.keeps(KEY, event(2))


def test_after_a_restarted_watch_lower_versions_are_news() -> None:
    flight = Flight()
    flight.begin(KEY)
    assert flight.end(KEY, drift.baseline(live(600, OWN))) is None
    flight.restarted("apps", "Deployment")
    assert flight.keeps(KEY, event(5))
    flight.restarted("", "ConfigMap")
    assert not flight.keeps(KEY, event(5))


def test_versions_that_are_no_numbers_are_never_old() -> None:
    flight = Flight()
    flight.begin(KEY)
    odd = event(5)
    flight.keeps(KEY, WatchEvent(kind="MODIFIED", resource=MAPS, object={"metadata": {"resourceVersion": "abc"}}))
    flight.keeps(KEY, odd)
    answer = {**live(6, OWN)["metadata"], "resourceVersion": "xyz"}
    assert flight.end(KEY, drift.baseline({"metadata": answer})) is odd
