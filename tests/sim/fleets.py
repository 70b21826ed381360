"""Random fleets and policies: waves, gates, windows, limits, and bundles of which one depends on the other.

`closed` says what a window means a second time, in plain local hours, so that the engine's own reading is not believed.
"""

import random
from dataclasses import replace
from datetime import datetime
from typing import Literal
from zoneinfo import ZoneInfo

from hub.model import (
    Amount,
    Approval,
    Bundle,
    BundleDone,
    Cluster,
    FailurePolicy,
    Fleet,
    Freeze,
    Gate,
    HttpCheck,
    MetricCheck,
    RolloutPolicy,
    Selector,
    WavePolicy,
    Window,
)
from hub.repo import windows
from proto.ids import BundleName, ClusterName
from proto.slices import BundlePolicy

SHOP, TILL = BundleName("shop"), BundleName("till")
BUNDLES = (SHOP, TILL)
"""Shop depends on till."""
STARTS = (1_774_744_200.0, 1_792_888_200.0)
"""Half an hour before clocks in Europe jump forward (2026-03-29) and back (2026-10-25)."""
_ZONE = "Europe/Berlin"
_WINDOWS = {
    f"02:10-03:05 {_ZONE}": True,
    f"03:20-03:35 {_ZONE}": True,
    f"01:40-02:20 {_ZONE}": False,
    f"Sun 01:35-Sun 01:50 {_ZONE}": True,
}


def closed(window: Window, now: float) -> bool:
    """Is it one of `_WINDOWS` and shut? All lie within one Sunday night."""
    local = datetime.fromtimestamp(now, ZoneInfo(_ZONE))
    start, end = window.text.removeprefix("Sun ").replace("Sun ", "").split(" ")[0].split("-")
    inside = start <= local.strftime("%H:%M") < end
    return inside if window.deny else not inside


def fleet(pick: random.Random) -> Fleet:
    clusters = dict(cluster(pick, f"c{n}", canary=n == 0) for n in range(pick.randint(2, 8)))
    bundles = {
        name: Bundle(
            name=name,
            folder=name,
            targets=Selector(),
            rollout=name,
            policy=BundlePolicy(name=name),
            depends_on=(TILL,) if name == SHOP else (),
        )
        for name in BUNDLES
    }
    return Fleet(
        clusters=clusters,
        bundles=bundles,
        policies=policies(pick),
        max_changes=pick.choice([0, 0, 1]),
    )


def cluster(pick: random.Random, name: str, *, canary: bool = False) -> tuple[ClusterName, Cluster]:
    labels = {"canary": str(canary).lower(), "region": pick.choice(["eu", "us"])}
    found = Cluster(
        name=ClusterName(name),
        labels=labels,
        windows=_windows(pick, 0.1),
        max_changes=pick.choice([0, 0, 0, 1, 2]),
    )
    return found.name, found


def policies(pick: random.Random) -> dict[str, RolloutPolicy]:
    return {str(bundle): replace(_policy(pick, bundle), name=bundle) for bundle in BUNDLES}


def freeze(pick: random.Random, now: float) -> Freeze:
    select = pick.choice([Selector(), Selector(match_labels={"region": "eu"})])
    return Freeze(name="audit", start_s=now, end_s=now + pick.choice([60.0, 300.0]), select=select)


def _policy(pick: random.Random, bundle: BundleName) -> RolloutPolicy:
    of_waves = (
        WavePolicy(
            name="canary",
            select=Selector(match_labels={"canary": "true"}),
            soak_s=pick.choice([0.0, 20.0, 50.0]),
            max_concurrent=Amount(value=1),
            allow_empty=True,
            gates=_gates(pick, bundle),
        ),
        WavePolicy(
            name="eu",
            select=Selector(match_labels={"region": "eu"}),
            soak_s=pick.choice([0.0, 20.0]),
            max_concurrent=pick.choice([Amount(value=1), Amount(value=50, percent=True)]),
            max_unavailable=pick.choice([None, None, Amount(value=1), Amount(value=2)]),
            offline_budget=pick.choice([None, Amount(value=1)]),
            allow_empty=True,
            gates=_gates(pick, bundle),
            windows=_windows(pick, 0.15),
        ),
    )
    return RolloutPolicy(
        name=bundle,
        waves=of_waves,
        failure=FailurePolicy(
            budget=Amount(value=pick.choice([0, 0, 1])),
            total=pick.choice([None, None, Amount(value=0), Amount(value=1)]),
            deadline_s=pick.choice([120.0, 240.0]),
            action=pick.choice(["rollback", "rollback", "rollback", "pause", "continue"]),
        ),
        offline_after_s=60.0,
        offline_budget=pick.choice([None, Amount(value=1)]),
        supersede=pick.choice(["queue", "replace"]),
        fixes=pick.choice(["wait", "wait", "jump"]),
        windows=_windows(pick, 0.1),
    )


def _windows(pick: random.Random, chance: float) -> tuple[Window, ...]:
    if pick.random() >= chance:
        return ()
    text = pick.choice(sorted(_WINDOWS))
    return (windows.parse(text, deny=_WINDOWS[text]),)


def _gates(pick: random.Random, bundle: BundleName) -> tuple[Gate, ...]:
    if pick.random() < 0.6:
        return ()
    kinds = ["word", "page", "errors", *(["till"] if bundle == SHOP else [])]
    return tuple(_gate(pick, kind) for kind in sorted(pick.sample(kinds, pick.choice([1, 1, 2]))))


def _gate(pick: random.Random, kind: str) -> Gate:
    when: Literal["before", "after"] = pick.choice(["before", "after"])
    plain = Gate(name=kind, when=when, timeout_s=pick.choice([0.0, 0.0, 200.0]))
    for_s = pick.choice([0.0, 30.0])
    match kind:
        case "word":
            by = pick.choice([(), ("ann", "bob")])
            expires_s = pick.choice([0.0, 60.0])
            return replace(plain, approval=Approval(approvers=pick.choice([1, 2]), by=by, expires_s=expires_s))
        case "page":
            return replace(plain, http=HttpCheck(url="http://shop.test", for_s=for_s, interval_s=10.0))
        case "errors":
            return replace(plain, metric=MetricCheck(query="errors", below=1.0, for_s=for_s, interval_s=20.0))
        case _:
            return replace(plain, timeout_s=0.0, done=BundleDone(bundle=TILL, wave=pick.choice(["", "canary"])))
