"""Pure: which kinds of events people may have themselves told, how grave each is, and who wants which.

| severity | means                                             |
|----------|---------------------------------------------------|
| info     | it goes as it should: nothing to do               |
| warning  | somebody should look, or has to say a word        |
| critical | clusters run what they should not: look now       |

What happens to one cluster at a time is no message, but for a failure: a fleet has thousands. What `KINDS` does not
name is an event of the API and no more. Next: `notices` makes messages of events.
"""

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal, get_args

Severity = Literal["info", "warning", "critical"]
SEVERITIES: tuple[Severity, ...] = get_args(Severity)
"""From the mildest to the gravest."""

KINDS: dict[str, Severity] = {
    "rollout-started": "info",
    "bootstrap": "info",
    "wave-opened": "info",
    "wave-skipped": "info",
    "rollout-completed": "info",
    "replaced": "info",
    "paused": "warning",
    "resumed": "info",
    "promoted": "info",
    "retried": "info",
    "aborted": "warning",
    "emergency": "warning",
    "gate-waits": "info",
    "approved": "info",
    "rejected": "warning",
    "gate-error": "warning",
    "gate-failed": "warning",
    "cluster-failed": "warning",
    "cluster-revert-failed": "critical",
    "rolling-back": "warning",
    "rolled-back": "warning",
    "rollback-failed": "critical",
    "held": "info",
    "released": "info",
    "clash": "warning",
    "finding": "warning",
    "upstream": "warning",
    "publish": "warning",
}
"""An event says otherwise in the `severity` of its data: a gate that waits for a person is a warning, a problem that is
over is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Receiver:
    """Whom to tell (`spec.notify` of fleet.yaml): `credentials` names those of the hub that sign for `url`. `events`
    are kinds, and severities, which stand for graver ones too; `bundles` are names, or patterns such as `shop-*`. Empty
    ones restrict nothing."""

    name: str
    url: str
    credentials: str
    events: tuple[str, ...] = ()
    bundles: tuple[str, ...] = ()

    def wants(self, kind: str, severity: Severity, bundles: tuple[str, ...]) -> bool:
        """Pure: is it to be told of an event about `bundles`? One about none goes to who restricts them not."""
        if self.bundles and not any(fnmatchcase(name, pattern) for name in bundles for pattern in self.bundles):
            return False
        words = {kind, *SEVERITIES[: SEVERITIES.index(severity) + 1]}
        return not self.events or not words.isdisjoint(self.events)
