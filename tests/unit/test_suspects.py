"""Which suspicion is confirmed when."""

import pytest

from agent.drift.suspects import BURST, FORGET_S, LONGEST_S, PATIENCE, RATE, Suspects
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


def test_in_a_fight_reverts_come_ever_slower_up_to_a_limit() -> None:
    suspects = Suspects()
    now, waits = 0.0, []
    for _ in range(PATIENCE + 9):
        add(suspects, "a", now)
        wait = suspects.due_in(now)
        waits.append(wait)
        now += wait
        assert suspects.next(now) is not None
        suspects.reverted(key("a"), now=now)
    assert waits[:PATIENCE] == [0.0] * PATIENCE
    assert waits[PATIENCE : PATIENCE + 4] == pytest.approx([1.0, 2.0, 4.0, 8.0])
    assert waits[-1] == pytest.approx(LONGEST_S)


def test_a_fight_of_one_object_slows_no_other() -> None:
    suspects = Suspects()
    for _ in range(PATIENCE + 5):
        suspects.reverted(key("a"), now=0.0)
    add(suspects, "a", 0.0)
    add(suspects, "b", 0.0)
    found = suspects.next(0.0)
    assert found is not None
    assert found.key == key("b")


def test_a_fight_is_forgotten_after_a_while() -> None:
    suspects = Suspects()
    for _ in range(PATIENCE + 5):
        suspects.reverted(key("a"), now=0.0)
    add(suspects, "a", FORGET_S)
    assert suspects.due_in(FORGET_S) == 0.0


def test_what_could_not_be_confirmed_comes_again_unless_something_newer_did() -> None:
    suspects = Suspects()
    add(suspects, "a", 0.0, "1")
    found = suspects.next(0.0)
    assert found is not None
    suspects.again(found, now=0.0, wait_s=5.0, insist=True)
    assert suspects.next(4.0) is None
    again = suspects.next(5.0)
    assert again is not None
    assert again.insist
    assert again.seen_at == 0.0
    add(suspects, "a", 6.0, "2")
    suspects.again(again, now=6.0, wait_s=5.0)
    newest = suspects.next(6.0)
    assert newest is not None
    assert newest.event == event("2")
