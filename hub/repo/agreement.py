"""What the files of a fleet repo say of each other: names that stand for nothing, bundles that wait in a circle. Pure.

| said                                    | of                                        | it is                          |
|-----------------------------------------|-------------------------------------------|--------------------------------|
| `after`, `gates[].bundle` of a policy   | a bundle that does not exist, or a wave   | an error of the policy: such a |
|                                         | that its rollouts do not have             | gate would never open          |
| `waves[].clusters` of a policy          | a cluster that does not exist             | a warning: it may be gone      |
| `dependsOn` of bundles                  | each other, in a circle                   | an error of all in the circle  |
| `after`, `gates[].bundle` of bundles'   | each other's waves, in a circle           | an error of all in the circle  |
| policies                                |                                           |                                |
| `targets` of a bundle, `clusters` of a  | no cluster                                | a warning                      |
| freeze                                  |                                           |                                |
| `waves[].select` of a policy            | no cluster, or such as earlier waves have | a warning, but `allowEmpty`    |

What may be there and cannot be read is never called missing. Next: `fleet` adds what is found to the rest.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from hub.model import Bundle, Finding, Fleet, RolloutPolicy
from hub.repo import targets
from hub.repo.kinds.policies import REST
from hub.repo.schema import Section, nearest

Step = tuple[str, int, bool]
"""Of a rollout: its bundle, the place of a wave, and whether that is done or only open."""
N = TypeVar("N", str, Step)
Steps = tuple[str | int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What there is, by name. `bundles` and `clusters` None: something cannot be read, so that nothing is missing;
    `waves` of the bundles whose policy is known; `renamed`: old name → new one."""

    bundles: Collection[str] | None
    clusters: Collection[str] | None
    waves: Mapping[str, Collection[str]]
    renamed: Mapping[str, str]


def waves_of(bundle: Bundle, policies: Mapping[str, RolloutPolicy]) -> tuple[str, ...] | None:
    """Pure: the waves that rollouts of the bundle may have; None when its policy is not known."""
    policy = policies.get(bundle.rollout)
    if policy is None and bundle.rollout:
        return None
    return (*(wave.name for wave in policy.waves), REST) if policy else (REST,)


def check_policy(value: Mapping[str, Any], known: Known, *, errors: Section, warnings: Section) -> None:
    """Pure: what a policy says of bundles and clusters. `errors` and `warnings` are sections of its whole document,
    which is `value` and valid in itself; what is wrong is added to their findings."""
    for steps, named, wave in _awaited(value):
        if known.bundles is None:
            break
        if named not in known.bundles:
            there = f"it is called {known.renamed[named]!r} now" if named in known.renamed else ""
            remedy = there or nearest(named, known.bundles, else_="remove it, or add the bundle")
            errors.problem(f"there is no bundle {named!r}", *steps, remedy=remedy)
        elif wave and wave not in known.waves.get(named, (wave,)):
            remedy = nearest(wave, known.waves[named], else_=f"it has {', '.join(known.waves[named])}")
            errors.problem(f"rollouts of bundle {named!r} have no wave {wave!r}", *steps[:-1], "wave", remedy=remedy)
    for steps, cluster in _selected(value):
        if known.clusters is not None and cluster not in known.clusters:
            remedy = nearest(cluster, known.clusters, else_="remove it, or add the cluster")
            warnings.problem(f"there is no cluster {cluster!r}", *steps, remedy=remedy)


def _parts(value: Mapping[str, Any]) -> Iterator[tuple[Steps, Mapping[str, Any]]]:
    """The spec, and each of its waves."""
    spec = value.get("spec") or {}
    yield ("spec",), spec
    for index, wave in enumerate(spec.get("waves") or ()):
        yield ("spec", "waves", index), wave


def _awaited(value: Mapping[str, Any]) -> Iterator[tuple[Steps, str, str]]:
    """Bundles that gates wait for: where the name stands, the name, and the wave or ""."""
    for steps, part in _parts(value):
        if after := part.get("after"):
            yield (*steps, "after", "bundle"), after["bundle"], after.get("wave") or ""
        for index, gate in enumerate(part.get("gates") or ()):
            if done := gate.get("bundle"):
                yield (*steps, "gates", index, "bundle", "name"), done["name"], done.get("wave") or ""


def _selected(value: Mapping[str, Any]) -> Iterator[tuple[Steps, str]]:
    for steps, part in _parts(value):
        for index, cluster in enumerate(part.get("clusters") or ()):
            yield (*steps, "clusters", index), cluster


