"""The demo's steps about commits: how one travels, what stops it, and how it goes back. Next: `story` has them all."""

from shlex import quote

from hub.demo import seen
from hub.demo.fleet import FREEZE
from hub.demo.world import wait_for

SINGLE_WAVES = 3
"""So many clusters, or fewer, are one to a wave."""


async def waves(world: seen.World, say: seen.Say) -> str:
    revision, version = await world.repo.release()
    await say(f"Dana commits shop {version}")
    canary, *others = world.clusters
    seen.stopped_behind(await seen.at_gate(world, revision), canary, others)
    await approve(world, say, revision, "the canary is well")
    rollout = await seen.rollout(world, revision, "completed")
    events = (await world.api("events?limit=1000"))["events"]
    order = seen.waves_in_order(rollout, events)
    await _runs_everywhere(world, version)
    return f"shop {version} in {len(world.clusters)} clusters: {order}; {len(others)} of them when somebody approved"


async def bad(world: seen.World, say: seen.Say) -> str:
    canary, *others = world.clusters
    before = {name: (await world.clusters[name].get(seen.WEB))["metadata"]["generation"] for name in others}
    was = await world.clusters[canary].get(seen.WEB)
    revision = await world.repo.break_()
    await say("Dana commits a shop that cannot start")
    rollout = await seen.rollout(world, revision, "rolled-back")
    seen.never_reached(rollout, canary, others)
    for name in others:
        now = (await world.clusters[name].get(seen.WEB))["metadata"]["generation"]
        seen.must(now == before[name], f"{name}: the bad commit", "reached it")
    back = await world.clusters[canary].get(seen.WEB)
    seen.must(seen.pod(back) == seen.pod(was), f"{canary}: the shop", "is not what it was before")
    await _on_hold(world)
    return f"failed and rolled back there; {len(others)} others never got it; the shop is on hold"


async def rollback(world: seen.World, say: seen.Say) -> str:
    was = {name: await cluster.get(seen.WEB) for name, cluster in world.clusters.items()}
    waves = await seen.waves_of(world)
    last = waves[list(world.clusters)[-1]]
    revision, version = await world.repo.unfit(last)
    await say(f"Dana commits shop {version}: the canary can start it, {last} cannot")
    await approve(world, say, revision, "the canary is well")
    rollout = await seen.rollout(world, revision, "rolled-back")
    order = seen.in_reverse(rollout, waves)
    for name, cluster in world.clusters.items():
        back = await cluster.get(seen.WEB)
        seen.must(seen.pod(back) == seen.pod(was[name]), f"{name}: the shop", "is not what it was before")
    await _on_hold(world)
    return f"failed in {last}; {len(order)} clusters went back, {' → '.join(dict.fromkeys(waves[c] for c in order))}"


async def freeze(world: seen.World, say: seen.Say) -> str:
    was = {name: seen.image(await cluster.get(seen.WEB)) for name, cluster in world.clusters.items()}
    await say(f"Dana freezes the fleet in fleet.yaml: {FREEZE}")
    await world.repo.freeze()
    revision, version = await world.repo.release()
    await say(f"Dana commits a fix, shop {version}, which ends the hold and waits")
    waiting = await seen.rollout(world, revision, "running", reason=FREEZE)
    await say(f"{waiting['id']} waits: {waiting['reason']}")
    moved = [row["cluster"] for row in waiting["members"] if row["phase"] != "pending"]
    seen.must(not moved, f"rollout {waiting['id']}", f"moved {', '.join(moved)} in a freeze")
    now = {name: seen.image(await cluster.get(seen.WEB)) for name, cluster in world.clusters.items()}
    seen.must(now == was, "the frozen fleet", "did not stay as it was")
    await world.repo.thaw()
    await say(f"{FREEZE} is over: the freeze leaves fleet.yaml")
    await approve(world, say, revision, "the fix works in the canary")
    await seen.rollout(world, revision, "completed")
    await _runs_everywhere(world, version)
    seen.must("shop" not in (await world.api("fleet"))["holds"], "bundle shop", "is still on hold")
    return f"shop {version} waited in words, and went out when the freeze was over"


async def offline(world: seen.World, say: seen.Say) -> str:
    name = list(world.clusters)[-1]
    await seen.all_connected(world)
    await world.cut(name)
    await say(f"{name} goes offline")

    await seen.until_offline(world, name)
    revision, version = await world.repo.release()
    await say(f"Dana commits shop {version}; {name} will not hear of it")
    await approve(world, say, revision, f"{name} will catch up")
    # No wave is done without a proof: a cluster that has a wave to itself is waited for.
    alone = len(world.clusters) <= SINGLE_WAVES
    rollout = await seen.rollout(world, revision, "running" if alone else "completed", offline=name)
    runs = seen.image(await world.clusters[name].get(seen.WEB))
    seen.must(not runs.endswith(f":{version}"), name, "has it although it was offline")
    await world.connect(name)
    await say(f"{name} comes back")

    async def caught_up() -> bool:
        found = await world.api(f"rollouts/{rollout['id']}")
        proven = any(row["cluster"] == name and row["phase"] == "proven" for row in found["members"])
        return bool(proven and seen.image(await world.clusters[name].get(seen.WEB)).endswith(f":{version}"))

    await wait_for(f"{name} to catch up", caught_up, timeout_s=seen.WAIT_S)
    return f"the others went on; {name} came back and caught up with shop {version}"


async def approve(world: seen.World, say: seen.Say, revision: str, reason: str) -> None:
    """Open the gate at which the shop's rollout to a revision waits, once it does, as a person does."""
    waiting = await seen.at_gate(world, revision)
    await say(f"Dana: flotilla approve {waiting['id']} --reason {quote(reason)}")
    await world.flotilla("approve", waiting["id"], "--reason", reason)


async def _runs_everywhere(world: seen.World, version: str) -> None:
    for name, cluster in world.clusters.items():
        web = await cluster.get(seen.WEB)
        runs = seen.image(web)
        seen.must(runs.endswith(f":{version}"), f"{name}: shop {version}", f"is not what runs: {runs}")
        ready = web.get("status", {}).get("readyReplicas")
        seen.must(ready == web["spec"]["replicas"], f"{name}: shop {version}", f"has {ready} ready replicas")


async def _on_hold(world: seen.World) -> None:
    seen.must("shop" in (await world.api("fleet"))["holds"], "bundle shop", "is not on hold")
