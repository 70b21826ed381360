"""The five steps of the demo, and what has to be seen for each; whatever is not seen fails its step, with why.

    waves     a commit reaches all clusters, each wave after the proof of the one before
    drift     what somebody edits, scales and deletes in two clusters is reported and reverted
    bad       a bad commit fails in the canary wave, the others never get it, it is rolled back
    hub       the hub is stopped; an agent goes on reverting, its report arrives later
    offline   a cluster that was offline catches up

A step looks from outside only: at the hub's API and at the clusters themselves. Next: `live` shows it.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

import anyio

from hub.demo.world import wait_for
from proto.errors import FlotillaError, Permanent

WEB = "/apis/apps/v1/namespaces/shop/deployments/web"
SERVICE = "/api/v1/namespaces/shop/services/web"
SETTINGS = "/api/v1/namespaces/shop/configmaps/settings"
WAIT_S = 30.0
ROLLOUT_S = 60.0
OFFLINE_AFTER_S = 4.0
"""`offline.after` of the sample's policy."""
SINGLE_WAVES = 3
"""So many clusters, or fewer, are one to a wave."""

Json = Any
Say = Callable[[str], None]


class Cluster(Protocol):
    """What somebody with kubectl does in a cluster."""

    async def get(self, path: str) -> Json: ...
    async def patch(self, path: str, patch: object, *, manager: str) -> Json: ...
    async def delete(self, path: str) -> None: ...


class Repo(Protocol):
    """What somebody commits."""

    async def release(self) -> tuple[str, str]: ...
    async def break_(self) -> str: ...


class World(Protocol):
    """What a step needs of the fleet; `world.World` is one."""

    @property
    def repo(self) -> Repo: ...
    @property
    def clusters(self) -> Mapping[str, Cluster]: ...
    async def api(self, path: str) -> Json: ...
    async def stop_hub(self) -> None: ...
    async def start_hub(self) -> None: ...
    async def connect(self, name: str) -> None: ...
    async def cut(self, name: str) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step: what it is called, what it shows, and how it is played; that gives what was seen."""

    name: str
    title: str
    play: Callable[[World, Say], Awaitable[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a step went; `detail` is what was seen, or what was not."""

    name: str
    ok: bool
    seconds: float
    detail: str


def summary(outcomes: Sequence[Outcome], *, seconds: float) -> dict[str, Any]:
    """Pure: what `--json` writes."""
    return {"steps": [asdict(outcome) for outcome in outcomes], "seconds": round(seconds, 2)}


async def play(step: Step, world: World, say: Say) -> Outcome:
    """Play one step; a failure is an outcome, too."""
    began = anyio.current_time()
    try:
        detail, ok = await step.play(world, say), True
    except FlotillaError as error:
        detail, ok = str(error), False
    return Outcome(name=step.name, ok=ok, seconds=round(anyio.current_time() - began, 2), detail=detail)


# --- ① ---------------------------------------------------------------------------------------------------------------


async def waves(world: World, say: Say) -> str:
    revision, version = await world.repo.release()
    say(f"Dana commits shop {version}")
    rollout = await _rollout(world, revision, "completed")
    events = (await world.api("events?limit=1000"))["events"]
    order = waves_in_order(rollout, events)
    for name, cluster in world.clusters.items():
        web = await cluster.get(WEB)
        _must(image(web).endswith(f":{version}"), f"{name}: shop {version}", f"is not what runs: {image(web)}")
        ready = web.get("status", {}).get("readyReplicas")
        _must(ready == web["spec"]["replicas"], f"{name}: shop {version}", f"has {ready} ready replicas")
    return f"shop {version} in {len(world.clusters)} clusters: {order}"


def waves_in_order(rollout: Mapping[str, Any], events: Sequence[Mapping[str, Any]]) -> str:
    """Pure: the waves' names in the order they opened. Raises Permanent when one opened before the proof of another."""
    ours = [event for event in events if event.get("rollout") == rollout["id"]]
    opened = {event["data"]["wave"]: event["id"] for event in ours if event["kind"] == "wave-opened"}
    proven = {event["cluster"]: event["id"] for event in ours if event["kind"] == "cluster-proven"}
    missing = [member["cluster"] for member in rollout["members"] if member["cluster"] not in proven]
    _must(not missing, f"rollout {rollout['id']}", f"has no proof of {', '.join(missing)}")
    done = 0
    inhabited = [wave for wave in rollout["waves"] if wave["clusters"]]
    for wave in inhabited:
        _must(wave["name"] in opened, f"wave {wave['name']}", "was never seen to open")
        before = [event for event in proven.values() if event < opened[wave["name"]]]
        _must(
            len(before) == done,
            f"wave {wave['name']}",
            f"opened after {len(before)} proofs, and the waves before it have {done} clusters",
        )
        done += wave["clusters"]
    return " → ".join(wave["name"] for wave in inhabited)


