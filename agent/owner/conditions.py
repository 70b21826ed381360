"""The status of an AppliedBundle: what `kubectl get appliedbundles` shows of a bundle. Pure.

    the bundle                                        Ready                     Reconciling    Stalled
    all applied as the slice has it, all Current      True  Current             False          False
    … but not all of what Git dropped is gone         False Pruning             True           False
    something has failed for good, or is refused      False Failed              False          True  reason
    on its way                                        False Progressing         True           False
    suspended                                         as its objects are        False          as its objects are
                                                      (Suspended if not Ready)
    left the slice, and its objects are going         False Removing            True           False

A message names the worst object, and how many more there are; never the list, which can be longer than an object may
be. A condition keeps its time of transition while its status stays.  Next: `statuses` writes it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from proto.messages import BundleReport, Health

MAX_MESSAGE: Final = 1000
SHORT_REVISION: Final = 12
_COUNTS: Final[Mapping[str, str]] = {
    Health.CURRENT: "current",
    Health.IN_PROGRESS: "inProgress",
    Health.FAILED: "failed",
    Health.TERMINATING: "terminating",
    Health.NOT_FOUND: "notFound",
    Health.UNKNOWN: "unknown",
}

_TEXT: Final = {"type": "string"}
_COUNT: Final = {"type": "integer", "format": "int32", "minimum": 0}
SCHEMA: Final[Mapping[str, Any]] = {
    "type": "object",
    "description": "What the agent has made of the bundle; never its objects, which the labels find.",
    "properties": {
        "observedGeneration": {"type": "integer", "format": "int64"},
        "conditions": {
            "type": "array",
            "description": "Ready, Reconciling and Stalled, as kstatus reads them.",
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["type"],
            "items": {
                "type": "object",
                "required": ["type", "status", "reason", "message", "lastTransitionTime"],
                "properties": {
                    "type": _TEXT,
                    "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
                    "reason": _TEXT,
                    "message": _TEXT,
                    "lastTransitionTime": {"type": "string", "format": "date-time"},
                    "observedGeneration": {"type": "integer", "format": "int64"},
                },
            },
        },
        "revision": {"type": "string", "description": "The commit of the fleet repo that the bundle is rendered from."},
        "shortRevision": {"type": "string", "description": "The same, as people write it."},
        "subtree": {"type": "string", "description": "The Git tree of what is to run: the whole desired state."},
        "rollout": {"type": "string", "description": "The rollout that brought it."},
        "current": {"type": "string", "description": "How many objects are Current, of how many."},
        "counts": {
            "type": "object",
            "description": "The bundle's objects by health.",
            "properties": dict.fromkeys(("objects", *_COUNTS.values()), _COUNT),
        },
        "suspended": {"type": "string", "description": "Who keeps the agent from writing it, and why; empty: nobody."},
        "lastSync": {"type": "string", "description": "The last sync annotation that was acted on."},
    },
}


def _column(name: str, path: str, description: str, *, priority: int = 0, kind: str = "string") -> dict[str, Any]:
    return {"name": name, "type": kind, "jsonPath": path, "description": description, "priority": priority}


COLUMNS: Final = (
    _column("Ready", '.status.conditions[?(@.type=="Ready")].status', "All applied as Git has it, and Current."),
    _column("Reason", '.status.conditions[?(@.type=="Ready")].reason', "Why it is Ready, or is not."),
    _column("Objects", ".status.current", "How many objects are Current, of how many."),
    _column("Revision", ".status.shortRevision", "The commit of the fleet repo."),
    _column("Age", ".metadata.creationTimestamp", "Since when the bundle is here.", kind="date"),
    _column("Message", '.status.conditions[?(@.type=="Ready")].message', "The worst of it.", priority=1),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """All that the status of one bundle says. `revision` and `rollout` are "" once it left the slice; `sync` is the
    last sync annotation that was acted on."""

    report: BundleReport
    revision: str = ""
    rollout: str = ""
    sync: str = ""


def status(facts: Facts, *, generation: int, before: Mapping[str, Any] | None, now: str) -> dict[str, Any]:
    """Pure: the whole status. `before` is the one that is there; `now` is RFC 3339 in UTC."""
    report, now = facts.report, f"{now[:19]}Z"
    objects = sum(report.counts.values())
    known = {one.get("type"): one for one in (before or {}).get("conditions") or ()}
    conditions = []
    for kind, (word, reason, message) in _conditions(report).items():
        old = known.get(kind) or {}
        since = old.get("lastTransitionTime") if old.get("status") == word else None
        conditions.append(
            {
                "type": kind,
                "status": word,
                "reason": reason,
                "message": message if len(message) <= MAX_MESSAGE else message[: MAX_MESSAGE - 1] + "…",
                "lastTransitionTime": since or now,
                "observedGeneration": generation,
            }
        )
    return {
        "observedGeneration": generation,
        "conditions": conditions,
        "revision": facts.revision,
        "shortRevision": facts.revision[:SHORT_REVISION],
        "subtree": report.subtree,
        "rollout": facts.rollout,
        "current": f"{report.counts.get(Health.CURRENT, 0)}/{objects}",
        "counts": {"objects": objects, **{name: report.counts.get(word, 0) for word, name in _COUNTS.items()}},
        "suspended": report.suspended,
        "lastSync": facts.sync,
    }


def _conditions(report: BundleReport) -> dict[str, tuple[str, str, str]]:
    """Pure: (status, reason, message) of each condition."""
    failed = [problem for problem in report.problems if problem.health is Health.FAILED]
    worst = next(iter(failed or report.problems), None)
    more = len(failed or report.problems) - 1
    text = ""
    if worst is not None:
        said = (
            worst.message if worst.message.startswith(worst.object) else f"{worst.object}: {worst.message}".rstrip(": ")
        )
        text = said + (f" (and {more} more)" if more > 0 else "")
    ready = report.converged and report.health is Health.CURRENT
    stalled = bool(failed) or report.health is Health.FAILED
    if ready and report.subtree:
        verdict = ("True", "Current", f"all {sum(report.counts.values())} objects are Current")
    elif stalled:
        verdict = ("False", "Failed", text or "has failed")
    elif report.suspended:
        verdict = ("False", "Suspended", f"nothing is written, suspended {report.suspended}")
    elif not report.subtree:
        verdict = ("False", "Removing", text or "left the slice, its objects are going")
    elif report.health is Health.CURRENT:
        verdict = ("False", "Pruning", text or "objects that Git does not have any more are going")
    else:
        verdict = ("False", "Progressing", text or "is being applied")
    working = not ready and not stalled and not report.suspended
    return {
        "Ready": verdict,
        "Reconciling": ("True", *verdict[1:]) if working else ("False", *_at_rest(report, ready, stalled)),
        "Stalled": ("True", worst.reason if worst else "Failed", text) if stalled else ("False", "NotStalled", ""),
    }


def _at_rest(report: BundleReport, ready: bool, stalled: bool) -> tuple[str, str]:
    if report.suspended:
        return "Suspended", f"nothing is written, suspended {report.suspended}"
    return ("Stalled", "only a change can help") if stalled and not ready else ("Done", "")
