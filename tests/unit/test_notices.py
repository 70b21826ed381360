"""What messages tell: every kind of event is told or left out on purpose, and a message has what its reader needs."""

import ast
import hmac
import json
import re
import time
from base64 import b64decode, b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hub import notices
from hub.external import webhook
from hub.journal import EventRow, MessageRow
from hub.model import Approval, Gate
from hub.noteworthy import KINDS, SEVERITIES, Receiver
from hub.outcome import noticed
from hub.state import Command, Notice, Phase, State
from proto.ids import RolloutId
from proto.messages import Health
from tests.receiver import KEY, SECRET
from tests.rollout_hub import NEW, Hub, rollout, wave

ALL = Receiver(name="all", url="https://hooks.example.org", credentials="hooks")
HUB = Path(__file__).parents[2] / "hub"

QUIET = {
    "cluster-proven": "thousands, and as it should be",
    "cluster-reverted": "thousands, the rollback is told as a whole",
    "cluster-offline": "thousands, clusters come and go",
    "cluster-left": "thousands, somebody took them out",
    "cluster-skipped": "a person's word, who knows",
    "cluster-suspended": "a person's word, who knows",
    "cluster-resumed": "a person's word, who knows",
    "command": "what it does is told",
    "directive-ended": "a person's word, who knows",
    "drift": "reverted; metrics count them",
    "denied": "of one agent; metrics count them",
    "source": "what it changes is a rollout",
    "join-token": "a person's word, who knows",
}
"""Kinds of events that are no message, and why."""


def kinds() -> Iterator[str]:
    """The kinds of all events that the hub's source makes."""
    for path in HUB.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            given: list[ast.expr] = node.args[:1] if name == "note" else []
            if name in ("EventRow", "Notice"):
                given = [keyword.value for keyword in node.keywords if keyword.arg == "kind"]
            yield from (
                value.value for value in given if isinstance(value, ast.Constant) and isinstance(value.value, str)
            )


def test_every_kind_of_event_is_told_or_left_out_for_a_reason() -> None:
    found = set(kinds())
    assert found >= {"rollout-started", "finding", "drift"}
    assert found - KINDS.keys() - QUIET.keys() == {"test"}
    assert KINDS.keys() <= found, "and none is told of that never happens"
    assert KINDS.keys() & QUIET.keys() == set()


def told(hub: Hub, kind: str, *, to: tuple[Receiver, ...] = (ALL,)) -> dict[str, Any]:
    """The newest message of `kind` among what the rollout said."""
    events = [noticed(effect, hub.now) for effect in hub.effects if isinstance(effect, Notice)]
    rows = notices.messages(events, states={hub.state.rollout.id: hub.state}, to=to)
    made = [json.loads(row.body) for row in rows]
    return [body for body in made if body["type"] == kind][-1]  # type: ignore[no-any-return]


def test_a_rollout_that_is_paused_tells_where_it_is_and_how_to_go_on() -> None:
    hub = Hub(
        rollout(
            wave("canary", "c1"), wave("rest", "r1", "r2"), action="pause", author="Ada", subject="Shop: a new door"
        )
    )
    hub.tick()
    hub.report("c1", NEW, Health.FAILED)
    body = told(hub, "paused")
    assert body["timestamp"].endswith("Z")
    data = body["data"]
    assert data["severity"] == "warning"
    assert data["bundles"] == ["shop"]
    assert data["next"][0] == "flotilla resume shop-1 --reason '...'"
    assert data["rollout"] == {
        "id": "shop-1",
        "phase": "paused",
        "reason": hub.state.reason,
        "revision": "c" * 40,
        "author": "Ada",
        "subject": "Shop: a new door",
        "wave": "canary",
        "waves": ["canary", "rest"],
        "clusters": {"total": 3, "failed": 1, "pending": 2},
    }
    assert hub.state.reason
    assert told(hub, "cluster-failed")["data"]["clusters"] == ["c1"]


