"""Housekeeping with the real journal, loop and store: nothing goes that anybody still counts on."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from hub import worker
from hub.desired import Desired
from hub.housekeeping import Housekeeping
from hub.renders import Notes
from hub.slices.compose import HISTORY_S
from proto.errors import Permanent
from proto.ids import Oid
from tests.unit.test_loop import CANARY, EU, NOTES, SHOP, Hub, rolled_out, running


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[Hub]:
    async with running(tmp_path) as made:
        yield made


@pytest.fixture
def keeper(hub: Hub) -> Housekeeping:
    return Housekeeping(hub.loop, store=hub.store, journal=hub.journal, clock=hub.clock)


async def rendered(keeper: Housekeeping, desired: Desired) -> None:
    async def render() -> Desired:
        return desired

    assert await keeper.rendered(render) is desired


async def test_what_runs_is_last_good_or_is_wanted_stays_and_what_never_ran_goes(
    hub: Hub, keeper: Housekeeping
) -> None:
    one, two, three, never = (hub.subtree("shop", text) for text in ("one", "two", "three", "never"))
    await rolled_out(hub, "a", {SHOP: one})
    await hub.turn(hub.desired("b", {SHOP: two}))
    await hub.turn(hub.says(CANARY))  # the canary runs `two`, eu-1 still `one`
    await rendered(keeper, hub.desired("c", {SHOP: three}))
    keys = {oid: f"key of {number}" for number, oid in enumerate((one, two, three, never))}
    hub.journal.remember_renders([(key, "shop", oid, "a" * 40, Notes()) for oid, key in keys.items()])
    assert await keeper.collect(least=0.0)
    assert [hub.store.has(oid) for oid in (one, two, three, never)] == [True, True, True, False]
    assert hub.journal.renders(keys.values()).keys() == {keys[one], keys[two], keys[three]}
    await hub.turn(hub.says(CANARY), hub.says(EU))
    assert hub.loop.problem == ""
    commits = [row.commit for row in hub.loop.slices.values()]
    assert all(hub.store.read(oid) for commit in commits for oid in hub.store.missing([commit], []))


async def test_a_subtree_of_old_history_goes_after_the_history_is_cut(hub: Hub, keeper: Housekeeping) -> None:
    one, two = hub.subtree("shop", "one"), hub.subtree("shop", "two")
    await rolled_out(hub, "a", {SHOP: one})
    first = hub.loop.slices[CANARY].commit
    hub.clock.now += HISTORY_S + 1
    await rolled_out(hub, "b", {SHOP: two})
    cut = hub.loop.slices[CANARY]
    assert list(hub.store.history(cut.commit)) == [cut.commit]
    assert hub.store.ref(CANARY) == cut.commit
    await rendered(keeper, hub.desired("b", {SHOP: two}))
    await keeper.collect(least=0.0)
    assert hub.store.has(first)
    hub.clock.now += HISTORY_S + 1
    three = hub.subtree("shop", "three")
    await rolled_out(hub, "c", {SHOP: three})
    await rendered(keeper, hub.desired("c", {SHOP: three}))
    assert await keeper.collect(least=0.0)
    assert [hub.store.has(oid) for oid in (first, one, two, three)] == [False, False, True, True]
    assert hub.journal.in_chain(CANARY, first)  # its row stays: the list of deployments is not cut


async def test_nothing_goes_before_it_is_known_what_is_wanted(hub: Hub, keeper: Housekeeping) -> None:
    never = hub.subtree("shop", "never")
    assert not await keeper.collect(least=0.0)
    assert hub.store.has(never)


def between(monkeypatch: pytest.MonkeyPatch, first: Callable[[], Any]) -> None:
    """Let something happen after the first look at what is needed."""
    run = worker.run
    done = False

    async def interrupted(*args: Any, **kwargs: Any) -> Any:
        nonlocal done
        found = await run(*args, **kwargs)
        if not done:
            done = True
            await first()
        return found

    monkeypatch.setattr(worker, "run", interrupted)


async def test_what_is_moved_or_rendered_during_a_collection_stays(
    hub: Hub, keeper: Housekeeping, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two, notes, never = (
        hub.subtree("shop", "one"), hub.subtree("shop", "two"), hub.subtree("notes", "x", name="n"),
        hub.subtree("shop", "never"),
    )  # fmt: skip
    await rolled_out(hub, "a", {SHOP: one})
    await rendered(keeper, hub.desired("a", {SHOP: one}))

    async def meanwhile() -> None:
        await hub.turn(hub.desired("b", {SHOP: two}))  # stored long ago, and wanted only now
        await rendered(keeper, hub.desired("c", {SHOP: two, NOTES: notes}))

    between(monkeypatch, meanwhile)
    assert await keeper.collect(least=0.0)
    assert [hub.store.has(oid) for oid in (one, two, notes, never)] == [True, True, True, False]
    assert len(hub.store.files(notes)) == 2
    assert all(map(hub.store.read, hub.store.files(notes).values()))


async def test_a_collection_waits_for_a_rendering_that_is_under_way(
    hub: Hub, keeper: Housekeeping, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = hub.subtree("shop", "found again")
    await rendered(keeper, hub.desired("a", {SHOP: hub.subtree("shop", "one")}))
    go_on = anyio.Event()

    async def render() -> Desired:
        assert hub.store.has(found)  # rendered before, so it is not rendered now
        await go_on.wait()
        return hub.desired("b", {SHOP: found})

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(keeper.rendered, render)
        await anyio.wait_all_tasks_blocked()

        async def soon() -> None:
            tasks.start_soon(anyio.sleep, 0)
            go_on.set()

        between(monkeypatch, soon)
        assert await keeper.collect(least=0.0)
    assert hub.store.has(found)


async def test_a_broken_store_loses_nothing_more(hub: Hub, keeper: Housekeeping) -> None:
    one, never = hub.subtree("shop", "one"), hub.subtree("shop", "never")
    (half,) = hub.store.write([("tree", b"40000 b\0" + b"\x22" * 20)])
    await rendered(keeper, hub.desired("a", {SHOP: one, NOTES: Oid(half)}))
    with pytest.raises(Permanent, match="is missing or broken"):
        await keeper.collect(least=0.0)
    assert hub.store.has(never)


async def test_a_look_merges_many_packs_and_collects_when_the_store_has_grown(hub: Hub, keeper: Housekeeping) -> None:
    one = hub.subtree("shop", "one")
    unused = [hub.subtree("shop", f"{number}") for number in range(60)]
    await rolled_out(hub, "a", {SHOP: one})
    await rendered(keeper, hub.desired("a", {SHOP: one}))
    await keeper.look()
    assert len(hub.store.pack_sizes) == 1
    assert not any(map(hub.store.has, unused))
    again = hub.subtree("shop", "7")
    await keeper.look()  # one more subtree is a third of what there is
    assert not hub.store.has(again)


async def test_a_look_at_a_store_without_garbage_merges_its_packs(hub: Hub, keeper: Housekeeping) -> None:
    oids = [hub.subtree("shop", f"{number}") for number in range(60)]
    await keeper.look()
    assert len(hub.store.pack_sizes) < 60
    assert all(map(hub.store.keys, oids))
