"""The follower of the fleet repo, with a real repository: what it hands on and refuses, and that nothing ends it."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pygit2
import pytest

from hub import worker
from hub.desired import Desired
from hub.journal import EventRow
from hub.model import Fleet
from hub.repo import signers
from hub.repo.verification import NOBODY_LOOKS, Verification
from hub.upstream import TOLD_AFTER_S, Upstream
from proto.errors import Refused, Transient
from proto.ids import Oid
from tests.signing import needs

WHO = pygit2.Signature("Ada", "ada@example.org", 1_700_000_000, 0)


class Repo:
    """Upstream's repository."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.git = pygit2.init_repository(str(path), initial_head="main")

    def commit(self, text: str, *, orphan: bool = False) -> str:
        ref = self.git.references.get("refs/heads/main")
        parents = [str(ref.target)] if ref is not None and not orphan else []
        tree = self.git.TreeBuilder()
        tree.insert("file", self.git.create_blob(text.encode()), pygit2.enums.FileMode.BLOB)
        oid = self.git.create_commit(None, WHO, WHO, text, tree.write(), parents)
        self.git.references.create("refs/heads/main", oid, force=True)
        return str(oid)


class Hub:
    """What stands behind the follower: renders and takes, or fails as `failing` says."""

    def __init__(self, repo: Repo, mirror: Path, *, poll_s: float = 3600.0, trust: Verification = NOBODY_LOOKS) -> None:
        self.rendered: list[str] = []
        self.taken: list[str] = []
        self.failing: Exception | None = None
        self.unfinished = False
        self.noted: list[EventRow] = []
        self.now = 7.0
        self.upstream = Upstream(
            str(repo.path),
            "main",
            mirror=mirror,
            poll_s=poll_s,
            trust=trust,
            render=self.render,
            take=self.take,
            note=self.noted.append,
            clock=lambda: self.now,
        )

    async def render(self, commit: Oid) -> Desired:
        self.rendered.append(commit)
        if self.failing is not None:
            raise self.failing
        return Desired(
            commit=commit, fleet=Fleet(), subtrees={}, failed=frozenset(), findings=(), unfinished=self.unfinished
        )

    async def take(self, desired: Desired) -> None:
        self.taken.append(desired.commit)


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    return Repo(tmp_path / "upstream")


@pytest.fixture
def hub(repo: Repo, tmp_path: Path) -> Hub:
    return Hub(repo, tmp_path / "mirror")


@asynccontextmanager
async def following(hub: Hub) -> AsyncIterator[Callable[[Callable[[], bool]], Awaitable[None]]]:
    """The follower running; gives a function that waits for a condition."""

    async def until(true: Callable[[], bool]) -> None:
        with anyio.fail_after(30):
            while not true():  # noqa: ASYNC110
                await anyio.sleep(0.01)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(hub.upstream.run, name="upstream")
        yield until
        tasks.cancel_scope.cancel()


async def test_each_commit_is_rendered_and_handed_on_once(repo: Repo, hub: Hub) -> None:
    first = repo.commit("one")
    for _ in range(3):
        await hub.upstream.sync()
    assert (hub.rendered, hub.taken) == ([first], [first])
    second = repo.commit("two")
    await hub.upstream.sync()
    assert hub.taken == [first, second]
    assert (hub.upstream.tip, hub.upstream.synced_s) == (second, 7.0)


