"""What the demo's steps look at from outside, the hub's API and the clusters themselves, and what they demand of it.

What is waited for and never seen is told as `Permanent`. Next: `commits` and `hands`, the steps.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

from hub.demo.world import wait_for
from proto.errors import Permanent

WEB = "/apis/apps/v1/namespaces/shop/deployments/web"
SERVICE = "/api/v1/namespaces/shop/services/web"
SETTINGS = "/api/v1/namespaces/shop/configmaps/settings"
WAIT_S = 30.0
ROLLOUT_S = 60.0
OFFLINE_AFTER_S = 4.0
"""`offline.after` of the sample's policies."""

AT_GATE = " waits at gate "
"""How a rollout says that it does."""

Json = Any
Say = Callable[[str], Awaitable[None]]
"""Tells what somebody does, after all that happened before it."""


class Cluster(Protocol):
    """What somebody with kubectl does in a cluster."""

    async def get(self, path: str) -> Json: ...
    async def patch(self, path: str, patch: object, *, manager: str) -> Json: ...
    async def delete(self, path: str) -> None: ...


class Repo(Protocol):
    """What somebody commits."""

    async def release(self) -> tuple[str, str]: ...
    async def break_(self) -> str: ...
    async def unfit(self, region: str) -> tuple[str, str]: ...
    async def freeze(self) -> None: ...
    async def thaw(self) -> bool: ...


class World(Protocol):
    """What a step needs of the fleet; `world.World` is one. `flotilla` runs the command of that name."""

    @property
    def repo(self) -> Repo: ...
    @property
    def clusters(self) -> Mapping[str, Cluster]: ...
    async def api(self, path: str) -> Json: ...
    async def flotilla(self, *words: str) -> str: ...
    async def stop_hub(self) -> None: ...
    async def start_hub(self) -> None: ...
    async def connect(self, name: str) -> None: ...
    async def cut(self, name: str) -> None: ...


# --- waiting ---------------------------------------------------------------------------------------------------------


async def rollout(world: World, revision: str, phase: str, *, offline: str = "", reason: str = "") -> Mapping[str, Any]:
    """The shop's rollout to a revision, when it has got to a phase, for a `reason` if one is given; and only `offline`
    was left behind, if one is."""

    async def there() -> Mapping[str, Any] | None:
        for row in (await world.api("rollouts?limit=20"))["rollouts"]:
            ours = row["revision"] == revision and "shop" in row["bundles"]
            if ours and row["phase"] == phase and reason in row["reason"]:
                found: Mapping[str, Any] = await world.api(f"rollouts/{row['id']}")
                if not offline or left_behind(found) == [(offline, "offline")]:
                    return found
        return None

    what = f"a {phase} rollout of shop to {revision[:8]}{reason and ', ' + reason.strip()}"
    found = await wait_for(what, there, timeout_s=ROLLOUT_S)
    assert found is not None
    return found


async def at_gate(world: World, revision: str) -> Mapping[str, Any]:
    """The shop's rollout to a revision, when it waits for a person's word."""
    return await rollout(world, revision, "running", reason=AT_GATE)


async def until_offline(world: World, name: str) -> None:
    """Wait until a cluster that was cut off counts as offline: a move before that would count as lost."""

    async def silent() -> bool:
        row = await world.api(f"clusters/{name}")
        heard = datetime.fromisoformat(row["last_seen"])
        return bool(row["connection"] == "away" and (datetime.now(UTC) - heard).total_seconds() > OFFLINE_AFTER_S + 1)

    await wait_for(f"{name} to count as offline", silent, timeout_s=WAIT_S)


async def last_event(world: World) -> int:
    found = (await world.api("events?limit=1"))["events"]
    return int(found[-1]["id"]) if found else 0


async def waves_of(world: World) -> dict[str, str]:
    """The sample's wave of each cluster."""
    rows = (await world.api("clusters"))["clusters"]
    return {row["name"]: "canary" if "canary" in row["labels"] else row["labels"]["region"] for row in rows}


async def all_connected(world: World) -> None:
    async def connected() -> bool:
        return bool((await world.api("fleet"))["clusters"]["connected"] == len(world.clusters))

    await wait_for("all clusters connected", connected, timeout_s=WAIT_S)


async def wait_told(
    world: World, since: int, cluster: str, object_: str, *, manager: str = "", field: str = "", what: str = "changed"
) -> Mapping[str, Any]:
    async def there() -> Mapping[str, Any] | None:
        rows = (await world.api(f"drift?since={since}&cluster={cluster}&limit=1000"))["drift"]
        return told([row["data"] for row in rows], object_, manager=manager, field=field, what=what)

    found = await wait_for(f"a report of {object_} {what} in {cluster}", there, timeout_s=WAIT_S)
    assert found is not None
    return found


