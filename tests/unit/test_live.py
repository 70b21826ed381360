"""What agents said lately, and what rollouts may know of it."""

from hub.agents.live import Live
from hub.rollout import rollouts
from hub.state import ClusterView, Roster
from proto.ids import BundleName, ClusterName
from proto.messages import BundleReport, Health, Report
from tests.rollout_hub import rollout, wave

EU, US = ClusterName("eu-1"), ClusterName("us-1")
SHOP, NOTES = BundleName("shop"), BundleName("notes")


def word(suspended: str = "") -> BundleReport:
    return BundleReport(subtree="a" * 40, converged=True, health=Health.CURRENT, suspended=suspended)


def report(number: int, *, full: bool = False, removed: tuple[str, ...] = (), **bundles: BundleReport) -> Report:
    return Report(number=number, boot_id="b", seq=3, commit="c" * 40, full=full, bundles=bundles, removed=removed)


def views(live: Live) -> dict[ClusterName, ClusterView]:
    seqs = {EU: 4}
    return live.views(lambda cluster: seqs.get(cluster, 1), {})


def test_a_cluster_that_never_spoke_has_a_view_too() -> None:
    assert views(Live())[US] == ClusterView(next_seq=1)


def test_a_view_has_the_latest_word_of_each_bundle() -> None:
    live = Live()
    live.report(EU, report(1, full=True, shop=word(), notes=word()), 10.0)
    live.report(EU, report(2, removed=("notes",), shop=word("pod: a migration")), 20.0)
    view = views(live)[EU]
    assert (view.next_seq, view.last_seen, view.seq) == (4, 20.0, 3)
    assert set(view.bundles) == {SHOP}
    assert view.suspended == {SHOP: "pod: a migration"}


def test_what_is_suspended_here_goes_before_what_is_suspended_there() -> None:
    live = Live()
    live.report(EU, report(1, full=True, shop=word("there"), notes=word("there")), 10.0)
    view = live.views(lambda _: 1, {EU: {SHOP: "here"}})[EU]
    assert view.suspended == {SHOP: "here", NOTES: "there"}


def test_who_is_resumed_in_its_cluster_is_suspended_no_more() -> None:
    live = Live()
    live.report(EU, report(1, full=True, shop=word("there")), 10.0)
    live.report(EU, report(2), 20.0)
    assert views(live)[EU].suspended == {SHOP: "there"}
    live.report(EU, report(3, shop=word()), 30.0)
    assert views(live)[EU].suspended == {}


def test_the_members_of_rollouts_are_known_at_a_glance_the_longest_silent_first() -> None:
    live = Live()
    live.report(ClusterName("c1"), report(1, full=True, shop=word()), 30.0)
    live.report(ClusterName("c2"), report(1, full=True, shop=word("there")), 20.0)
    live.report(ClusterName("c3"), report(1, full=True, shop=word()), 25.0)
    live.report(ClusterName("stranger"), report(1, full=True, shop=word("there")), 10.0)
    here = {ClusterName("c1"): {SHOP: "here"}, ClusterName("stranger"): {SHOP: "here"}}
    found = live.views(lambda _: 1, here, cordoned={ClusterName("c4"): "ann: broken"})
    states = [
        rollouts.start(rollout(wave("one", "c1", "c2")), 30.0),
        rollouts.start(rollout(wave("one", "c2", "c3", "c4")), 30.0),
    ]
    assert found.roster(states) == Roster(
        seen=(
            (0.0, ClusterName("c4")),
            (20.0, ClusterName("c2")),
            (25.0, ClusterName("c3")),
            (30.0, ClusterName("c1")),
        ),
        cordoned=(ClusterName("c4"),),
        suspended=(ClusterName("c1"), ClusterName("c2")),
    )
