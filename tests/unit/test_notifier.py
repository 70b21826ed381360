"""Messages on their way to receivers: told once and in order, whatever receivers, the hub and the disk do."""

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from hub import notifier as notifying
from hub.external.credentials import Credentials, Login
from hub.inputs import Happened
from hub.journal import EventRow
from hub.model import Finding
from hub.noteworthy import Receiver as Stated
from hub.notifier import Notifier
from proto.errors import Transient
from tests import real
from tests.agents import until
from tests.receiver import KEY, Receiver, receiving
from tests.unit.test_loop import CANARY, EU, SHOP, Hub, running


def of(hub: Hub, *receivers: Receiver, keys: tuple[bytes, ...] = (KEY,), **more: Any) -> Notifier:
    addresses = tuple(receiver.url for receiver in receivers)
    known = Credentials(logins={"hooks": Login(addresses=addresses, webhook_keys=keys)})
    changes: dict[str, Any] = {"delays": lambda: itertools.repeat(0.01), "credentials": lambda: known, **more}
    return Notifier(hub.loop, journal=hub.journal, clock=hub.clock, **changes)


async def state(hub: Hub, *urls: str, **changes: Any) -> None:
    """Have the fleet repo say whom to tell: `one`, `two` and so on."""
    names = ("one", "two", "three")
    stated = tuple(
        Stated(name=name, url=url, credentials="hooks", **changes) for name, url in zip(names, urls, strict=False)
    )
    made = hub.desired("0", {})
    await hub.turn(replace(made, fleet=replace(made.fleet, notify=stated)))


async def say(hub: Hub, *texts: str, kind: str = "clash") -> None:
    """Let things happen, each in a turn of its own."""
    for text in texts:
        hub.clock.now += 0.001
        await hub.turn(Happened(event=EventRow(time_s=hub.clock.now, kind=kind, text=text)))


@asynccontextmanager
async def running_notifier(made: Notifier) -> AsyncIterator[None]:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(made.run)
        yield
        tasks.cancel_scope.cancel()


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[Hub]:
    async with running(tmp_path) as made:
        yield made


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as made:
        yield made


def texts(receiver: Receiver) -> list[str]:
    return [body["data"]["text"] for body in receiver.taken]


def nothing_waits(hub: Hub) -> bool:
    return all(not waiting.pending for waiting in hub.journal.waiting().values())


async def test_what_happens_is_told_in_order_and_then_forgotten(hub: Hub, receiver: Receiver) -> None:
    await state(hub, receiver.url)
    async with running_notifier(of(hub, receiver)):
        await say(hub, "first", "second", "third")
        await until(lambda: len(receiver.taken) == 3)
        assert texts(receiver) == ["first", "second", "third"]
        sequences = [body["data"]["sequence"] for body in receiver.taken]
        assert sequences == sorted(sequences)
        await until(lambda: nothing_waits(hub))


async def test_a_receiver_that_was_away_gets_everything_once_and_in_order(hub: Hub, receiver: Receiver) -> None:
    await state(hub, receiver.url)
    receiver.down = 503
    async with running_notifier(of(hub, receiver)):
        await say(hub, "first", "second", "third")
        await until(lambda: len(receiver.asked) >= 3)
        assert len({headers["webhook-id"] for headers in receiver.asked}) == 1, "the first is tried until it arrives"
        receiver.down = 0
        await until(lambda: len(receiver.taken) == 3)
    assert texts(receiver) == ["first", "second", "third"]


async def test_an_address_that_nobody_listens_at_is_tried_again(hub: Hub) -> None:
    port = real.free_port()
    url = f"http://127.0.0.1:{port}/hook"
    await state(hub, url)
    made = of(hub, Receiver(url=url))
    async with running_notifier(made):
        await say(hub, "first")
        await until(lambda: bool(made.rows()[0]["error"]))
        assert "cannot be reached" in made.rows()[0]["error"]
        async with receiving(port) as receiver:
            await until(lambda: texts(receiver) == ["first"])


async def test_a_hub_that_is_killed_before_it_sends_sends_after_its_start(tmp_path: Path, receiver: Receiver) -> None:
    async with running(tmp_path) as hub:
        await state(hub, receiver.url)
        await say(hub, "first", "second")
    async with running(tmp_path) as hub:
        assert [one.name for one in hub.loop.receivers] == ["one"], "known before the fleet repo is read"
        async with running_notifier(of(hub, receiver)):
            await until(lambda: len(receiver.taken) == 2)
    assert texts(receiver) == ["first", "second"]