def told(
    rows: Sequence[Mapping[str, Any]], object_: str, *, manager: str, field: str, what: str
) -> Mapping[str, Any] | None:
    """Pure: the newest report of an object that says what is wanted, and that it was reverted."""

    def fits(row: Mapping[str, Any]) -> bool:
        return (
            (row["object"], row["what"], row["action"]) == (object_, what, "reverted")
            and manager in ("", row.get("manager"))
            and (not field or field in row.get("fields", ()))
        )

    return next(filter(fits, reversed(rows)), None)


def image(web: Mapping[str, Any]) -> str:
    """Pure: the image of a Deployment's first container."""
    return str(pod(web)["containers"][0]["image"])


def pod(web: Mapping[str, Any]) -> Mapping[str, Any]:
    """Pure: the spec of a Deployment's pods."""
    found: Mapping[str, Any] = web["spec"]["template"]["spec"]
    return found


def must(seen: bool, thing: str, cause: str) -> None:
    if not seen:
        raise Permanent(thing, cause)


# --- judging, pure ---------------------------------------------------------------------------------------------------


def waves_in_order(rollout: Mapping[str, Any], events: Sequence[Mapping[str, Any]]) -> str:
    """Pure: the waves' names in the order they opened. Raises Permanent when one opened before the proof of another."""
    ours = [event for event in events if event.get("rollout") == rollout["id"]]
    opened = {event["data"]["wave"]: event["id"] for event in ours if event["kind"] == "wave-opened"}
    proven = {event["cluster"]: event["id"] for event in ours if event["kind"] == "cluster-proven"}
    missing = [member["cluster"] for member in rollout["members"] if member["cluster"] not in proven]
    must(not missing, f"rollout {rollout['id']}", f"has no proof of {', '.join(missing)}")
    done = 0
    inhabited = [wave for wave in rollout["waves"] if wave["clusters"]]
    for wave in inhabited:
        must(wave["name"] in opened, f"wave {wave['name']}", "was never seen to open")
        before = [event for event in proven.values() if event < opened[wave["name"]]]
        must(
            len(before) == done,
            f"wave {wave['name']}",
            f"opened after {len(before)} proofs, and the waves before it have {done} clusters",
        )
        done += wave["clusters"]
    return " → ".join(wave["name"] for wave in inhabited)


def never_reached(rollout: Mapping[str, Any], canary: str, others: Sequence[str]) -> None:
    """Pure: raises Permanent unless the canary alone was moved, and brought back."""
    phases = {member["cluster"]: member["phase"] for member in rollout["members"]}
    must(phases.get(canary) == "reverted", canary, f"is {phases.get(canary, 'no member')}, not reverted")
    reached = [name for name in others if phases.get(name) != "pending"]
    must(not reached, f"rollout {rollout['id']}", f"reached {', '.join(reached)}")


def left_behind(rollout: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Pure: (cluster, phase) of each member that has not proven it runs the rollout's revision."""
    return [(row["cluster"], row["phase"]) for row in rollout["members"] if row["phase"] != "proven"]


def stopped_behind(rollout: Mapping[str, Any], canary: str, others: Sequence[str]) -> None:
    """Pure: raises Permanent unless the canary has proven the commit and no other cluster was moved."""
    phases = {member["cluster"]: member["phase"] for member in rollout["members"]}
    must(phases.get(canary) == "proven", canary, f"is {phases.get(canary, 'no member')} at the gate, not proven")
    past = [name for name in others if phases.get(name) != "pending"]
    must(not past, f"rollout {rollout['id']}", f"went past its gate to {', '.join(past)}")


def in_reverse(rollout: Mapping[str, Any], waves: Mapping[str, str]) -> list[str]:
    """Pure: the clusters in the order in which they were sent back. Raises Permanent unless all were, and no cluster
    before one of a later wave; `waves` is cluster → wave."""
    stay = [member["cluster"] for member in rollout["members"] if member["phase"] != "reverted"]
    must(not stay, f"rollout {rollout['id']}", f"did not bring back {', '.join(stay)}")
    place = {wave["name"]: number for number, wave in enumerate(rollout["waves"])}
    sent = [(member["moved_at"], -place[waves[member["cluster"]]], member["cluster"]) for member in rollout["members"]]
    places = [place for _, place, _ in sorted(sent)]
    must(places == sorted(places), f"rollout {rollout['id']}", "went back in another order than the last wave first")
    return [cluster for _, _, cluster in sorted(sent)]
