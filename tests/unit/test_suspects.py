"""Which suspicion is confirmed when."""

import pytest

from agent.drift.suspects import (
    BURST,
    BUSY_S,
    CROWD,
    FASTEST,
    FORGET_S,
    LONGEST_S,
    LOOKS,
    PASSES,
    PATIENCE,
    RATE,
    RESERVE,
    SLOWEST,
    Contest,
    Held,
    Suspect,
    Suspects,
)
from agent.model import Resource, WatchEvent
from proto.objects import ObjectKey

RESOURCE = Resource(group="", version="v1", kind="ConfigMap", plural="configmaps", namespaced=True)


def key(name: str) -> ObjectKey:
    return ObjectKey(group="", kind="ConfigMap", namespace="shop", name=name)


def event(version: str = "1") -> WatchEvent:
    return WatchEvent(kind="MODIFIED", resource=RESOURCE, object={"metadata": {"resourceVersion": version}})


def add(suspects: Suspects, name: str, now: float, version: str = "1") -> None:
    suspects.add(key(name), event(version), observed=f"at {now}", now=now)


def test_a_first_suspicion_is_due_at_once() -> None:
    suspects = Suspects()
    assert suspects.due_in(0.0) == float("inf")
    add(suspects, "a", 0.0)
    assert suspects.due_in(0.0) == 0.0
    found = suspects.next(0.0)
    assert found is not None
    assert found.key == key("a")
    assert suspects.next(0.0) is None


def test_of_many_events_of_one_object_the_latest_counts_and_the_first_is_the_time() -> None:
    suspects = Suspects()
    add(suspects, "a", 1.0, "1")
    add(suspects, "a", 2.0, "2")
    found = suspects.next(3.0)
    assert found is not None
    assert found.event == event("2")
    assert (found.seen_at, found.observed) == (1.0, "at 1.0")
    assert suspects.next(3.0) is None


def test_a_burst_is_taken_at_once_and_the_rest_at_the_rate() -> None:
    suspects = Suspects()
    count = int(BURST) + int(RATE)
    for number in range(count):
        add(suspects, f"c{number}", 0.0)
    taken = sum(1 for _ in range(count) if suspects.next(0.0))
    assert taken == BURST
    assert suspects.due_in(0.0) == pytest.approx(1 / RATE)
    assert suspects.next(1 / RATE) is not None
    assert suspects.next(1 / RATE) is None
    assert sum(1 for _ in range(count) if suspects.next(10.0)) == RATE - 1


def undone(
    suspects: Suspects, name: str, now: float, *, manager: str = "eve", field: str = ".data.x"
) -> Contest | None:
    return suspects.undone(key(name), manager=manager, fields=(field,), observed=f"at {now}", now=now)


def take(suspects: Suspects, now: float) -> Suspect:
    found = suspects.next(now)
    assert found is not None
    return found


def test_in_a_fight_reverts_come_ever_slower_up_to_a_limit() -> None:
    suspects = Suspects()
    now, waits, contests = 0.0, [], []
    for _ in range(PATIENCE + 10):
        add(suspects, "a", now)
        wait = suspects.due_in(now)
        waits.append(wait)
        now += wait
        take(suspects, now)
        contests.append(undone(suspects, "a", now))
    assert waits[: PATIENCE + 1] == [0.0] * (PATIENCE + 1)
    assert waits[PATIENCE + 1 : PATIENCE + 5] == pytest.approx([1.0, 2.0, 4.0, 8.0])
    assert waits[-1] == pytest.approx(LONGEST_S)
    assert contests[:PATIENCE] == [None] * PATIENCE
    assert set(contests[PATIENCE:]) == {Contest(field=".data.x", since="at 0.0")}


