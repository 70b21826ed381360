"""A policy's waves with real clusters: by selector, by name, by share of what is left, in the order of a label."""

from typing import Any

import pytest

from hub.model import Amount, Cluster, FailurePolicy, RolloutPolicy, Selector, WavePolicy
from hub.rollout.resolve import resolve
from hub.state import Wave
from proto.ids import ClusterName


def fleet(**labels: dict[str, str]) -> dict[ClusterName, Cluster]:
    return {ClusterName(name): Cluster(name=ClusterName(name), labels=found) for name, found in labels.items()}


def waves(
    clusters: dict[ClusterName, Cluster], *policies: WavePolicy, members: str = "", **changes: Any
) -> tuple[Wave, ...]:
    policy = RolloutPolicy(name="careful", waves=policies, **changes)
    chosen = [ClusterName(name) for name in members.split()] or list(clusters)
    return resolve(policy, members=chosen, clusters=clusters)


def shape(found: tuple[Wave, ...]) -> dict[str, str]:
    return {wave.name: " ".join(wave.clusters) for wave in found}


PLACES = fleet(
    ten={"n": "10"},
    two={"n": "2"},
    beta={"n": "rack-b2"},
    alpha={"n": "rack-b10"},
    none={},
    empty={"n": ""},
)


def test_clusters_of_a_wave_go_in_the_order_of_a_label_numbers_as_numbers_and_without_it_last() -> None:
    found = waves(PLACES, WavePolicy(name="all", order_by="n"))
    assert shape(found) == {"all": "empty beta alpha two ten none"}
    assert shape(waves(PLACES, WavePolicy(name="all"))) == {"all": "alpha beta empty none ten two"}


def test_a_share_takes_the_first_in_the_order_of_the_label() -> None:
    found = waves(PLACES, WavePolicy(name="some", order_by="n", share=Amount(value=50, percent=True)))
    assert shape(found) == {"some": "empty beta alpha", "rest": "none ten two"}


@pytest.mark.parametrize(
    ("shares", "sizes"),
    [
        pytest.param(["10%", "50%"], [1, 4, 5], id="each of what the waves before it left"),
        pytest.param(["1%"], [1, 9], id="at least one"),
        pytest.param(["100%", "50%"], [10], id="nothing left is no wave"),
        pytest.param(["3", "99"], [3, 7], id="numbers, of no more than there are"),
    ],
)
def test_a_share_is_of_the_clusters_that_are_left_rounded_down(shares: list[str], sizes: list[int]) -> None:
    ten = fleet(**{f"c{n}": {} for n in range(10)})
    asked = [
        WavePolicy(name=f"w{n}", share=Amount(value=int(text.rstrip("%")), percent=text.endswith("%")))
        for n, text in enumerate(shares)
    ]
    assert [len(wave.clusters) for wave in waves(ten, *asked)] == sizes


def test_a_wave_names_clusters_beside_those_that_it_selects() -> None:
    three = fleet(a={"tier": "prod"}, b={}, c={})
    named = WavePolicy(name="first", clusters=("b",), select=Selector(match_labels={"tier": "prod"}))
    assert shape(waves(three, named)) == {"first": "a b", "rest": "c"}
    assert shape(waves(three, WavePolicy(name="first", clusters=("b",)))) == {"first": "b", "rest": "a c"}


def test_a_named_cluster_that_has_nothing_to_change_leaves_no_wave_behind_and_one_that_nobody_knows_does() -> None:
    three = fleet(a={}, b={}, c={})
    asked = WavePolicy(name="first", clusters=("b",))
    assert shape(waves(three, asked, members="a c")) == {"rest": "a c"}
    assert shape(waves(three, WavePolicy(name="first", clusters=("x",)))) == {"first": "", "rest": "a b c"}


@pytest.mark.parametrize(
    ("size", "in_flight", "offline", "failures", "unavailable"),
    [
        pytest.param(1, 1, 0, 0, 1, id="one cluster"),
        pytest.param(3, 1, 0, 0, 1, id="a third of three is not reached"),
        pytest.param(4, 1, 1, 1, 1, id="a quarter of four"),
        pytest.param(9, 2, 2, 2, 2, id="rounded down"),
    ],
)
def test_shares_of_small_waves_leave_one_to_move_and_no_budget(
    size: int, in_flight: int, offline: int, failures: int, unavailable: int
) -> None:
    quarter = Amount(value=25, percent=True)
    asked = WavePolicy(name="all", max_concurrent=quarter, max_unavailable=quarter, offline_budget=quarter)
    policy = FailurePolicy(budget=quarter)
    (wave,) = waves(fleet(**{f"c{n}": {} for n in range(size)}), asked, failure=policy)
    assert (wave.max_concurrent, wave.max_unavailable) == (in_flight, unavailable)
    assert (wave.offline_budget, wave.failure_budget) == (offline, failures)
