"""The hub's state as people see it: nobody is shown by a word that is too old, and no id is called up to date."""

from dataclasses import replace
from typing import Any

import pytest

from hub import directives
from hub.agents.live import LiveCluster
from hub.api import status
from hub.desired import Desired
from hub.journal import HoldRow, SliceRow
from hub.model import Bundle, Cluster, Finding, Fleet, GitSource, Pin, Selector
from hub.rollout import rollouts
from hub.state import Phase
from proto.ids import BundleName, ClusterName, Oid, RolloutId
from proto.messages import BundleReport, Health
from proto.slices import BundleEntry, BundlePolicy, SliceManifest
from tests.rollout_hub import rollout, wave

EU, US = ClusterName("eu-1"), ClusterName("us-1")
SHOP, NOTES = BundleName("shop"), BundleName("notes")
NOW, HEARTBEAT_S = 1000.0, 10.0
SUBTREE = "b" * 40


def row(cluster: ClusterName = EU, *, seq: int = 3, bundles: tuple[str, ...] = ("shop",)) -> SliceRow:
    entries = {name: BundleEntry(subtree=SUBTREE, revision="c" * 40, rollout="shop-7") for name in bundles}
    manifest = SliceManifest(cluster=cluster, seq=seq, bundles=entries)
    return SliceRow(cluster=cluster, seq=seq, commit=Oid("d" * 40), time_s=900, manifest=manifest)


def said(health: Health = Health.CURRENT, *, subtree: str = SUBTREE, converged: bool = True) -> BundleReport:
    return BundleReport(subtree=subtree, health=health, converged=converged, counts={health: 1})


def live(*, seen: float = NOW, seq: int = 3, connected: bool = True, **bundles: BundleReport) -> LiveCluster:
    return LiveCluster(
        last_seen=seen,
        connected_since=900.0 if connected else None,
        seq=seq,
        bundles={BundleName(name): report for name, report in bundles.items()},
    )


DESIRED = Desired(
    commit=Oid("c" * 40),
    fleet=Fleet(
        clusters={EU: Cluster(name=EU, labels={"tier": "prod"})},
        bundles={SHOP: Bundle(name=SHOP, folder="bundles/shop", targets=Selector(), policy=BundlePolicy(name=SHOP))},
    ),
    subtrees={SHOP: {EU: Oid(SUBTREE)}},
    failed=frozenset({NOTES}),
    findings=(Finding(where="bundles/notes/bundle.yaml:3", message="no", remedy="fix", about="bundle notes"),),
)


def cluster(live: LiveCluster | None, row: SliceRow | None, *, desired: Desired | None = DESIRED) -> dict[str, Any]:
    return status.cluster(EU, desired=desired, row=row, live=live, now=NOW, heartbeat_s=HEARTBEAT_S)


@pytest.mark.parametrize(
    ("live", "row", "health"),
    [
        pytest.param(None, row(), "Unknown", id="it never spoke"),
        pytest.param(live(shop=said(), seen=NOW - 31), row(), "Unknown", id="silent for three heartbeats"),
        pytest.param(live(shop=said(), seen=NOW - 29), row(), "Current", id="one late heartbeat"),
        pytest.param(live(shop=said(Health.FAILED)), row(), "Failed", id="failed"),
        pytest.param(live(shop=said(), seq=2), row(), "InProgress", id="its last word is of an older slice"),
        pytest.param(live(shop=said(Health.FAILED), seq=2), row(), "Failed", id="failed, with a newer slice decided"),
        pytest.param(live(seq=0), None, "Current", id="nothing was decided for it"),
        pytest.param(live(shop=said(), notes=said(Health.UNKNOWN)), row(), "Unknown", id="the worst word counts"),
    ],
)
def test_a_clusters_health(live: LiveCluster | None, row: SliceRow | None, health: str) -> None:
    assert cluster(live, row)["health"] == health


@pytest.mark.parametrize(
    ("live", "connection"),
    [
        pytest.param(None, "never-seen", id="never"),
        pytest.param(LiveCluster(), "never-seen", id="denied at the door"),
        pytest.param(live(connected=False), "away", id="gone"),
        pytest.param(live(), "connected", id="there"),
    ],
)
def test_a_clusters_connection(live: LiveCluster | None, connection: str) -> None:
    assert cluster(live, row())["connection"] == connection


def test_decided_and_applied_stand_side_by_side() -> None:
    found = cluster(live(seq=2, shop=said()), row())
    assert (found["decided"]["seq"], found["applied"]["seq"], found["in_fleet_repo"]) == (3, 2, True)
    assert found["last_seen"] == "1970-01-01T00:16:40.000Z"
    gone = cluster(live(), row(), desired=None)
    assert (gone["in_fleet_repo"], gone["labels"]) == (False, {})


def test_a_bundle_that_went_as_decided_is_not_listed_and_one_that_did_not_is() -> None:
    gone = said(subtree="")
    found = status.cluster_bundles(row(), live(shop=said(), notes=gone), suspended={})
    assert [item["name"] for item in found] == ["shop"]
    left = said(Health.TERMINATING, subtree="", converged=False)
    found = status.cluster_bundles(row(), live(shop=said(), notes=left), suspended={})
    assert [(item["name"], item["health"], item["decided_subtree"]) for item in found] == [
        ("notes", "Terminating", ""),
        ("shop", "Current", SUBTREE),
    ]


