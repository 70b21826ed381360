"""The demo's steps about people with kubectl, and about agents without a hub. Next: `story` has them all."""

import anyio

from hub.demo import seen
from hub.demo.world import wait_for


async def drift(world: seen.World, say: seen.Say) -> str:
    first, second = list(world.clusters)[1 if len(world.clusters) > 2 else 0], list(world.clusters)[-1]
    one, two = world.clusters[first], world.clusters[second]
    before = {name: await cluster.get(seen.WEB) for name, cluster in ((first, one), (second, two))}
    since = await seen.last_event(world)

    await say(f"somebody sets another image in {first}, with kubectl edit")
    path = "/spec/template/spec/containers/0/image"
    await one.patch(
        seen.WEB, [{"op": "replace", "path": path, "value": "evil.example.org/shop"}], manager="kubectl-edit"
    )
    await say(f"somebody scales the shop of {second} to 9")
    await two.patch(f"{seen.WEB}/scale", {"spec": {"replicas": 9}}, manager="kubectl-scale")
    edited = await seen.wait_told(
        world,
        since,
        first,
        "Deployment/shop/web",
        manager="kubectl-edit",
        field='.spec.template.spec.containers[name="web"].image',
    )
    await seen.wait_told(world, since, second, "Deployment/shop/web", manager="kubectl-scale", field=".spec.replicas")
    # Not for the scaling: a real API server keeps no time of a change that came through the scale subresource.
    seen.must(bool(edited.get("time")), "drift report", "does not say when")

    for name, cluster, path_, kept in ((first, one, seen.SETTINGS, "data"), (second, two, seen.SERVICE, "spec")):
        gone = await cluster.get(path_)
        what = f"{gone['kind']}/shop/{gone['metadata']['name']}"
        await say(f"somebody deletes {what} in {name}")
        await cluster.delete(path_)
        told = await seen.wait_told(world, since, name, what, what="deleted")
        back = await cluster.get(path_)
        seen.must(
            back is not None and back["metadata"]["uid"] != gone["metadata"]["uid"],
            f"{name}: {what}",
            f"did not come back, although the agent says: {told['action']}",
        )
        keys = set(gone[kept]) - {"clusterIP", "clusterIPs"}
        seen.must(all(back[kept].get(key) == gone[kept][key] for key in keys), f"{name}: {what}", "came back different")

    for name, cluster in ((first, one), (second, two)):
        web = await cluster.get(seen.WEB)
        seen.must(seen.image(web) == seen.image(before[name]), f"{name}: image", f"is still {seen.image(web)}")
        replicas = before[name]["spec"]["replicas"]
        seen.must(web["spec"]["replicas"] == replicas, f"{name}: replicas", f"are still {web['spec']['replicas']}")
    return f"2 edits, with field, who and (as far as kept) when, and 2 deletions; all reverted, in {first} and {second}"


async def hub(world: seen.World, say: seen.Say) -> str:
    name = list(world.clusters)[min(2, len(world.clusters) - 1)]
    cluster = world.clusters[name]
    replicas = (await cluster.get(seen.WEB))["spec"]["replicas"]
    since = await seen.last_event(world)
    await world.stop_hub()
    await say(f"the hub is stopped; meanwhile the night shift scales the shop of {name} to 7")
    edited = await cluster.patch(seen.WEB, {"spec": {"replicas": 7}}, manager="night-shift")
    seen.must(edited["spec"]["replicas"] == 7, f"{name}: the edit", "did not take")
    began = anyio.current_time()

    async def reverted() -> bool:
        return bool((await cluster.get(seen.WEB))["spec"]["replicas"] == replicas)

    await wait_for(f"the revert in {name} without the hub", reverted, timeout_s=seen.WAIT_S)
    took = anyio.current_time() - began
    await say(f"{name} is back at {replicas} replicas, without the hub")
    await world.start_hub()
    await say("the hub is back")
    await seen.wait_told(world, since, name, "Deployment/shop/web", manager="night-shift", field=".spec.replicas")
    return f"{name} reverted within {took * 1000:.0f} ms; its report came when the hub was back"