async def test_a_fetch_may_take_as_long_as_a_large_repository_on_a_slow_line_does_but_for_the_first_of_a_start(
    repo: Repo, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, limits = worker.run, []

    async def noted(*arguments: Any, time_limit_s: float = worker.TIME_LIMIT_S, **options: Any) -> Any:
        limits.append(time_limit_s)
        return await run(*arguments, time_limit_s=time_limit_s, **options)

    monkeypatch.setattr(worker, "run", noted)
    repo.commit("one")
    for _ in range(2):
        await hub.upstream.sync()
    assert limits == [worker.TIME_LIMIT_S, 3600.0]


async def test_a_rewritten_history_is_refused_until_it_is_accepted(repo: Repo, hub: Hub) -> None:
    first = repo.commit("one")
    await hub.upstream.sync()
    rewritten = repo.commit("other", orphan=True)
    for _ in range(2):
        with pytest.raises(Refused, match=r"was rewritten.*flotilla sync --accept-rewrite"):
            await hub.upstream.sync()
    assert (hub.taken, hub.upstream.tip) == ([first], first)
    hub.upstream.poke(accept_rewrite=True)
    await hub.upstream.sync()
    assert hub.taken == [first, rewritten]
    repo.commit("again", orphan=True)
    with pytest.raises(Refused):  # it was accepted once, not for ever
        await hub.upstream.sync()


async def test_a_poke_looks_at_once_and_the_problem_is_told_while_it_lasts(repo: Repo, hub: Hub) -> None:
    async with following(hub) as until:
        await until(lambda: hub.upstream.problem != "")
        assert "has no commits yet" in hub.upstream.problem
        tip = repo.commit("one")
        hub.upstream.poke()
        await until(lambda: hub.taken == [tip])
        await until(lambda: hub.upstream.problem == "")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        pytest.param(Transient("bundle shop", "its worker is busy"), "its worker is busy", id="trouble that passes"),
        pytest.param(KeyError("secret"), "in a way we did not expect: KeyError", id="a bug"),
    ],
)
async def test_a_commit_that_could_not_be_rendered_is_tried_again(
    repo: Repo, tmp_path: Path, error: Exception, told: str
) -> None:
    hub = Hub(repo, tmp_path / "mirror", poll_s=0.01)
    tip = repo.commit("one")
    hub.failing = error
    async with following(hub) as until:
        await until(lambda: len(hub.rendered) >= 2)
        assert told in hub.upstream.problem
        assert "secret" not in hub.upstream.problem
        assert hub.taken == []
        hub.failing = None
        await until(lambda: hub.taken == [tip] and hub.upstream.problem == "")


