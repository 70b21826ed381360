"""What earlier revisions of the fleet repo made of a bundle, from the record of its rollouts: the very bits that ran.

A rollout's record says what its bundle was wanted as on every cluster, so one row is the whole answer. A revision that
changed other bundles only stands for the newest rollout that this one had until then. Next: `waves`, which plans the
way back.
"""

from hub.journal import HoldRow, Journal, RevisionRow
from hub.rollout import rollouts_json, waves
from hub.state import Keep, Phase
from proto.errors import InvalidInput
from proto.ids import BundleName

LEAST_CHARS = 7
"""Of a revision's id, as Git abbreviates it."""
TOLD = 5


def at_revision(journal: Journal, bundle: BundleName, revision: str, *, at_once: bool) -> tuple[RevisionRow, Keep]:
    """What `revision` made of the bundle, and the rollout that brought it. Raises InvalidInput, naming those that can
    be named."""
    had = journal.revisions(bundle)
    if len(revision) < LEAST_CHARS:
        raise InvalidInput(f"revision {revision!r}", "is no revision", _which(had, f"write {LEAST_CHARS} characters"))
    own = [row for row in had if row.revision.startswith(revision)]
    if len({row.revision for row in own}) > 1:
        raise InvalidInput(f"revision {revision}", "may be several", _which(own, "write more of it"))
    newest = own[0].number if own else journal.newest_of(revision)
    found = [row for row in had if row.number <= newest]
    if not found:
        cause = f"rolled nothing of bundle {bundle} out" if newest == 0 else f"is from before bundle {bundle}"
        raise InvalidInput(f"revision {revision[:40]}", cause, _which(had, "name one that did"))
    return found[0], _keep(journal, bundle, found[0], at_once=at_once)


def previous(journal: Journal, bundle: BundleName, hold: HoldRow | None, *, at_once: bool) -> tuple[RevisionRow, Keep]:
    """What the bundle was before what it is: of what completed, the newest that differs. Raises InvalidInput."""
    completed = [row for row in journal.revisions(bundle) if row.phase == Phase.COMPLETED]
    if hold is not None and hold.keep is not None and hold.rollout:
        back_at = journal.rollout(hold.rollout)
        completed = [row for row in completed if back_at is not None and row.number <= back_at.number]
    if completed:
        now = _keep(journal, bundle, completed[0], at_once=at_once)
        for row in completed[1:]:
            keep = _keep(journal, bundle, row, at_once=at_once)
            if keep.subtrees != now.subtrees:
                return row, keep
    raise InvalidInput(f"bundle {bundle}", "has nothing before what it is", "commit what you want, or name a revision")


def _keep(journal: Journal, bundle: BundleName, row: RevisionRow, *, at_once: bool) -> Keep:
    stored = journal.rollout(row.rollout)
    if stored is None:
        raise InvalidInput(f"rollout {row.rollout}", "is not in the journal", "see 'flotilla rollouts'")
    wanted = waves.refused(rollouts_json.from_json(stored.begins).rollout)
    return Keep(subtrees=wanted[bundle], revision=row.revision, at_once=at_once)


def _which(rows: list[RevisionRow], advice: str) -> str:
    known = list(dict.fromkeys(row.revision[:12] for row in rows))
    more = f" and {len(known) - TOLD} more" if len(known) > TOLD else ""
    return f"{advice}: it has {', '.join(known[:TOLD])}{more}" if known else "it had no rollout yet"