def test_a_rollback_that_failed_shouts() -> None:
    hub = Hub(rollout(wave("canary", "c1")))
    hub.tick()
    hub.report("c1", NEW, Health.FAILED)
    hub.tick(after_s=700.0)
    assert hub.state.phase is Phase.ROLLBACK_FAILED
    body = told(hub, "rollback-failed")
    assert body["data"]["severity"] == "critical"
    assert body["data"]["next"] == ["flotilla rollouts shop-1"]


def test_a_gate_that_waits_for_a_person_is_a_warning_with_the_command_that_opens_it() -> None:
    hub = Hub(rollout(wave("canary", "c1", gates=(Gate(name="approval", when="before", approval=Approval()),))))
    hub.tick()
    data = told(hub, "gate-waits")["data"]
    assert data["severity"] == "warning"
    assert data["next"] == ["flotilla approve shop-1 --gate canary/approval --reason '...'"]
    hub.tell(Command(verb="approve", actor="ann", reason="fine"))
    assert told(hub, "approved")["data"]["severity"] == "info"


def test_a_bundle_that_was_rolled_back_says_how_it_is_released() -> None:
    hub = Hub(rollout(wave("canary", "c1")))
    hub.tick()
    hub.tell(Command(verb="abort", actor="ann", reason="no"))
    assert "flotilla release shop --reason '...'" in told(hub, "aborted")["data"]["next"]


def event(kind: str, text: str = "it happened", **more: Any) -> EventRow:
    return EventRow(time_s=1000.0, kind=kind, text=text, **more)


def rows(*events: EventRow, to: Receiver = ALL, states: dict[RolloutId, State] | None = None) -> list[MessageRow]:
    return notices.messages(events, states=states or {}, to=(to,))


def test_a_thousand_clusters_that_fail_in_one_turn_are_one_message() -> None:
    [row] = rows(*(event("cluster-failed", f"c{n} failed", cluster=f"c{n}", rollout="shop-1") for n in range(1000)))
    data = json.loads(row.body)["data"]
    assert data["text"] == "c0 failed (and 999 more)"
    assert len(data["clusters"]) == notices.MAX_NAMED


def test_texts_of_others_are_cut() -> None:
    [row] = rows(event("clash", "x" * 100_000))
    assert len(row.body) < 20_000


@pytest.mark.parametrize(
    ("events", "bundles", "kind", "bundle", "wanted"),
    [
        pytest.param((), (), "paused", "shop", True, id="no restriction"),
        pytest.param(("paused",), (), "paused", "shop", True, id="the kind"),
        pytest.param(("resumed",), (), "paused", "shop", False, id="another kind"),
        pytest.param(("warning",), (), "paused", "shop", True, id="the severity"),
        pytest.param(("warning",), (), "rollback-failed", "shop", True, id="a graver one"),
        pytest.param(("critical",), (), "paused", "shop", False, id="a milder one"),
        pytest.param(("critical", "resumed"), (), "resumed", "shop", True, id="a severity and a kind"),
        pytest.param((), ("shop",), "paused", "shop", True, id="the bundle"),
        pytest.param((), ("sh*",), "paused", "shop", True, id="a pattern"),
        pytest.param((), ("cart",), "paused", "shop", False, id="another bundle"),
        pytest.param((), ("shop",), "upstream", "", False, id="about no bundle"),
        pytest.param((), (), "upstream", "", True, id="about no bundle and no restriction"),
        pytest.param((), (), "drift", "shop", False, id="a kind that is never told"),
    ],
)
def test_who_is_told_depends_on_kind_severity_and_bundle(
    events: tuple[str, ...], bundles: tuple[str, ...], kind: str, bundle: str, wanted: bool
) -> None:
    receiver = Receiver(name="some", url="https://x.example.org", credentials="x", events=events, bundles=bundles)
    assert bool(rows(event(kind, bundle=bundle), to=receiver)) == wanted


def test_a_problem_that_is_over_is_no_warning() -> None:
    [row] = rows(event("publish", data={"severity": "info"}))
    assert SEVERITIES[row.gravity] == "info"