@pytest.mark.parametrize(
    ("changes", "contested"),
    [
        pytest.param([("eve", ".a", 1.0)] * (PATIENCE + 1), True, id="one field, one manager"),
        pytest.param([("eve", ".a", 1.0)] * PATIENCE, False, id="not often enough"),
        pytest.param([(f"m{n}", ".a", 1.0) for n in range(2 * PATIENCE)], False, id="many managers"),
        pytest.param([("eve", f".f{n}", 1.0) for n in range(2 * PATIENCE)], False, id="many fields"),
        pytest.param([("eve", ".a", 15.0)] * (PATIENCE + 4), False, id="over more than a minute"),
        pytest.param([("eve", ".a", 12.0)] * (PATIENCE + 1), True, id="within a minute"),
    ],
)
def test_a_field_is_contested_by_one_manager_that_changes_it_often_in_a_minute(
    changes: list[tuple[str, str, float]], contested: bool
) -> None:
    suspects = Suspects()
    now = 0.0
    last = None
    for manager, field, later in changes:
        last = undone(suspects, "a", now, manager=manager, field=field)
        now += later
    assert (last is not None) is contested


def test_a_fight_of_one_object_slows_no_other() -> None:
    suspects = Suspects()
    for _ in range(PATIENCE + 5):
        undone(suspects, "a", 0.0)
    add(suspects, "a", 0.0)
    add(suspects, "b", 0.0)
    assert take(suspects, 0.0).key == key("b")


def test_a_fight_is_forgotten_after_a_while() -> None:
    suspects = Suspects()
    for _ in range(PATIENCE + 5):
        undone(suspects, "a", 0.0)
    add(suspects, "a", FORGET_S)
    assert suspects.due_in(FORGET_S) == 0.0
    assert undone(suspects, "a", FORGET_S) is None


def test_an_object_that_somebody_writes_all_the_time_is_looked_at_less_often() -> None:
    suspects = Suspects()
    for _ in range(LOOKS):
        add(suspects, "a", 0.0)
        suspects.answered(take(suspects, 0.0), now=0.0, took_s=0.01, ok=True)
    add(suspects, "a", 0.0)
    assert suspects.due_in(0.0) == pytest.approx(BUSY_S)


def test_what_could_not_be_confirmed_comes_again_unless_something_newer_did() -> None:
    suspects = Suspects()
    add(suspects, "a", 0.0, "1")
    found = take(suspects, 0.0)
    suspects.again(found, now=0.0, wait_s=5.0)
    assert suspects.next(4.0) is None
    again = take(suspects, 5.0)
    assert again.seen_at == 0.0
    add(suspects, "a", 6.0, "2")
    suspects.again(again, now=6.0, wait_s=5.0)
    assert take(suspects, 6.0).event == event("2")


def test_of_what_waits_only_some_objects_are_kept_whole() -> None:
    suspects = Suspects()
    whole = {"metadata": {"uid": "u", "managedFields": [{"manager": "x"}]}, "spec": {"large": "x" * 1000}}
    for number in range(CROWD + 1):
        suspects.add(
            key(f"c{number}"),
            WatchEvent(kind="MODIFIED", resource=RESOURCE, object=whole),
            observed="",
            now=float(number),
        )
    gone = WatchEvent(kind="DELETED", resource=RESOURCE, object=whole)
    suspects.add(key("d"), gone, observed="", now=CROWD + 1.0)
    found = [take(suspects, CROWD + 100.0 * number) for number in range(1, CROWD + 3)]
    assert [one.event.object.keys() for one in found if one.event][:CROWD] == [whole.keys()] * CROWD
    assert [one.event.object for one in found[CROWD:] if one.event] == [
        {"metadata": whole["metadata"]},
        {"metadata": {"uid": "u"}},
    ]


# --- held ---------------------------------------------------------------------------------------------------------


def hold(suspects: Suspects, name: str, now: float, wait_s: float) -> None:
    add(suspects, name, now)
    suspects.hold(Held(suspect=take(suspects, now), known=None, seen=None), now=now, wait_s=wait_s)


