"""A rollout policy with real clusters: waves as they were when the rollout was made, which later edits do not reach.

| amount                                       | percentage of                 | rounded                        |
|----------------------------------------------|-------------------------------|--------------------------------|
| `share`                                      | the clusters that are left    | down, not below 1              |
| `maxConcurrent`, `maxUnavailable`            | the wave                      | down, not below 1              |
| `failure.budget`, `offline.budget`           | the wave                      | down, to 0 if need be          |
| `failure.total`                              | all members                   | down, to 0 if need be          |
| `minProof`                                   | the wave                      | up, at least one               |

Next: `waves` (the rollouts that have them).
"""

import re
from collections.abc import Collection, Mapping

from hub.model import Amount, Cluster, RolloutPolicy, Selector, WavePolicy
from hub.repo import targets
from hub.state import Wave
from proto.ids import ClusterName

REST = WavePolicy(name="rest", select=Selector())
"""The last wave: the clusters that no wave of the policy selects."""
FIRST_OFFLINE_BUDGET = Amount(value=0)
OFFLINE_BUDGET = Amount(value=10, percent=True)
"""A first wave without its clusters proves nothing; in later ones a few must not stop everybody."""
_DIGITS = re.compile(r"([0-9]+)")


def resolve(
    policy: RolloutPolicy, *, members: Collection[ClusterName], clusters: Mapping[ClusterName, Cluster]
) -> tuple[Wave, ...]:
    """Pure: the waves of `policy` with those of `clusters` that are `members`, each in the first wave that takes it.

    A wave whose clusters have nothing to change is left out. One that selects no cluster of the fleet stays, empty,
    and keeps the rollout from starting, unless it may be empty.
    """
    waves: list[Wave] = []
    open_ = sorted(members)
    for wave in (*policy.waves, REST):
        chosen = [name for name in open_ if _selects(wave, clusters[name])]
        if wave.order_by:
            chosen.sort(key=lambda name: _place(clusters[name], wave.order_by))
        if wave.share is not None:
            chosen = chosen[: max(1, share(wave.share, len(open_)))]
        taken = set(chosen)
        open_ = [name for name in open_ if name not in taken]
        mistyped = not chosen and not any(_selects(wave, cluster) for cluster in clusters.values())
        if chosen or (mistyped and wave is not REST and not wave.allow_empty):
            first = not any(earlier.clusters for earlier in waves)
            waves.append(_wave(wave, policy, chosen, first=first))
    return tuple(waves)


def share(amount: Amount, size: int) -> int:
    """Pure: so many of `size`, rounded down."""
    return size * amount.value // 100 if amount.percent else amount.value


def _selects(wave: WavePolicy, cluster: Cluster) -> bool:
    if wave.select is None and not wave.clusters:
        return True
    return cluster.name in wave.clusters or (wave.select is not None and targets.matches(wave.select, cluster.labels))


def _place(cluster: Cluster, label: str) -> tuple[bool, list[tuple[int, str]], ClusterName]:
    """By the label's value, numbers in it as numbers; who has none comes last."""
    value = cluster.labels.get(label, "") if label else ""
    parts = [(int(part), "") if part.isdecimal() else (-1, part) for part in _DIGITS.split(value) if part]
    return (bool(label) and label not in cluster.labels, parts, cluster.name)


def _wave(wave: WavePolicy, policy: RolloutPolicy, chosen: list[ClusterName], *, first: bool) -> Wave:
    size = len(chosen)
    offline = wave.offline_budget or policy.offline_budget or (FIRST_OFFLINE_BUDGET if first else OFFLINE_BUDGET)
    proof = wave.min_proof
    return Wave(
        name=wave.name,
        clusters=tuple(chosen),
        max_concurrent=max(1, share(wave.max_concurrent, size)),
        soak_s=wave.soak_s,
        min_proof=min(size, max(1, -(-size * proof.value // 100) if proof.percent else proof.value)),
        offline_budget=share(offline, size),
        failure_budget=share(policy.failure.budget, size),
        allow_empty=wave.allow_empty,
        max_unavailable=None if wave.max_unavailable is None else max(1, share(wave.max_unavailable, size)),
        gates=wave.gates,
        windows=wave.windows,
    )