# --- ② ---------------------------------------------------------------------------------------------------------------


async def drift(world: World, say: Say) -> str:
    first, second = list(world.clusters)[1 if len(world.clusters) > 2 else 0], list(world.clusters)[-1]
    one, two = world.clusters[first], world.clusters[second]
    before = {name: await cluster.get(WEB) for name, cluster in ((first, one), (second, two))}
    since = await _last_event(world)

    say(f"somebody sets another image in {first}, with kubectl edit")
    path = "/spec/template/spec/containers/0/image"
    await one.patch(WEB, [{"op": "replace", "path": path, "value": "evil.example.org/shop"}], manager="kubectl-edit")
    say(f"somebody scales the shop of {second} to 9")
    await two.patch(f"{WEB}/scale", {"spec": {"replicas": 9}}, manager="kubectl-scale")
    edited = await _told(
        world,
        since,
        first,
        "Deployment/shop/web",
        manager="kubectl-edit",
        field='.spec.template.spec.containers[name="web"].image',
    )
    await _told(world, since, second, "Deployment/shop/web", manager="kubectl-scale", field=".spec.replicas")
    # Not for the scaling: a real API server keeps no time of a change that came through the scale subresource.
    _must(bool(edited.get("time")), "drift report", "does not say when")

    for name, cluster, path_, kept in ((first, one, SETTINGS, "data"), (second, two, SERVICE, "spec")):
        gone = await cluster.get(path_)
        what = f"{gone['kind']}/shop/{gone['metadata']['name']}"
        say(f"somebody deletes {what} in {name}")
        await cluster.delete(path_)
        told = await _told(world, since, name, what, what="deleted")
        back = await cluster.get(path_)
        _must(
            back is not None and back["metadata"]["uid"] != gone["metadata"]["uid"],
            f"{name}: {what}",
            f"did not come back, although the agent says: {told['action']}",
        )
        keys = set(gone[kept]) - {"clusterIP", "clusterIPs"}
        _must(all(back[kept].get(key) == gone[kept][key] for key in keys), f"{name}: {what}", "came back different")

    for name, cluster in ((first, one), (second, two)):
        web = await cluster.get(WEB)
        _must(image(web) == image(before[name]), f"{name}: image", f"is still {image(web)}")
        replicas = before[name]["spec"]["replicas"]
        _must(web["spec"]["replicas"] == replicas, f"{name}: replicas", f"are still {web['spec']['replicas']}")
    return f"2 edits, with field, who and (as far as kept) when, and 2 deletions; all reverted, in {first} and {second}"


# --- ③ ---------------------------------------------------------------------------------------------------------------


async def bad(world: World, say: Say) -> str:
    canary, *others = world.clusters
    before = {name: (await world.clusters[name].get(WEB))["metadata"]["generation"] for name in others}
    was = await world.clusters[canary].get(WEB)
    revision = await world.repo.break_()
    say("Dana commits a shop that cannot start")
    rollout = await _rollout(world, revision, "rolled-back")
    never_reached(rollout, canary, others)
    for name in others:
        now = (await world.clusters[name].get(WEB))["metadata"]["generation"]
        _must(now == before[name], f"{name}: the bad commit", "reached it")
    back = await world.clusters[canary].get(WEB)
    _must(pod(back) == pod(was), f"{canary}: the shop", "is not what it was before")
    _must("shop" in (await world.api("fleet"))["holds"], "bundle shop", "is not on hold")
    fix, version = await world.repo.release()
    say(f"Dana commits a fix, shop {version}")
    await _rollout(world, fix, "completed")
    return f"failed and rolled back there; {len(others)} others never got it; the fix went through"


def never_reached(rollout: Mapping[str, Any], canary: str, others: Sequence[str]) -> None:
    """Pure: raises Permanent unless the canary alone was moved, and brought back."""
    phases = {member["cluster"]: member["phase"] for member in rollout["members"]}
    _must(phases.get(canary) == "reverted", canary, f"is {phases.get(canary, 'no member')}, not reverted")
    reached = [name for name in others if phases.get(name) != "pending"]
    _must(not reached, f"rollout {rollout['id']}", f"reached {', '.join(reached)}")


# --- ④ ---------------------------------------------------------------------------------------------------------------