# --- circles ------------------------------------------------------------------------------------------------------


def dependencies(bundles: Mapping[str, Bundle]) -> dict[str, list[str]]:
    """Pure: for each bundle that depends on itself, directly or not, a shortest circle from it back to it."""
    return _circles(
        {name: {str(other) for other in bundle.depends_on if other in bundles} for name, bundle in bundles.items()}
    )


def waiting(bundles: Mapping[str, Bundle], policies: Mapping[str, RolloutPolicy]) -> dict[str, list[str]]:
    """Pure: for each bundle whose rollout would wait for ever when those that it waits for roll out too: a shortest
    circle of `bundle/wave` from it back to it."""
    every = {name: waves_of(bundle, policies) for name, bundle in bundles.items()}
    known = {name: names for name, names in every.items() if names is not None}
    needs: dict[Step, set[Step]] = {}
    for name, names in known.items():
        policy = policies.get(bundles[name].rollout)
        for index in range(len(names)):
            needs.setdefault((name, index, False), set()).update([(name, index - 1, True)] if index else [])
            needs.setdefault((name, index, True), set()).add((name, index, False))
            for gate in policy.waves[index].gates if policy and index < len(policy.waves) else ():
                if gate.done is not None and gate.done.bundle in known:
                    theirs, wave = known[gate.done.bundle], gate.done.wave
                    place = theirs.index(wave) if wave in theirs else len(theirs) - 1
                    needs[name, index, gate.when == "after"].add((gate.done.bundle, place, True))
    found: dict[str, list[str]] = {}
    for (name, _, _), circle in _circles(needs).items():
        told = [f"{bundle}/{known[bundle][index]}" for bundle, index, _ in circle]
        shortened = [each for place, each in enumerate(told) if place == 0 or each != told[place - 1]]
        if name not in found or len(shortened) < len(found[name]):
            found[name] = shortened
    return found


def _circles(needs: Mapping[N, Iterable[N]]) -> dict[N, list[N]]:
    """Pure: for each that needs itself, directly or not, a shortest circle from it back to it."""
    left = {name: set(others) for name, others in needs.items()}
    while free := [name for name, others in left.items() if not others & left.keys()]:
        for name in free:
            del left[name]
    edges = {name: sorted(others & left.keys()) for name, others in left.items()}
    found: dict[N, list[N]] = {}
    for start in sorted(left):
        came_from: dict[N, N] = {}
        queue = [start]
        for name in queue:  # grows while it is read
            for other in edges[name]:
                if other not in came_from:
                    came_from[other] = name
                    queue.append(other)
        if start in came_from:
            circle: list[N] = [start]
            while came_from[circle[0]] != start:
                circle.insert(0, came_from[circle[0]])
            circle.insert(0, start)
            found[start] = circle
    return found


def without_clusters(fleet: Fleet) -> Iterator[Finding]:
    """Pure: selectors that match no cluster: bundles that are wanted nowhere, freezes that hold nobody, waves at which
    a rollout would wait for somebody to mend them."""
    if not fleet.clusters:
        return
    found = Finding(where="", message="", remedy="compare it with the labels in clusters/", severity="warning")
    for name, clusters in targets.wanted(fleet).items():
        if not clusters:
            where, message = fleet.bundles[name].where, "spec.targets matches no cluster"
            yield replace(found, where=where, message=message, about=f"bundle {name}")
    for freeze in fleet.freezes:
        if not any(targets.matches(freeze.select, cluster.labels) for cluster in fleet.clusters.values()):
            yield replace(found, where="fleet.yaml", message=f"freeze {freeze.name} matches no cluster")
    for policy in fleet.policies.values():
        for wave in _empty(policy, fleet):
            message = f"wave {wave} selects no cluster that no earlier wave has, so rollouts would wait there"
            yield replace(found, where=policy.where, message=message, about=f"rollout policy {policy.name}")


def _empty(policy: RolloutPolicy, fleet: Fleet) -> Iterator[str]:
    """Waves that would have no cluster even in a rollout to all. One with a share leaves nobody knows whom."""
    left = dict(fleet.clusters)
    for wave in policy.waves:
        chosen = {
            name
            for name, cluster in left.items()
            if name in wave.clusters or (wave.select is not None and targets.matches(wave.select, cluster.labels))
        }
        if wave.select is not None and not chosen and not wave.allow_empty:
            yield wave.name
        left = {name: cluster for name, cluster in left.items() if name not in chosen or wave.share is not None}