async def test_what_cannot_be_forgotten_is_not_sent_again_until_the_hub_is_killed_and_then_with_the_same_id(
    tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as hub:
        await state(hub, receiver.url)
        await say(hub, "first", "second")
        tried: list[object] = []

        def full(message: object) -> None:
            tried.append(message)
            raise Transient("journal.db", "database or disk is full")

        monkeypatch.setattr(hub.journal, "delivered", full)
        async with running_notifier(of(hub, receiver)):
            await until(lambda: len(tried) > 3)
        assert texts(receiver) == ["first"]
    async with running(tmp_path) as hub, running_notifier(of(hub, receiver)):
        await until(lambda: len(receiver.taken) == 3)
    assert texts(receiver) == ["first", "first", "second"]
    assert len(set(receiver.ids)) == 2


async def test_a_disk_that_is_full_for_the_decision_tells_nobody(
    hub: Hub, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    await state(hub, receiver.url)
    commit = hub.journal.commit

    def full(decision: object) -> None:
        raise Transient("journal.db", "database or disk is full")

    async with running_notifier(of(hub, receiver)):
        monkeypatch.setattr(hub.journal, "commit", full)
        with pytest.raises(Transient):
            await say(hub, "was never decided")
        monkeypatch.setattr(hub.journal, "commit", commit)
        await say(hub, "was decided")
        await until(lambda: bool(receiver.taken))
    assert texts(receiver) == ["was decided"]


@pytest.mark.parametrize("silent", [pytest.param(True, id="does not answer"), pytest.param(False, id="answers 500")])
async def test_a_receiver_in_trouble_keeps_neither_another_nor_the_loop_waiting(
    hub: Hub, receiver: Receiver, silent: bool
) -> None:
    async with receiving() as other:
        await state(hub, receiver.url, other.url)
        if silent:
            receiver.stalls = anyio.Event()
        else:
            receiver.down = 500
        made = of(hub, receiver, other)
        async with running_notifier(made):
            await say(hub, "first", "second")
            await until(lambda: len(other.taken) == 2)
            assert receiver.taken == []
            await until(lambda: {row["name"]: row["pending"] for row in made.rows()} == {"one": 2, "two": 0})


@pytest.mark.parametrize(
    "status",
    [pytest.param(status, id=str(status)) for status in (301, 307, 400, 401, 404, 410, 413)],
)
async def test_what_a_receiver_rejects_is_given_up_and_the_next_message_says_so(
    hub: Hub, receiver: Receiver, status: int
) -> None:
    await state(hub, receiver.url)
    receiver.answers, receiver.headers = [status], {"Location": receiver.url.replace("hook", "elsewhere")}
    made = of(hub, receiver)
    async with running_notifier(made):
        await say(hub, "first")
        await until(lambda: made.rows()[0]["lost"] == 1)
        assert f"answers with status {status}" in made.rows()[0]["error"]
        await say(hub, "second")
        await until(lambda: texts(receiver) == ["second"])
        await until(lambda: nothing_waits(hub))
    assert receiver.taken[0]["data"]["lost"] == 1
    assert made.rows()[0]["lost"] == 0, "it was told"
    assert made.rows()[0]["error"] == ""
    assert len(receiver.asked) == 2
    assert receiver.followed == 0, "a redirect leads nobody anywhere"


@pytest.mark.parametrize("status", [pytest.param(status, id=str(status)) for status in (408, 425, 429, 500, 502, 503)])
async def test_what_a_receiver_cannot_take_now_is_tried_again(hub: Hub, receiver: Receiver, status: int) -> None:
    await state(hub, receiver.url)
    receiver.answers = [status, status]
    async with running_notifier(of(hub, receiver)):
        await say(hub, "first")
        await until(lambda: texts(receiver) == ["first"])
    assert len(receiver.asked) == 3
    assert receiver.taken[0]["data"]["lost"] == 0


async def test_a_receiver_that_wants_to_be_left_alone_is_until_somebody_finds_it_well(
    hub: Hub, receiver: Receiver
) -> None:
    await state(hub, receiver.url)
    receiver.answers, receiver.headers = [429], {"Retry-After": "3000"}
    made = of(hub, receiver)
    async with running_notifier(made):
        await say(hub, "first")
        await until(lambda: bool(made.rows()[0]["error"]))
        await say(hub, "second")
        await anyio.wait_all_tasks_blocked()
        assert len(receiver.asked) == 1
        found = made.named("one")
        assert found is not None
        await made.test(found, actor="ann")
        await until(lambda: len(receiver.taken) == 3)
    assert receiver.types == ["test", "clash", "clash"]
    assert texts(receiver)[0] == "this is a test of receiver one, by ann"


async def test_a_message_that_nobody_took_for_a_day_is_given_up(hub: Hub, receiver: Receiver) -> None:
    await state(hub, receiver.url)
    receiver.down = 500
    made = of(hub, receiver)
    async with running_notifier(made):
        await say(hub, "first")
        await until(lambda: len(receiver.asked) > 1)
        assert made.rows()[0]["lost"] == 0
        hub.clock.now += notifying.GIVE_UP_S
        await until(lambda: made.rows()[0]["lost"] == 1)
        await say(hub, "second")
        receiver.down = 0
        await until(lambda: texts(receiver) == ["second"])


async def test_a_receiver_that_fails_for_long_is_a_problem_that_names_it(hub: Hub, receiver: Receiver) -> None:
    await state(hub, receiver.url)
    receiver.down = 500
    made = of(hub, receiver)
    async with running_notifier(made):
        await say(hub, "first")
        await until(lambda: len(receiver.asked) > 1)
        assert made.problems() == []
        hub.clock.now += notifying.TOLD_AFTER_S
        [problem] = made.problems()
        assert problem.startswith("receiver one: answers with status 500")
        receiver.down = 0
        await until(lambda: made.problems() == [])


async def test_one_key_is_renewed_without_a_message_lost(hub: Hub, receiver: Receiver) -> None:
    await state(hub, receiver.url)
    async with running_notifier(of(hub, receiver, keys=(b"n" * 32, KEY))):
        await say(hub, "first")
        await until(lambda: texts(receiver) == ["first"])
    assert receiver.asked[0]["webhook-signature"].count("v1,") == 2


@pytest.mark.parametrize(
    ("login", "why"),
    [
        pytest.param(None, "not among those that may be used here", id="no such credentials"),
        pytest.param(
            Login(addresses=("https://hooks.example.org",), webhook_keys=(KEY,)), "are not for", id="other host"
        ),
        pytest.param(Login(addresses=("http://127.0.0.1",)), "are not for", id="another port"),
        pytest.param(Login(), "are not for", id="no address"),
    ],
)
async def test_an_address_that_the_hubs_owner_did_not_list_is_never_asked_and_nothing_is_lost(
    hub: Hub, receiver: Receiver, login: Login | None, why: str
) -> None:
    await state(hub, receiver.url)
    known = [Credentials(logins={} if login is None else {"hooks": login})]
    made = of(hub, receiver, credentials=lambda: known[0])
    async with running_notifier(made):
        await say(hub, "first")
        await until(lambda: why in made.rows()[0]["error"])
        assert receiver.asked == []
        known[0] = Credentials(logins={"hooks": Login(addresses=(receiver.url,), webhook_keys=(KEY,))})
        await until(lambda: texts(receiver) == ["first"])


async def test_credentials_that_do_not_sign_send_nothing(hub: Hub, receiver: Receiver) -> None:
    await state(hub, receiver.url)
    made = of(hub, receiver, keys=())
    async with running_notifier(made):
        await say(hub, "first")
        await until(lambda: "do not sign" in made.rows()[0]["error"])
    assert receiver.asked == []
    assert made.rows()[0]["pending"] == 1


async def test_a_receiver_that_moves_gets_at_its_new_address_what_waited(hub: Hub, receiver: Receiver) -> None:
    async with receiving() as other:
        await state(hub, receiver.url)
        receiver.down = 500
        async with running_notifier(of(hub, receiver, other)):
            await say(hub, "first")
            await until(lambda: bool(receiver.asked))
            await state(hub, other.url)
            await until(lambda: texts(other) == ["first"])


async def test_a_receiver_that_is_gone_from_git_is_forgotten_and_one_in_a_broken_file_is_not(
    hub: Hub, receiver: Receiver
) -> None:
    await state(hub, receiver.url)
    receiver.down = 500
    async with running_notifier(of(hub, receiver)):
        await say(hub, "first")
        broken = hub.desired("1", {})
        await hub.turn(
            replace(broken, fleet=replace(broken.fleet, findings=(Finding(where="fleet.yaml:3", message="x"),)))
        )
        assert [one.name for one in hub.loop.receivers] == ["one"]
        assert not nothing_waits(hub)
        await state(hub)
        await until(lambda: nothing_waits(hub))
    assert hub.loop.receivers == ()


async def test_messages_of_a_rollout_go_to_who_wants_them(hub: Hub, receiver: Receiver) -> None:
    async with receiving() as other:
        subtree = hub.subtree("shop", "one")
        stated = (
            Stated(name="all", url=receiver.url, credentials="hooks"),
            Stated(name="some", url=other.url, credentials="hooks", events=("rollout-completed",), bundles=("sh*",)),
        )
        made = hub.desired("a", {SHOP: subtree}, author="Ada", subject="A shop")
        await hub.turn(replace(made, fleet=replace(made.fleet, notify=stated)), hub.says(CANARY), hub.says(EU))
        async with running_notifier(of(hub, receiver, other)):
            await hub.turn(hub.says(CANARY), hub.says(EU))
            await hub.turn(hub.says(CANARY), hub.says(EU))
            await until(lambda: other.types == ["rollout-completed"])
            await until(lambda: nothing_waits(hub))
        assert receiver.types == ["rollout-started", "wave-opened", "wave-opened", "rollout-completed"]
        rollout = other.taken[0]["data"]["rollout"]
        assert (rollout["author"], rollout["subject"], rollout["phase"]) == ("Ada", "A shop", "completed")
        assert rollout["clusters"] == {"total": 2, "proven": 2}
        assert set(receiver.ids) > set(other.ids), "one message has one id, whoever gets it"
