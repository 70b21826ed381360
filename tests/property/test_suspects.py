"""No suspicion is lost, none is doubled, and nothing waits for ever: over random histories."""

from hypothesis import given
from hypothesis import strategies as st

from agent.drift.suspects import BURST, FASTEST, Held, Suspects
from agent.model import Resource, WatchEvent
from proto.objects import ObjectKey

RESOURCE = Resource(group="", version="v1", kind="ConfigMap", plural="configmaps", namespaced=True)
KEYS = [ObjectKey(group="", kind="ConfigMap", namespace="shop", name=f"c{number}") for number in range(5)]

key = st.sampled_from(KEYS)
step = st.one_of(
    st.tuples(st.just("add"), key),
    st.tuples(st.just("pass"), key),
    st.tuples(st.just("let go"), key),
    st.tuples(st.just("forget"), key),
    st.tuples(st.sampled_from(["take", "again", "hold", "fail", "undo", "wait"]), st.just(KEYS[0])),
)


@given(st.lists(step, max_size=60), st.floats(min_value=0.0, max_value=90.0))
def test_what_came_in_comes_out_once_and_in_bounded_time(steps: list[tuple[str, ObjectKey]], wait_s: float) -> None:
    suspects, now = Suspects(), 0.0
    events: set[ObjectKey] = set()
    passes: set[ObjectKey] = set()
    taken = 0
    for what, which in steps:
        if what == "add":
            event = WatchEvent(kind="MODIFIED", resource=RESOURCE, object={"metadata": {"resourceVersion": "1"}})
            suspects.add(which, event, observed="", now=now)
            events.add(which)
        elif what == "pass":
            suspects.full_pass([which], observed="", now=now)
            passes.add(which)
        elif what == "let go":
            if which in suspects.held:
                events.add(which)
            suspects.let_go(which, now=now)
        elif what == "forget":
            if which in suspects.held and which not in events:
                suspects.forget(which)
        elif what == "wait":
            now += wait_s
        else:
            due = {one for one in suspects.held if one not in events}
            found = suspects.next(now)
            if found is None:
                continue
            taken += 1
            # What is held may have come to its end just now.
            assert found.key in (passes if found.full_pass else events | due)
            (passes if found.full_pass else events).discard(found.key)
            suspects.answered(found, now=now, took_s=0.01, ok=what != "fail")
            if what == "again" and not found.full_pass:
                suspects.again(found, now=now, wait_s=1.0)
                events.add(found.key)
            elif what == "hold":
                suspects.hold(Held(suspect=found, known=None, seen=None), now=now, wait_s=wait_s)
            elif not found.full_pass:
                suspects.forget(found.key)
                if what == "undo":
                    suspects.undone(found.key, manager="m", fields=(".a",), observed="", now=now)
    assert taken <= BURST + FASTEST * now
    left = events | suspects.held.keys()
    for _ in range(1000):
        wait = suspects.due_in(now)
        if wait == float("inf"):
            break
        now += wait
        found = suspects.next(now)
        if found is not None:
            (passes if found.full_pass else left).discard(found.key)
            suspects.answered(found, now=now, took_s=0.01, ok=True)
            if not found.full_pass:
                suspects.forget(found.key)
    assert not left
    assert not passes
