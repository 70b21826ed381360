"""The fleet that is simulated: the recorded one, or one made up with the labels that a policy's waves select by.

Pure. Next: `setting`.
"""

from collections.abc import Iterable
from dataclasses import replace

from hub.model import DEFAULT_POLICY, Bundle, Cluster, Fleet, Requirement, RolloutPolicy, Selector
from proto.ids import BundleName, ClusterName
from proto.slices import BundlePolicy

APP = BundleName("app")
FIRST_SHARE = 0.01
"""Of a made-up fleet: how much a first wave selects. The other waves, with what none selects, share the rest."""
_PLACES = 10
"""So many values has a label by which a wave is ordered."""


def made_up(policies: Iterable[RolloutPolicy], count: int) -> dict[ClusterName, Cluster]:
    """Pure: `count` clusters, each with the labels (or the name) that one wave of the policies selects by, or none."""
    named: dict[str, None] = {}
    groups: list[dict[str, str]] = []
    order_by: dict[str, None] = {}
    for policy in policies:
        for wave in policy.waves:
            named.update(dict.fromkeys(wave.clusters))
            order_by.update(dict.fromkeys([wave.order_by] if wave.order_by else []))
            labels = _labels(wave.select) if wave.select is not None else {}
            if labels and labels not in groups:
                groups.append(labels)
    names = [*named][:count]
    names += [name for n in range(1, count + len(names) + 1) if (name := f"c{n:0{len(str(count))}}") not in named]
    canaries = max(1, round(count * FIRST_SHARE)) if groups else 0
    found: dict[ClusterName, Cluster] = {}
    for place, name in enumerate(names[:count]):
        if name in named:
            labels = {}
        elif place - len(named) < canaries:
            labels = groups[0]
        else:
            kinds = [*groups[1:], {}]
            labels = kinds[place % len(kinds)]
        ordered = {label: str(place % _PLACES) for label in order_by if label not in labels}
        found[ClusterName(name)] = Cluster(name=ClusterName(name), labels={**labels, **ordered})
    return found


def of_policy(policy: RolloutPolicy, fleet: Fleet) -> Fleet:
    """Pure: the fleet with one bundle alone, on every cluster, that rolls out by `policy`."""
    bundle = Bundle(name=APP, folder="app", targets=Selector(), rollout=policy.name, policy=BundlePolicy(name=str(APP)))
    return replace(fleet, bundles={APP: bundle}, policies={policy.name: policy})


def bare(clusters: dict[ClusterName, Cluster]) -> Fleet:
    """Pure: a fleet of these clusters, of which nothing else is known."""
    return of_policy(DEFAULT_POLICY, Fleet(clusters=clusters))


def _labels(selector: Selector) -> dict[str, str]:
    """The fewest labels that the selector matches; none when it selects by what is not there."""
    found = dict(selector.match_labels)
    for requirement in selector.match_expressions:
        found.update(_label(requirement, found))
    return found


def _label(requirement: Requirement, known: dict[str, str]) -> dict[str, str]:
    if requirement.key in known:
        return {}
    if requirement.operator == "In":
        return {requirement.key: min(requirement.values)}
    return {requirement.key: "true"} if requirement.operator == "Exists" else {}
