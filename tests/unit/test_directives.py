"""What people ask of agents beside Git: what each agent is told, and when it ends."""

from collections.abc import Iterable, Mapping
from typing import Any

import pytest

from hub import directives
from hub.journal import DirectiveKind, DirectiveRow, SliceRow
from hub.model import Bundle, Cluster, Fleet, Selector
from proto.ids import BundleName, ClusterName, Oid
from proto.messages import Directives
from proto.slices import BundleEntry, BundlePolicy, SliceManifest

EU, US = ClusterName("eu-1"), ClusterName("us-1")
NOW = 1_800_000_000.0


def rows(made: Iterable[DirectiveRow]) -> directives.Rows:
    return {row.key: row for row in made}


ALL = rows(
    [
        *directives.suspend("shop", [EU, US], why="ann: a migration", now=NOW),
        directives.pause(EU, until_s=NOW + 60, why="bob: new nodes", now=NOW),
        *directives.sync({}, "*", [EU], why="", now=NOW),
    ]
)


def fleet(*, clusters: Iterable[str] = ("eu-1", "us-1"), bundles: Iterable[str] = ("shop",), **changes: Any) -> Fleet:
    return Fleet(
        clusters={ClusterName(name): Cluster(name=ClusterName(name), labels={}) for name in clusters},
        bundles={
            BundleName(name): Bundle(
                name=BundleName(name), folder=name, targets=Selector(), policy=BundlePolicy(name=name)
            )
            for name in bundles
        },
        **changes,
    )


def runs(cluster: ClusterName, *bundles: str) -> Mapping[ClusterName, SliceRow]:
    entries = {name: BundleEntry(subtree="a" * 40, revision="b" * 40) for name in bundles}
    manifest = SliceManifest(cluster=cluster, seq=1, bundles=entries)
    return {cluster: SliceRow(cluster=cluster, seq=1, commit=Oid("c" * 40), time_s=1, manifest=manifest)}


def test_an_agent_is_told_all_that_concerns_it_and_nothing_else() -> None:
    assert directives.message(ALL, EU) == Directives(
        suspended={"shop": "ann: a migration"},
        paused_until="2027-01-15T08:01:00Z",
        paused_why="bob: new nodes",
        sync={"*": int(NOW)},
    )
    assert directives.message(ALL, US) == Directives(suspended={"shop": "ann: a migration"})
    assert directives.message(ALL, "other") == Directives()


def test_each_sync_has_a_number_that_no_agent_acted_on() -> None:
    first = rows(directives.sync({}, "shop", [EU], why="", now=NOW))
    second = rows(directives.sync(first, "shop", [EU], why="", now=NOW))
    after_the_row_was_lost = rows(directives.sync({}, "shop", [EU], why="", now=NOW + 10))
    numbers = [row.value for made in (first, second, after_the_row_was_lost) for row in made.values()]
    assert numbers == sorted(set(numbers))


def test_what_is_suspended_is_known_by_cluster_and_bundle() -> None:
    assert directives.suspended(ALL) == {EU: {"shop": "ann: a migration"}, US: {"shop": "ann: a migration"}}


PAUSE, SUSPEND, SYNC = DirectiveKind.PAUSE, DirectiveKind.SUSPEND, DirectiveKind.SYNC


@pytest.mark.parametrize(
    ("made", "slices", "now", "gone"),
    [
        pytest.param(fleet(), {}, NOW, set(), id="everything is there"),
        pytest.param(fleet(), {}, NOW + 60, {(PAUSE, EU, "")}, id="the pause is over"),
        pytest.param(fleet(bundles=[]), {}, NOW, {(SUSPEND, EU, "shop"), (SUSPEND, US, "shop")}, id="no bundle"),
        pytest.param(fleet(bundles=[]), runs(EU, "shop"), NOW, {(SUSPEND, US, "shop")}, id="it still runs on eu-1"),
        pytest.param(fleet(bundles=[], lost_bundles=True), {}, NOW, set(), id="the bundle may be unreadable"),
        pytest.param(fleet(bundles=[], broken_bundles=frozenset({"shop"})), {}, NOW, set(), id="the bundle is broken"),
        pytest.param(fleet(clusters=["eu-1"]), {}, NOW, {(SUSPEND, US, "shop")}, id="a cluster left"),
        pytest.param(fleet(clusters=["eu-1"]), runs(US, "shop"), NOW, set(), id="its slice is still enforced"),
        pytest.param(fleet(clusters=["eu-1"], lost_clusters=True), {}, NOW, set(), id="clusters may be unreadable"),
        pytest.param(
            fleet(clusters=["eu-1"], broken_clusters=frozenset({"us-1"})), {}, NOW, set(), id="the cluster is broken"
        ),
    ],
)
def test_a_directive_ends_when_what_it_is_about_is_really_gone(
    made: Fleet, slices: Mapping[ClusterName, SliceRow], now: float, gone: set[Any]
) -> None:
    assert directives.ended(ALL, fleet=made, slices=slices, now=now).keys() == gone