def test_a_decided_bundle_of_which_nothing_was_said_is_unknown() -> None:
    [found] = status.cluster_bundles(row(), None, suspended={})
    assert (found["health"], found["converged"], found["applied_subtree"]) == ("Unknown", False, "")


@pytest.mark.parametrize(
    ("after", "changes", "failed", "waits"),
    [
        pytest.param(SUBTREE, {}, False, False, id="the rollout brings what is wanted"),
        pytest.param("a" * 40, {}, False, True, id="a newer commit wants something else"),
        pytest.param("a" * 40, {"phase": Phase.ROLLING_BACK}, False, False, id="on its way back"),
        pytest.param("a" * 40, {"phase": Phase.COMPLETED}, False, False, id="it is over"),
        pytest.param("a" * 40, {}, True, False, id="the newer commit does not render"),
    ],
)
def test_a_bundle_says_that_a_newer_commit_waits_for_the_rollout_under_way(
    after: str, changes: dict[str, Any], failed: bool, waits: bool
) -> None:
    state = replace(rollouts.start(rollout(wave("all", EU), after=Oid(after)), NOW), **changes)
    [shop] = status.bundles(
        desired=replace(DESIRED, failed=frozenset({SHOP} if failed else ()), findings=()),
        slices={EU: row()},
        live={EU: live(shop=said())},
        states=[state],
        holds={},
        suspended={},
        now=NOW,
        heartbeat_s=HEARTBEAT_S,
    )
    assert shop["newer_waits"] is waits


def test_bundles_say_where_they_run_and_what_keeps_them() -> None:
    found = status.bundles(
        desired=DESIRED,
        slices={EU: row(), US: row(US)},
        live={EU: live(shop=said()), US: live(shop=said(Health.FAILED), seen=NOW - 100)},
        states=(),
        holds={SHOP: HoldRow(bundle=SHOP, rollout=RolloutId("shop-7"), reason="it failed", time_s=900.0, refused={})},
        suspended={},
        now=NOW,
        heartbeat_s=HEARTBEAT_S,
    )
    notes, shop = found
    assert (shop["wanted_on"], shop["runs_on"], shop["counts"]) == (1, 2, {"Current": 1, "Unknown": 1})
    assert shop["hold"] == {
        "rollout": "shop-7",
        "reason": "it failed",
        "since": "1970-01-01T00:15:00.000Z",
        "revision": "",
        "until": "released",
    }
    assert (notes["name"], notes["failed"], notes["runs_on"]) == ("notes", True, 0)
    assert [item["where"] for item in notes["findings"]] == ["bundles/notes/bundle.yaml:3"]


def test_a_bundle_says_what_its_source_outside_the_fleet_repo_is_pinned_at() -> None:
    source = GitSource(url="https://git.example.org/shop.git", branch="main")
    shop = replace(DESIRED.fleet.bundles[SHOP], external=source)
    pin = Pin(revision="main", digest="d" * 40, tree=Oid("e" * 40))
    desired = replace(DESIRED, fleet=replace(DESIRED.fleet, bundles={SHOP: shop}), pins={SHOP: pin})
    sources = [
        bundle["source"]
        for now in (desired, DESIRED)
        for bundle in status.bundles(
            desired=now, slices={}, live={}, states=(), holds={}, suspended={}, now=NOW, heartbeat_s=HEARTBEAT_S
        )
        if bundle["name"] == SHOP
    ]
    assert sources == [{"url": "https://git.example.org/shop.git", "revision": "main", "digest": "d" * 40}, None]


@pytest.mark.parametrize(("seconds", "text"), [(0.0, ""), (1.5, "1970-01-01T00:00:01.500Z")])
def test_times_are_rfc_3339(seconds: float, text: str) -> None:
    assert status.rfc3339(seconds) == text


def test_what_is_suspended_here_and_in_clusters_is_one_list_and_a_sync_is_none() -> None:
    made = [
        *directives.suspend("shop", [EU], why="ann: a migration", now=900.0),
        directives.pause(EU, until_s=2000.0, why="bob: new nodes", now=900.0),
        *directives.sync({}, "*", [EU], why="", now=900.0),
    ]
    word = BundleReport(subtree="a" * 40, health=Health.CURRENT, converged=True, suspended="annotation of eve")
    found = status.directives(made, {EU: live(shop=word, notes=word)})
    assert [(row["kind"], row["bundle"], row["why"], row["here"]) for row in found] == [
        ("pause", "", "bob: new nodes", True),
        ("suspend", "notes", "annotation of eve", False),
        ("suspend", "shop", "ann: a migration", True),
    ]
    assert [row["until"] for row in found] == ["1970-01-01T00:33:20.000Z", "", ""]


def test_a_cluster_and_a_bundle_say_what_is_suspended_and_paused_there() -> None:
    pause = directives.pause(EU, until_s=2000.0, why="bob: new nodes", now=900.0)
    one = status.cluster(EU, desired=None, row=row(), live=live(), pause=pause, now=NOW, heartbeat_s=10.0)
    assert one["paused"] == {"until": "1970-01-01T00:33:20.000Z", "why": "bob: new nodes"}
    [bundle] = status.cluster_bundles(row(), live(shop=said()), suspended={SHOP: "ann: a migration"})
    assert bundle["suspended"] == "ann: a migration"
