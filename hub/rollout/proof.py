"""What the latest word of one cluster says about one member of a rollout.

Only proof counts (design, rollout rule 4): a report at or past the move's seq that names, for every bundle of the move,
exactly the subtree that was moved. Flags and times of the agent never count, and other bundles of the cluster are
not looked at, so their moves never void a proof. `rollouts` decides what follows from a verdict.
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum

from hub.state import ABSENT, ClusterView, Target
from proto.ids import BundleName, Oid
from proto.messages import Health


class Verdict(StrEnum):
    """`NOTHING` is everything that is neither: an older slice, a bundle that still progresses, another subtree."""

    NOTHING = "nothing"
    PROOF = "proof"
    BAD = "bad"


def judge(wanted: Mapping[BundleName, Oid], view: ClusterView, *, seq: int, need_current: bool = True) -> Verdict:
    """Pure: what `view` says about the move numbered `seq` that put `wanted` on the cluster.

    | bundle is wanted as | part of a proof when                             | bad when          |
    |---------------------|--------------------------------------------------|-------------------|
    | a subtree           | named, converged, and Current if `need_current`  | named, and Failed |
    | ABSENT              | missing from the report, or its subtree is ""    | never             |
    """
    if view.seq < seq:
        return Verdict.NOTHING
    proven = True
    for bundle, subtree in wanted.items():
        word = view.bundles.get(bundle)
        named = word.subtree if word else ABSENT
        if named != subtree:
            proven = False
        elif word and subtree != ABSENT:
            if need_current and word.health is Health.FAILED:
                return Verdict.BAD
            proven = proven and word.converged and (word.health is Health.CURRENT or not need_current)
    return Verdict.PROOF if proven else Verdict.NOTHING


def why_failed(wanted: Mapping[BundleName, Oid], view: ClusterView) -> str:
    """Pure: what the cluster says is wrong, for people: the first Failed object of each bundle, and how many more."""
    return _problems(wanted, view, (Health.FAILED,))


def why_unproven(wanted: Mapping[BundleName, Oid], view: ClusterView) -> str:
    """Pure: the same of what has failed or, where nothing has, of what is not Current yet."""
    return why_failed(wanted, view) or _problems(wanted, view, tuple(Health))


def _problems(wanted: Mapping[BundleName, Oid], view: ClusterView, healths: Sequence[Health]) -> str:
    told = []
    for bundle in wanted:
        word = view.bundles.get(bundle)
        bad = [problem for problem in word.problems if problem.health in healths] if word else []
        if bad:
            more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
            text = bad[0].message or bad[0].reason
            told.append((text if bad[0].object in text else f"{bad[0].object}: {text}") + more)
    return "; ".join(told)


def sick(target: Target, view: ClusterView) -> bool:
    """Pure: is a bundle that `target` touches on the cluster already, and not Current there?"""
    words = (view.bundles.get(bundle) for bundle in target.after)
    return any(word.subtree != ABSENT and word.health is not Health.CURRENT for word in words if word)