async def test_a_commit_that_the_loop_did_not_store_is_handed_on_again(
    repo: Repo, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    tip = repo.commit("one")

    async def full(_: Desired) -> None:
        raise Transient("journal.db", "database or disk is full")

    with monkeypatch.context() as broken:
        broken.setattr(hub.upstream, "_take", full)
        with pytest.raises(Transient):
            await hub.upstream.sync()
    assert hub.upstream.tip is None
    await hub.upstream.sync()
    assert hub.taken == [tip]


async def test_a_commit_whose_renders_lacked_room_is_rendered_at_each_look_until_all_had_it(
    repo: Repo, hub: Hub
) -> None:
    tip = repo.commit("one")
    hub.unfinished = True
    await hub.upstream.sync()
    hub.unfinished = False
    for _ in range(3):
        await hub.upstream.sync()
    assert (hub.rendered, hub.taken) == ([tip, tip], [tip, tip])


async def test_a_poke_renders_the_same_commit_again(repo: Repo, hub: Hub) -> None:
    tip = repo.commit("one")
    await hub.upstream.sync()
    hub.upstream.poke()
    await hub.upstream.sync()
    await hub.upstream.sync()
    assert hub.taken == [tip, tip]


async def test_many_wake_ups_are_one_look_that_renders_nothing_again(
    repo: Repo, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[str] = []
    sync, first = hub.upstream.sync, repo.commit("one")

    async def counted() -> None:
        await sync()
        looks.append(hub.upstream.tip or "")

    monkeypatch.setattr(hub.upstream, "sync", counted)
    monkeypatch.setattr("hub.upstream.WAKE_GAP_S", 0.1)
    async with following(hub) as until:
        await until(lambda: hub.taken == [first])
        for _ in range(100):
            hub.upstream.wake()
        await until(lambda: len(looks) == 2)
        assert hub.taken == [first]
        second = repo.commit("two")
        hub.upstream.wake()
        await until(lambda: hub.taken == [first, second])
    assert len(looks) == 3


async def test_a_wake_up_during_a_look_causes_another_one(
    repo: Repo, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hub.upstream.WAKE_GAP_S", 0.0)
    first, taken = repo.commit("one"), hub.take

    async def pushed_meanwhile(desired: Desired) -> None:
        await taken(desired)
        if len(hub.taken) == 1:
            repo.commit("two")
            hub.upstream.wake()

    monkeypatch.setattr(hub.upstream, "_take", pushed_meanwhile)
    async with following(hub) as until:
        await until(lambda: len(hub.taken) == 2)
    assert hub.taken[0] == first


async def test_what_is_wrong_with_signatures_is_a_problem_while_it_lasts_and_the_commit_is_taken(
    repo: Repo, tmp_path: Path
) -> None:
    needs("ssh-keygen")
    key = "ada@example.org ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGZ6oLwL2vGmPlNrNWJNbBwyvlP1vUZy9aVPvFKuC8Yu"
    trust = Verification(mode="warn", pinned=signers.read(key, what="pinned"))
    hub = Hub(repo, tmp_path / "mirror", trust=trust)
    tip = repo.commit("one")
    async with following(hub) as until:
        await until(lambda: hub.upstream.problem != "")
        assert hub.upstream.problem == f"fleet repo {repo.path}: commit {tip} by Ada is not signed"
        assert hub.taken == [tip]


async def test_a_commit_that_is_not_signed_is_never_rendered_under_enforce(repo: Repo, tmp_path: Path) -> None:
    hub = Hub(repo, tmp_path / "mirror", trust=Verification(mode="enforce"))
    repo.commit("one")
    for _ in range(2):
        with pytest.raises(Refused, match="names a signer"):
            await hub.upstream.sync()
    assert (hub.rendered, hub.taken, hub.upstream.tip) == ([], [], None)


async def test_a_hub_that_starts_while_upstream_is_away_goes_on_with_what_was_taken(repo: Repo, tmp_path: Path) -> None:
    tip, before = repo.commit("one"), Hub(repo, tmp_path / "mirror")
    await before.upstream.sync()
    repo.path.rename(tmp_path / "away")
    hub = Hub(repo, tmp_path / "mirror")
    for _ in range(2):
        with pytest.raises(Transient, match="there is no such folder"):
            await hub.upstream.sync()
    assert (hub.taken, hub.upstream.tip) == ([tip], tip)  # once
    (tmp_path / "away").rename(repo.path)
    second = repo.commit("two")
    await hub.upstream.sync()
    assert hub.taken == [tip, second]


async def test_a_hub_that_starts_while_the_tip_is_refused_goes_on_with_the_one_before(
    repo: Repo, tmp_path: Path
) -> None:
    tip, before = repo.commit("one"), Hub(repo, tmp_path / "mirror")
    await before.upstream.sync()
    repo.commit("other", orphan=True)
    hub = Hub(repo, tmp_path / "mirror")
    with pytest.raises(Refused, match="was rewritten"):
        await hub.upstream.sync()
    assert hub.taken == [tip]
    strict = Hub(repo, tmp_path / "mirror", trust=Verification(mode="enforce"))
    with pytest.raises(Refused):
        await strict.upstream.sync()
    assert strict.taken == []  # what nobody signed does not run on either


async def test_what_was_taken_and_cannot_be_used_now_leaves_the_first_error(repo: Repo, tmp_path: Path) -> None:
    repo.commit("one")
    await Hub(repo, tmp_path / "mirror").upstream.sync()
    repo.path.rename(tmp_path / "away")
    hub = Hub(repo, tmp_path / "mirror")
    hub.failing = Transient("bundle shop", "its worker is busy")
    with pytest.raises(Transient, match="there is no such folder"):
        await hub.upstream.sync()
    assert hub.upstream.tip is None


@pytest.mark.parametrize(
    ("error", "at_once"),
    [
        pytest.param(Transient("fleet repo", "its host is away"), False, id="trouble that may pass"),
        pytest.param(Refused("fleet repo", "nobody gets in"), True, id="trouble that stays"),
        pytest.param(KeyError("x"), True, id="a bug"),
    ],
)
async def test_trouble_is_an_event_once_it_is_known_to_last_and_another_when_it_is_over(
    repo: Repo, hub: Hub, error: Exception, at_once: bool
) -> None:
    repo.commit("one")
    hub.failing = error
    async with following(hub) as until:
        await until(lambda: hub.upstream.problem != "")
        assert bool(hub.noted) == at_once
        hub.now += TOLD_AFTER_S
        for looks in (2, 3):
            hub.upstream.poke()
            await until(lambda looks=looks: len(hub.rendered) >= looks)  # type: ignore[misc]
        hub.failing = None
        hub.upstream.poke()
        await until(lambda: hub.upstream.problem == "")
    assert [(event.kind, event.data["severity"]) for event in hub.noted] == [
        ("upstream", "warning"),
        ("upstream", "info"),
    ]


async def test_trouble_that_passes_by_itself_is_nobodys_business(repo: Repo, hub: Hub) -> None:
    repo.commit("one")
    hub.failing = Transient("fleet repo", "its host is away")
    async with following(hub) as until:
        await until(lambda: hub.upstream.problem != "")
        hub.failing = None
        hub.upstream.poke()
        await until(lambda: hub.upstream.problem == "")
    assert hub.noted == []


async def test_a_commit_comes_with_its_author_and_its_first_line(
    repo: Repo, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[Desired] = []

    async def take(desired: Desired) -> None:
        taken.append(desired)

    monkeypatch.setattr(hub.upstream, "_take", take)
    repo.commit("A new door\n\nIt is red.")
    await hub.upstream.sync()
    assert [(one.author, one.subject) for one in taken] == [("Ada", "A new door")]
