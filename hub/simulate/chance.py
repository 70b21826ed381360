"""Everything that is left to chance in a simulation, drawn from one seed: the same seed gives the same run.

Commits and silences are drawn from streams of their own, so that two policies meet the same ones. Not pure: it owns the
randomness. Next: `world`.
"""

import random
from collections.abc import Iterator

from hub.simulate.setting import HOUR_S, Setting, Span
from proto.ids import BundleName, ClusterName


class Chance:
    """The draws of one run."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._moves = self._stream("moves")
        self._people = self._stream("people")

    def _stream(self, name: str) -> random.Random:
        return random.Random(f"{self._seed}/{name}")

    def commits(self, setting: Setting, bundles: list[BundleName]) -> Iterator[tuple[float, BundleName, bool, float]]:
        """When somebody commits to which bundle, whether it is bad, and how long that takes to show."""
        draw, at = self._stream("commits"), setting.start_s
        while setting.commits_per_hour > 0 and bundles:
            at += draw.expovariate(setting.commits_per_hour / HOUR_S)
            if at >= setting.end_s:
                return
            yield at, draw.choice(bundles), draw.random() < setting.bad, _in(draw, setting.shows)

    def silences(self, setting: Setting, cluster: ClusterName) -> Iterator[tuple[float, float]]:
        """From when to when the cluster is not heard."""
        if not setting.offline > 0:
            return
        draw, at = self._stream(f"silences/{cluster}"), setting.start_s
        if setting.offline >= 1:
            yield at, setting.end_s
            return
        mean_s = (setting.away.least_s + setting.away.most_s) / 2
        if not mean_s > 0:
            return
        if draw.random() < setting.offline:
            until = at + draw.random() * _in(draw, setting.away)
            yield at, until
            at = until
        while True:
            at += draw.expovariate(setting.offline / (mean_s * (1 - setting.offline)))
            if at >= setting.end_s:
                return
            until = at + _in(draw, setting.away)
            yield at, until
            at = until

    def flapping(self, setting: Setting, clusters: list[ClusterName]) -> frozenset[ClusterName]:
        """Whose health comes and goes."""
        return frozenset(self._stream("flapping").sample(clusters, round(setting.flap * len(clusters))))

    def within(self, span: Span) -> float:
        """How long something on a cluster takes."""
        return _in(self._moves, span)

    def about_one(self) -> float:
        """By how much clusters differ in what they all do."""
        return 0.5 + self._moves.random()

    def happens(self, share: float) -> bool:
        return share > 0 and self._moves.random() < share

    def after(self, mean_s: float) -> float:
        """How long until something happens that comes at no fixed time."""
        return self._moves.expovariate(1 / mean_s)

    def answer(self, span: Span) -> float:
        """How much working time a person takes."""
        return _in(self._people, span)


def _in(draw: random.Random, span: Span) -> float:
    return span.least_s + draw.random() * (span.most_s - span.least_s)
