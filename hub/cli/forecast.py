"""What would roll out when the fleet repo goes from one revision to another, as a value.

The rollouts and their waves are made by the very code of the hub (`hub.rollout.waves`), as if every cluster ran the
older revision whole and nothing else was under way. Two bundles that would own one object are found as the hub finds
them. Counts are of objects on clusters: one ConfigMap on three clusters is three. Next: `planning` prints it.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial

import orjson

from hub import desired
from hub.cli import progress, revisions, risks, telling
from hub.cli.revisions import Comparison, Pair
from hub.cli.risks import Step
from hub.model import Finding
from hub.renders import RenderRequest
from hub.rollout import resolve, waves
from hub.slices import trees
from hub.state import ABSENT, Rollout, Wave
from proto.ids import BundleName, ClusterName, Oid
from proto.objects import ObjectKey
from proto.slices import POLICY_FILE, read_policy

FATES = ("created", "changed", "pruned", "let go")
_MANY_REMOVED = 0.1
"""Of a bundle's clusters: from here on its removal is warned about."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedWave:
    """`counts`: bundle → fate → how many objects of it on all the wave's clusters."""

    wave: Wave
    counts: Mapping[BundleName, Mapping[str, int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedRollout:
    """`warnings` are sentences."""

    rollout: Rollout
    policy: str
    waves: tuple[PlannedWave, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Danger:
    """One risk of one object of a bundle, with the clusters and the waves that it comes to, in their order."""

    risk: risks.Risk
    bundle: BundleName
    key: ObjectKey
    clusters: tuple[ClusterName, ...]
    waves: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """`dangers` come the worst first. `waiting`: bundle → why it does not roll out. `clusters`: how many there are."""

    title: str
    rollouts: tuple[PlannedRollout, ...]
    dangers: tuple[Danger, ...]
    waiting: Mapping[BundleName, str]
    joined: tuple[ClusterName, ...]
    left: tuple[ClusterName, ...]
    clusters: int
    findings: tuple[Finding, ...]
    sound: bool
    """Is nothing wrong with the newer revision? A plan from a broken one to its mend is cut, too, but no failure."""

    @property
    def changing(self) -> frozenset[ClusterName]:
        return frozenset(cluster for one in self.rollouts for cluster in one.rollout.targets)


Change = tuple[BundleName, Oid, Oid]


@dataclass(slots=True)
class _Rendered:
    """What was found out by rendering. A subtree that is the same on both sides is never rendered for itself and goes
    by the key of its request, which says as much as its id."""

    current: dict[ClusterName, dict[BundleName, Oid]] = field(default_factory=dict)
    wanted: dict[BundleName, dict[ClusterName, Oid]] = field(default_factory=dict)
    steps: dict[Change, tuple[Step, ...]] = field(default_factory=dict)
    keys: dict[Oid, frozenset[ObjectKey]] = field(default_factory=dict)
    requests: dict[str, tuple[revisions.Revision, RenderRequest]] = field(default_factory=dict)


def planned(comparison: Comparison) -> Plan:
    """What going from the one side to the other would roll out."""
    before, after = comparison.before, comparison.after
    found = _Rendered()
    for side in (after, before):
        found.requests |= {request.key: (side, request) for request in side.requests}
    for cluster, bundles in _ids(before).items():
        found.current[cluster] = bundles
    found.wanted = {name: {} for name in after.fleet.bundles}
    for cluster, bundles in _ids(after).items():
        for name, oid in bundles.items():
            found.wanted[name][cluster] = oid
    with progress.noted("finding what may differ"):
        pairs = comparison.pairs()
    failed = comparison.unsure()
    gaining: set[ClusterName] = set()
    for pair in progress.tracked(pairs, "planning", total=len(pairs)):
        if not _take(found, comparison, pair, gaining):
            failed.add(pair.bundle)
    for cluster in comparison.incomparable():
        found.current.pop(cluster, None)
        for name in found.wanted:
            found.wanted[name].pop(cluster, None)
    for name in failed:
        found.wanted.pop(name, None)
    clashing = _clashes(found, comparison, gaining)
    with progress.noted("making rollouts and waves"):
        made = waves.plan_rollouts(
            fleet=after.fleet,
            desired={name: oids for name, oids in found.wanted.items() if name not in clashing},
            failed=failed | clashing.keys(),
            current=found.current,
            last_good={},
            completed={},
            holds={},
            active=(),
            keys=partial(_keys, found),
            remembered={
                name: policy for name in before.fleet.bundles if (policy := waves.policy_of(before.fleet, name))
            },
            revision=Oid(str(after.commit.id) if after.commit else ""),
            number=1,
            now=0.0,
        )
    rollouts_ = tuple(_rollout(rollout, found, comparison) for rollout in made.rollouts)
    return Plan(
        title=f"{before} → {after}",
        rollouts=rollouts_,
        dangers=_dangers(made.rollouts, found),
        waiting=made.waiting,
        joined=comparison.joined,
        left=comparison.left,
        clusters=len(after.fleet.clusters),
        findings=(*comparison.errors(), *clashing.values()),
        sound=not (comparison.errors(newer=True) or clashing),
    )


def _ids(side: revisions.Revision) -> dict[ClusterName, dict[BundleName, Oid]]:
    found: dict[ClusterName, dict[BundleName, Oid]] = {}
    for name, requests in side.wanted().items():
        for cluster, request in requests.items():
            found.setdefault(cluster, {})[name] = Oid(request.key)
    return found


def _take(found: _Rendered, comparison: Comparison, pair: Pair, gaining: set[ClusterName]) -> bool:
    """Render both sides of a pair and keep what is to be known of them; says whether both render."""
    if (files := comparison.rendered(pair)) is None:
        return False
    sides = [trees.subtree(side)[0] if side else ABSENT for side in files]
    for oid, side in zip(sides, files, strict=True):
        if oid not in found.keys:
            found.keys[oid] = frozenset(ObjectKey.from_path(path) for path in side if path != POLICY_FILE)
    for cluster in pair.clusters:
        for oid, name in ((sides[0], "current"), (sides[1], "wanted")):
            if oid != ABSENT and name == "current":
                found.current[cluster][pair.bundle] = oid
            elif oid != ABSENT:
                found.wanted[pair.bundle][cluster] = oid
    if found.keys[sides[1]] - found.keys[sides[0]]:
        gaining.update(pair.clusters)
    change = pair.bundle, sides[0], sides[1]
    if change not in found.steps:
        found.steps[change] = _steps(*files)
    return True


def _steps(before: Mapping[str, bytes], after: Mapping[str, bytes]) -> tuple[Step, ...]:
    policy = read_policy((after or before)[POLICY_FILE])
    found: list[Step] = []
    for path in sorted((before.keys() | after.keys()) - {POLICY_FILE}):
        old, new = before.get(path), after.get(path)
        if old != new:
            step = risks.judge(
                ObjectKey.from_path(path),
                orjson.loads(old) if old is not None else None,
                orjson.loads(new) if new is not None else None,
                prune=policy.prune,
                destructive=policy.destructive_prune,
            )
            found.append(step)
    return tuple(found)


def _keys(found: _Rendered, oid: Oid) -> frozenset[ObjectKey]:
    """The objects of a subtree; one that goes by its request's key is rendered now. None of what does not render."""
    if oid not in found.keys:
        side, request = found.requests[oid]
        files = side.files(request) or {}
        found.keys[oid] = frozenset(ObjectKey.from_path(path) for path in files if path != POLICY_FILE)
    return found.keys[oid]


def _clashes(found: _Rendered, comparison: Comparison, gaining: set[ClusterName]) -> Mapping[BundleName, Finding]:
    """As the hub refuses them. Only where a bundle gains an object can another one have it already."""
    fleet = comparison.after.fleet
    asked = {oid for cluster in gaining for oid in found.current.get(cluster, {}).values()}
    asked |= {oids[cluster] for oids in found.wanted.values() for cluster in gaining if cluster in oids}
    unknown = sorted(asked - found.keys.keys())
    for oid in progress.tracked(unknown, "looking who owns what", total=len(unknown)):
        _keys(found, oid)
    return desired.clashes(
        {name: {c: oid for c, oid in oids.items() if c in gaining} for name, oids in found.wanted.items()},
        current=found.current,
        gone=desired.gone(fleet, found.current),
        renamed=fleet.renamed,
        keys=partial(_keys, found),
        where=lambda name: bundle.where if (bundle := fleet.bundles.get(BundleName(name))) else f"bundle {name}",
    )


def _rollout(rollout: Rollout, found: _Rendered, comparison: Comparison) -> PlannedRollout:
    planned_waves: list[PlannedWave] = []
    for wave in rollout.waves:
        counts: dict[BundleName, Counter[str]] = {name: Counter() for name in rollout.bundles}
        for cluster in wave.clusters:
            for name, step in _steps_on(rollout, cluster, found):
                counts[name][step.fate] += 1
        planned_waves.append(PlannedWave(wave=wave, counts=counts))
    return PlannedRollout(
        rollout=rollout,
        policy=_policy(rollout, comparison),
        waves=tuple(planned_waves),
        warnings=tuple(_warnings(rollout, found, comparison.after.fleet.renamed)),
    )


def _policy(rollout: Rollout, comparison: Comparison) -> str:
    """The name of the policy that gave the waves: of several bundles that roll as one only one's is taken."""
    for name in rollout.bundles:
        side = comparison.after if name in comparison.after.fleet.bundles else comparison.before
        policy = waves.policy_of(side.fleet, name)
        clusters = comparison.after.fleet.clusters
        if policy and resolve.resolve(policy, members=rollout.targets.keys(), clusters=clusters) == rollout.waves:
            return policy.name
    return ""


def _steps_on(rollout: Rollout, cluster: ClusterName, found: _Rendered) -> Iterator[tuple[BundleName, Step]]:
    """What the rollout does on a cluster. An object that goes from bundle to bundle is changed, not pruned."""
    current = found.current.get(cluster, {})
    every = [
        (name, step)
        for name, oid in rollout.targets[cluster].after.items()
        for step in found.steps.get((name, current.get(name, ABSENT), oid), ())
    ]
    if len(rollout.bundles) == 1:
        yield from every
        return
    arrives = {step.key for _, step in every if step.fate == "created"}
    leaves = {step.key for _, step in every if step.fate in ("pruned", "let go")}
    for name, step in every:
        if step.key not in arrives & leaves:
            yield name, step
        elif step.fate == "created":
            yield name, dataclasses.replace(step, fate="changed")


def _warnings(rollout: Rollout, found: _Rendered, renamed: Mapping[BundleName, BundleName]) -> Iterator[str]:
    for wave in rollout.waves:
        if not wave.clusters and not wave.allow_empty:
            yield f"wave {wave.name} selects no cluster: the rollout waits until somebody mends it, or sets allowEmpty"
    for name in rollout.bundles:
        runs = sum(name in bundles for bundles in found.current.values())
        gone = sum(target.after.get(name) == ABSENT for target in rollout.targets.values())
        if renamed.get(name) in rollout.bundles:
            yield f"renames bundle {name} to {renamed[name]}"
        elif gone and gone >= runs * _MANY_REMOVED:
            yield f"removes bundle {name} from {gone} of the {telling.counted(runs, 'clusters')} that run it"
    if rollout.depends_on:
        yield f"waits on each cluster for {', '.join(rollout.depends_on)}"


def _dangers(rollouts_: tuple[Rollout, ...], found: _Rendered) -> tuple[Danger, ...]:
    where: dict[tuple[BundleName, ObjectKey, risks.Risk], list[tuple[ClusterName, str]]] = {}
    for rollout in rollouts_:
        for wave in rollout.waves:
            for cluster in wave.clusters:
                for name, step in _steps_on(rollout, cluster, found):
                    for risk in step.risks:
                        where.setdefault((name, step.key, risk), []).append((cluster, wave.name))
    made = [
        Danger(
            risk=risk,
            bundle=name,
            key=key,
            clusters=tuple(sorted(cluster for cluster, _ in places)),
            waves=tuple(dict.fromkeys(wave for _, wave in places)),
        )
        for (name, key, risk), places in where.items()
    ]
    return tuple(sorted(made, key=lambda d: (d.risk.rank, -len(d.clusters), d.bundle, d.key, d.risk.why)))
