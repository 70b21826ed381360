"""What an apply undid of an object, or would: a report for each writer, with its fields' values. All of it is pure.

    what the suspicious event shows    drift is what                                       told of
    the whole object                   differs after the apply among what Git wants        each who had the fields
    its metadata alone                 moved between owners, and labels that differ        the same
    another object in its place        is there no more: all of it ("deleted")             whoever stands in our place

Fields of others beside ours are additions, told by writer. Drift that stays is told with the same id each time, what
was undone with a new one. Next: `revert` sends the requests and asks here what came of them.
"""

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from agent.drift import drift, values
from agent.drift.drift import Attribution
from agent.fields import ignored, ownership, steal
from agent.fields.ownership import FieldPath, Paths
from agent.model import Entry
from proto.messages import DriftReport, FieldValue
from proto.slices import BUNDLE_LABEL, PART_OF_LABEL

Found = dict[str, tuple[DriftReport, tuple[FieldValue, ...]]]
"""Reports and their values, by the reports' ids."""

_NOBODY = Attribution(fields=())


@dataclass(frozen=True, slots=True, kw_only=True)
class Fate:
    """What became of a drift, as reports say it: `error` why it was not undone, `revert_ms` how long until it was."""

    action: str
    error: str = ""
    revert_ms: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """The object that is suspected: `wanted` is it in Git, `pointers` are the ignored places of it, `controllers` those
    whose fields are no additions, `observed` the wall time of the suspicion."""

    entry: Entry
    wanted: Mapping[str, Any]
    pointers: tuple[str, ...]
    controllers: Collection[str]
    observed: str

    # --- what is known of it ------------------------------------------------------------------------------------------

    def is_whole(self, seen: Mapping[str, Any]) -> bool:
        """Not its metadata alone, and in the version that is applied: values in others may be written otherwise."""
        said = seen.get("apiVersion")
        return said == self.entry.api_version or (said is None and not seen.keys() <= {"kind", "metadata"})

    def is_known(self, seen: Mapping[str, Any]) -> bool:
        """Whether this is the very state of the baseline."""
        known = self.entry.baseline
        return known is not None and known == drift.baseline(seen)

    def is_from_before(self, seen: Mapping[str, Any]) -> bool:
        """Whether this may be a state from before the baseline."""
        known = self.entry.baseline
        return known is not None and drift.is_older(seen, known)

    def lost_ownership(self, seen: Mapping[str, Any]) -> bool:
        """Whether our entry is another than in the baseline."""
        known = self.entry.baseline
        return known is None or known.own != drift.baseline(seen).own

    def is_ignored(self, path: FieldPath) -> bool:
        return any(ignored.covers(pointer, path) for pointer in self.pointers)

    def instead(self, seen: Mapping[str, Any], *, wide: bool = False) -> Paths:
        """What stands in the place of lost fields (`steal.siblings`)."""
        return steal.siblings(seen, self.wanted, controllers=self.controllers, wide=wide)

    def is_repair(self, before: Mapping[str, Any], after: Mapping[str, Any], *, dry_run: bool = False) -> bool:
        """Whether our apply changed values, or would: by the values where they are known, else by what moved."""
        if not self.is_whole(before):
            moved = drift.repaired(before, after, dry_run=dry_run) and drift.is_drift(before, after)
            return moved or bool(self._relabelled(before, after))
        if before["metadata"].get("uid") != after["metadata"].get("uid"):
            return True
        return bool(values.difference(before, after, self.wanted))

    def _relabelled(self, before: Mapping[str, Any], after: Mapping[str, Any]) -> Paths:
        """The changed values among those that metadata shows, where it is all that we look at."""
        if before["metadata"].get("uid") != after["metadata"].get("uid"):
            return frozenset()
        shown = ({"metadata": before["metadata"]}, {"metadata": after["metadata"]})
        return values.difference(*shown, self.wanted)

    def what(self, before: Mapping[str, Any], paths: Paths = frozenset(), *, several: bool = False) -> str:
        """`paths` is one of several parts of what was changed: a part is relabelled if a label of ours is in it."""
        known = self.entry.baseline
        if known is not None and known.uid != before["metadata"].get("uid"):
            return "deleted"
        wanted = self.wanted["metadata"].get("labels") or {}
        labels = before["metadata"].get("labels") or {}
        lost = [name for name in (BUNDLE_LABEL, PART_OF_LABEL) if labels.get(name) != wanted.get(name)]
        if several:
            lost = [name for name in lost if ("f:metadata", "f:labels", f"f:{name}") in paths]
        return "relabelled" if lost else "changed"

    # --- what is told of it -------------------------------------------------------------------------------------------

    def changed(self, before: Mapping[str, Any], after: Mapping[str, Any], fate: Fate) -> Found:
        """What a repair undid, or would: one drift for each writer; one for all if the object is another."""
        if self.is_whole(before):
            moved = drift.gained(before, after) | drift.gained(after, before)
            changed = values.really_changed(moved, before, after)
        else:
            changed = drift.changed(before, after) or self._relabelled(before, after)
        parts = drift.attribute(before, changed, instead=self.instead(before))
        if not changed and self.is_whole(before):
            # Where ownership tells nothing, only the values do, and not whose they are.
            changed = values.difference(before, after, self.wanted)
        if len(parts) == 1 or self.what(before) == "deleted":
            parts = [(changed, replace(parts[0][1], fields=ownership.render(changed)))]
        found: Found = {}
        for paths, who in parts:
            told = self._report(before, self.what(before, paths, several=len(parts) > 1), fate, who=who)
            found[told.id] = told, self._values(before, paths)
        return found

    def additions(
        self, before: Mapping[str, Any], after: Mapping[str, Any], fate: Fate, *, still: Paths = frozenset()
    ) -> Found:
        """What others have in `after` beside us, but for what is there `still`, with its values; `before` names the
        object."""
        found: Found = {}
        added = drift.additions(
            after, controllers=self.controllers, kept=lambda path: path in still or self.is_ignored(path)
        )
        for paths, who in added:
            told = self._report(before, "added", fate, who=who)
            found[told.id] = told, self._values(after, paths)
        return found

    def gone(self, last: Mapping[str, Any], fate: Fate) -> DriftReport:
        """It was deleted; `last` is what is known of it."""
        return self._report(last, "deleted", fate)

    def refused(self, before: Mapping[str, Any], fate: Fate) -> DriftReport:
        """The API server does not take what we want; whoever put something in the place of it is known."""
        ((_, who),) = drift.attribute(before, frozenset(), instead=self.instead(before, wide=True))
        return self._report(before, self.what(before), fate, who=who)

    def _values(self, live: Mapping[str, Any], paths: Paths) -> tuple[FieldValue, ...]:
        return values.of_fields(self.entry.key, paths, wanted=self.wanted, live=live)

    def _report(self, before: Mapping[str, Any], what: str, fate: Fate, *, who: Attribution = _NOBODY) -> DriftReport:
        metadata = before.get("metadata") or {}
        # What stays is met again whenever something else happens to the object: then it has the same id.
        state = (metadata.get("resourceVersion"),) if fate.action == "reverted" else (who.time,)
        uid = metadata.get("uid") or (self.entry.baseline.uid if self.entry.baseline is not None else "")
        seed = repr((str(self.entry.key), uid, what, who.fields, who.manager, who.operation, *state))
        return DriftReport(
            id=hashlib.sha256(seed.encode()).hexdigest()[:16],
            bundle=self.entry.bundle,
            object=str(self.entry.key),
            what=what,
            fields=who.fields,
            manager=who.manager,
            operation=who.operation,
            time=who.time,
            observed=self.observed,
            first_seen=self.observed,
            action=fate.action,
            error=fate.error,
            revert_ms=fate.revert_ms,
        )