async def hub(world: World, say: Say) -> str:
    name = list(world.clusters)[min(2, len(world.clusters) - 1)]
    cluster = world.clusters[name]
    replicas = (await cluster.get(WEB))["spec"]["replicas"]
    since = await _last_event(world)
    await world.stop_hub()
    say(f"the hub is stopped; meanwhile the night shift scales the shop of {name} to 7")
    edited = await cluster.patch(WEB, {"spec": {"replicas": 7}}, manager="night-shift")
    _must(edited["spec"]["replicas"] == 7, f"{name}: the edit", "did not take")
    began = anyio.current_time()

    async def reverted() -> bool:
        return bool((await cluster.get(WEB))["spec"]["replicas"] == replicas)

    await wait_for(f"the revert in {name} without the hub", reverted, timeout_s=WAIT_S)
    took = anyio.current_time() - began
    say(f"{name} is back at {replicas} replicas, without the hub")
    await world.start_hub()
    say("the hub is back")
    await _told(world, since, name, "Deployment/shop/web", manager="night-shift", field=".spec.replicas")
    return f"{name} reverted within {took * 1000:.0f} ms; its report came when the hub was back"


# --- ⑤ ---------------------------------------------------------------------------------------------------------------


async def offline(world: World, say: Say) -> str:
    name = list(world.clusters)[-1]
    await _all_connected(world)
    await world.cut(name)
    say(f"{name} goes offline")

    await until_offline(world, name)
    revision, version = await world.repo.release()
    say(f"Dana commits shop {version}; {name} will not hear of it")
    # No wave is done without a proof: a cluster that has a wave to itself is waited for.
    alone = len(world.clusters) <= SINGLE_WAVES
    rollout = await _rollout(world, revision, "running" if alone else "completed", offline=name)
    _must(
        not image(await world.clusters[name].get(WEB)).endswith(f":{version}"), name, "has it although it was offline"
    )
    await world.connect(name)
    say(f"{name} comes back")

    async def caught_up() -> bool:
        found = await world.api(f"rollouts/{rollout['id']}")
        proven = any(row["cluster"] == name and row["phase"] == "proven" for row in found["members"])
        return bool(proven and image(await world.clusters[name].get(WEB)).endswith(f":{version}"))

    await wait_for(f"{name} to catch up", caught_up, timeout_s=WAIT_S)
    return f"the others went on; {name} came back and caught up with shop {version}"


# --- shared ----------------------------------------------------------------------------------------------------------


async def _rollout(world: World, revision: str, phase: str, *, offline: str = "") -> Mapping[str, Any]:
    """The shop's rollout to a revision, when it has got to a phase; and only `offline` was left behind, if one is."""

    async def there() -> Mapping[str, Any] | None:
        for row in (await world.api("rollouts?limit=20"))["rollouts"]:
            if row["revision"] == revision and "shop" in row["bundles"] and row["phase"] == phase:
                found: Mapping[str, Any] = await world.api(f"rollouts/{row['id']}")
                if not offline or left_behind(found) == [(offline, "offline")]:
                    return found
        return None

    found = await wait_for(f"a {phase} rollout of shop to {revision[:8]}", there, timeout_s=ROLLOUT_S)
    assert found is not None
    return found


def left_behind(rollout: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Pure: (cluster, phase) of each member that has not proven it runs the rollout's revision."""
    return [(row["cluster"], row["phase"]) for row in rollout["members"] if row["phase"] != "proven"]


async def until_offline(world: World, name: str) -> None:
    """Wait until a cluster that was cut off counts as offline: a move before that would count as lost."""

    async def silent() -> bool:
        row = await world.api(f"clusters/{name}")
        heard = datetime.fromisoformat(row["last_seen"])
        return bool(row["connection"] == "away" and (datetime.now(UTC) - heard).total_seconds() > OFFLINE_AFTER_S + 1)

    await wait_for(f"{name} to count as offline", silent, timeout_s=WAIT_S)


async def _last_event(world: World) -> int:
    found = (await world.api("events?limit=1"))["events"]
    return int(found[-1]["id"]) if found else 0


async def _all_connected(world: World) -> None:
    async def connected() -> bool:
        return bool((await world.api("fleet"))["clusters"]["connected"] == len(world.clusters))

    await wait_for("all clusters connected", connected, timeout_s=WAIT_S)


async def _told(
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


def _must(seen: bool, thing: str, cause: str) -> None:
    if not seen:
        raise Permanent(thing, cause)


STEPS = (
    Step(name="waves", title="① a commit travels in waves", play=waves),
    Step(name="drift", title="② hand edits are reverted", play=drift),
    Step(name="bad", title="③ a bad commit ends at the canary", play=bad),
    Step(name="hub", title="④ agents go on without the hub", play=hub),
    Step(name="offline", title="⑤ an offline cluster catches up", play=offline),
)