def test_links_lead_to_where_people_reach_the_hub() -> None:
    hub = Hub(rollout(wave("canary", "c1")))
    hub.tick()
    states = {hub.state.rollout.id: hub.state}
    [row] = rows(event("wave-opened", rollout="shop-1"), states=states)
    links = json.loads(notices.sent(row, public_url="https://flotilla.example.org"))["data"]["links"]
    assert links == {
        "status": "https://flotilla.example.org/",
        "rollout": "https://flotilla.example.org/api/v1/rollouts/shop-1",
    }
    assert json.loads(notices.sent(row, public_url=""))["data"]["links"] == {}


def test_what_happened_has_one_id_for_everybody_and_no_full_stop_in_it() -> None:
    one, other = notices.messages(
        [event("clash")], states={}, to=(ALL, Receiver(name="b", url="https://b.example.org", credentials="b"))
    )
    assert one.id == other.id
    assert "." not in one.id
    assert rows(event("clash", "it happened again"))[0].id != one.id


OPERATING = (Path(__file__).parents[2] / "docs/operating.md").read_text()


def test_the_manual_names_every_kind_with_its_severity() -> None:
    for severity in SEVERITIES:
        [row] = re.findall(rf"^\| {severity}.*\| (.*) \|$", OPERATING, re.MULTILINE)
        assert set(re.findall(r"`([a-z-]+)`", row)) >= {kind for kind, word in KINDS.items() if word == severity}


@pytest.mark.parametrize(
    ("at_s", "secret", "good"),
    [
        pytest.param(0.0, SECRET, True, id="as it was sent"),
        pytest.param(400.0, SECRET, False, id="old"),
        pytest.param(0.0, "whsec_" + "A" * 44, False, id="another secret"),
    ],
)
def test_the_manuals_way_to_verify_a_message_does_so(at_s: float, secret: str, good: bool) -> None:
    [code] = re.findall(r"```python\n(def verified.*?)```", OPERATING, re.DOTALL)
    known: dict[str, Any] = {"b64encode": b64encode, "b64decode": b64decode, "hmac": hmac, "time": time}
    exec(code, known)
    sent_at = int(time.time() - at_s)
    headers = {
        "webhook-id": "msg_1",
        "webhook-timestamp": str(sent_at),
        "webhook-signature": webhook.signature([b"x" * 32, KEY], id_="msg_1", timestamp=sent_at, body=b"{}"),
    }
    assert known["verified"](headers, b"{}", secret) == good
    assert not known["verified"](headers, b"[]", secret)


def test_findings_of_a_commit_are_one_message_for_whoever_has_one_of_its_bundles() -> None:
    found = [event("finding", f"{name} is wrong", bundle=name, dedup=f"finding/{name}") for name in ("cart", "shop")]
    some = Receiver(name="some", url="https://x.example.org", credentials="x", bundles=("shop",))
    [row] = rows(*found, to=some)
    assert json.loads(row.body)["data"]["bundles"] == ["cart", "shop"]
    assert row.dedups == ("finding/cart", "finding/shop")


@pytest.mark.parametrize(
    ("severities", "wanted"),
    [
        pytest.param((None, None), "warning", id="errors"),
        pytest.param(("info", "info"), "info", id="warnings"),
        pytest.param(("info", None), "warning", id="both"),
    ],
)
def test_a_message_of_many_is_as_grave_as_the_gravest(severities: tuple[str | None, ...], wanted: str) -> None:
    found = [event("finding", data={"severity": word} if word else {}) for word in severities]
    [row] = rows(*found)
    assert SEVERITIES[row.gravity] == wanted


def test_a_bundle_that_a_person_holds_says_how_it_is_released() -> None:
    [row] = rows(event("held", bundle="shop"))
    data = json.loads(row.body)["data"]
    assert (data["bundles"], data["next"]) == (["shop"], ["flotilla release shop --reason '...'"])