def test_what_is_held_comes_back_at_its_time_and_is_looked_at_anew() -> None:
    suspects = Suspects()
    hold(suspects, "a", 0.0, 30.0)
    assert suspects.due_in(0.0) == pytest.approx(30.0)
    assert suspects.next(29.0) is None
    again = take(suspects, 30.0)
    assert (again.key, again.event, again.insist, again.observed) == (key("a"), None, True, "at 0.0")
    assert again.seen_at == 30.0
    assert suspects.due_in(30.0) == float("inf")


def test_what_is_held_comes_back_when_it_is_let_go_and_only_once() -> None:
    suspects = Suspects()
    hold(suspects, "a", 0.0, float("inf"))
    assert suspects.due_in(0.0) == float("inf")
    suspects.let_go(key("a"), now=5.0)
    assert take(suspects, 5.0).insist
    suspects.forget(key("a"))
    suspects.let_go(key("a"), now=6.0)
    assert suspects.next(6.0) is None


def test_a_new_event_of_what_is_held_is_confirmed_at_once() -> None:
    suspects = Suspects()
    hold(suspects, "a", 0.0, 30.0)
    add(suspects, "a", 1.0, "2")
    assert take(suspects, 1.0).event == event("2")
    assert key("a") in suspects.held


# --- full pass ----------------------------------------------------------------------------------------------------


def test_a_full_pass_leaves_the_burst_to_suspicions() -> None:
    suspects = Suspects()
    suspects.full_pass([key(f"c{number}") for number in range(100)], observed="", now=0.0)
    taken = 0
    while (found := suspects.next(0.0)) is not None:
        assert found.full_pass
        suspects.answered(found, now=0.0, took_s=0.01, ok=True)
        taken += 1
    assert taken == BURST - RESERVE
    for number in range(int(RESERVE)):
        add(suspects, f"d{number}", 0.0)
        assert not take(suspects, 0.0).full_pass
    assert 0 < suspects.due_in(0.0) < float("inf")


def test_only_a_few_objects_of_a_full_pass_are_looked_at_at_the_same_time() -> None:
    suspects = Suspects()
    suspects.full_pass([key(f"c{number}") for number in range(100)], observed="", now=0.0)
    under_way = [take(suspects, 0.0) for _ in range(PASSES)]
    assert suspects.next(0.0) is None
    assert suspects.due_in(0.0) == float("inf")
    suspects.answered(under_way[0], now=0.0, took_s=0.01, ok=True)
    assert take(suspects, 0.0).full_pass


# --- the rate of all ----------------------------------------------------------------------------------------------


def drain(suspects: Suspects, now: float, *, took_s: float, ok: bool) -> float:
    """Take and answer everything; returns when the last was taken."""
    while (wait := suspects.due_in(now)) < float("inf"):
        now += wait
        suspects.answered(take(suspects, now), now=now, took_s=took_s, ok=ok)
    return now


@pytest.mark.parametrize(
    ("took_s", "ok", "least_s", "most_s"),
    [
        pytest.param(0.01, True, 9_800 / FASTEST, 10_000 / FASTEST + 10, id="quick answers: faster and faster"),
        pytest.param(2.0, True, 9_800 / RATE, 10_000 / RATE, id="slow answers: no faster"),
    ],
)
def test_ten_thousand_suspicions_go_as_fast_as_the_api_server_answers(
    took_s: float, ok: bool, least_s: float, most_s: float
) -> None:
    suspects = Suspects()
    for number in range(10_000):
        add(suspects, f"c{number}", 0.0)
    assert least_s <= drain(suspects, 0.0, took_s=took_s, ok=ok) <= most_s


def test_an_api_server_that_has_no_answer_is_asked_less_and_less() -> None:
    suspects = Suspects()
    for number in range(20):
        add(suspects, f"c{number}", 0.0)
    waits: list[float] = []
    for _ in range(10):
        waits.append(suspects.due_in(sum(waits)))
        now = sum(waits)
        suspects.answered(take(suspects, now), now=now, took_s=0.01, ok=False)
    assert waits[:4] == pytest.approx([0.0, 2 / RATE, 4 / RATE, 8 / RATE])
    assert waits[-1] == pytest.approx(1 / SLOWEST)
