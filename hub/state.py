"""The values of a rollout: its state, the events that reach it, the effects it asks for.

Nothing here decides anything. Made and taken by `rollout`, kept by `journal`, shown by `api`. `now` and all other times
are Unix seconds of the hub's wall clock. What a fleet repo says stands in `model`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal, get_args

from hub.model import Cluster, Gate, Tenant, Window
from proto.ids import BundleName, ClusterName, Oid, RolloutId
from proto.messages import BundleReport

ABSENT = Oid("")
"""The subtree of a bundle that is not (or no longer) on a cluster."""


NO_ROLLOUT = RolloutId("")


class Phase(StrEnum):
    """Of a whole rollout. The last five are final."""

    RUNNING = "running"
    PAUSED = "paused"
    ROLLING_BACK = "rolling-back"
    COMPLETED = "completed"
    ROLLED_BACK = "rolled-back"
    ROLLBACK_FAILED = "rollback-failed"
    REPLACED = "replaced"
    ABORTED = "aborted"


FINAL = frozenset({Phase.COMPLETED, Phase.ROLLED_BACK, Phase.ROLLBACK_FAILED, Phase.REPLACED, Phase.ABORTED})

FOLLOWED = frozenset({Phase.COMPLETED, Phase.REPLACED})
"""Those final ones in which who is still in flight is followed until it proves or fails."""


class MemberPhase(StrEnum):
    """Of one cluster in a rollout."""

    __hash__ = str.__hash__
    """Without Enum's own, which runs Python code: a turn looks at ten thousand members many times."""

    PENDING = "pending"
    MOVING = "moving"
    SOAKING = "soaking"
    PROVEN = "proven"
    FAILED = "failed"
    OFFLINE = "offline"
    LEFT = "left"
    REVERTING = "reverting"
    REVERTED = "reverted"
    REVERT_FAILED = "revert-failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wave:
    """A wave as it was resolved when the rollout was made: policy edits do not reach it."""

    name: str
    clusters: tuple[ClusterName, ...]
    max_concurrent: int
    soak_s: float
    min_proof: int
    offline_budget: int
    failure_budget: int
    allow_empty: bool = False
    max_unavailable: int | None = None
    gates: tuple[Gate, ...] = ()
    windows: tuple[Window, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a rollout does on one cluster: for each of its bundles the subtree before and the one after.

    `before` is what the rollback goes to: last good, else the bundle's last completed subtree, else ABSENT.
    """

    before: Mapping[BundleName, Oid]
    after: Mapping[BundleName, Oid]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """The immutable record. Nearly always one bundle; several when they exchange objects in one commit, and then
    they move and prove together. `number` orders rollouts by age."""

    id: RolloutId
    number: int
    bundles: tuple[BundleName, ...]
    revision: Oid
    made_at: float
    targets: Mapping[ClusterName, Target]
    waves: tuple[Wave, ...]
    deadline_s: float
    action: Literal["rollback", "pause", "continue"]
    offline_after_s: float
    depends_on: tuple[BundleName, ...] = ()
    supersede: Literal["queue", "replace"] = "queue"
    failure_total: int | None = None
    fixes: Literal["wait", "jump"] = "wait"
    windows: tuple[Window, ...] = ()
    author: str = ""
    """Of the commit, as far as it is known, and its first line."""
    subject: str = ""
    stands_for: tuple[Oid, ...] = ()
    """Commits whose rollouts waited for one that it replaced: they wait for it."""
    elsewhere: Mapping[BundleName, Mapping[ClusterName, Oid]] = field(default_factory=dict)
    """What its bundles were wanted as on clusters that had nothing to change: a hold needs it (`waves.refused`)."""
    base: RolloutId = NO_ROLLOUT
    """Of a bootstrap: the completed rollout whose work it brings to clusters that joined (`joiners`)."""

    @property
    def commits(self) -> tuple[Oid, ...]:
        """Its own, and those for which it stands."""
        return self.revision, *self.stands_for


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """Where one cluster is in a rollout. `seq` is that of its move (forward or back); `reason` is for people; `wave` is
    the index of its wave."""

    wave: int = 0
    phase: MemberPhase = MemberPhase.PENDING
    seq: int = 0
    moved_at: float = 0.0
    sick_before: bool = False
    """The bundle was not Current here before the move: then only Current counts, Failed does not (rule 4)."""
    soak_from: float = 0.0
    last_current_at: float = 0.0
    resets: int = 0
    suspended: bool = False
    """A bundle of the rollout is suspended here: nothing counts until somebody resumes it (rule 13)."""
    resumed_at: float = 0.0
    skipped: bool = False
    """LEFT by a person's word: a rollout of its own brings the change when this one is over (rule 12)."""
    beyond: bool = False
    """Its move passed the limits, because its bundle was sick or by a person's word (rules 2, 18)."""
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Vote:
    """A person agreed; `at` in Unix seconds."""

    actor: str
    reason: str
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GateState:
    """How one gate stands, which the rollout came to at `since`. Its time runs from `time_from` (0: `since`) on, not
    while it is `erring`: it could not be asked when it was last. Evidence from before `since`, or older than `last_at`,
    does not count; `true_since` is since when it was good on end (0: it is not); `text` is the last word for people."""

    since: float
    time_from: float = 0.0
    erring: bool = False
    true_since: float = 0.0
    last_at: float = 0.0
    votes: tuple[Vote, ...] = ()
    waived: bool = False
    failed: bool = False
    text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """How many members of a wave are in which phase; `excused` of the failed count against nothing, `beyond` of those
    in flight count against no limit; before the place `first` in the wave nobody is pending; `suspended` are those on
    which a bundle is."""

    phases: Mapping[MemberPhase, int]
    excused: int = 0
    beyond: int = 0
    first: int = 0
    suspended: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """All that changes in a rollout. `decide` is the only thing that makes a new one."""

    rollout: Rollout
    phase: Phase = Phase.RUNNING
    wave: int = 0
    """Index of the wave that is open; equals `len(waves)` when all are done."""
    members: Mapping[ClusterName, Member] = field(default_factory=dict)
    wave_opened_at: float = 0.0
    gates: Mapping[str, GateState] = field(default_factory=dict)
    """Of the gates that were asked so far, by `gates.key`."""
    emergency: str = ""
    """Who sent it straight to all, and why (rule 18); "" as a rule."""
    tallies: tuple[Tally, ...] = ()
    """Of each wave: counted once, then kept up to date, so that no event costs the size of the fleet."""
    reason: str = ""
    paused_by: str = ""
    """Who paused it; "" when it paused itself, or is not paused."""
    updated_at: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterView:
    """What the hub knows of one cluster when it decides. `last_seen` is the time of its last report (0: never);
    `next_seq` the seq that a move decided now will get; `bundles` its latest word on each bundle; `suspended` who
    suspended a bundle there, and why."""

    next_seq: int
    last_seen: float = 0.0
    seq: int = 0
    bundles: Mapping[BundleName, BundleReport] = field(default_factory=dict)
    suspended: Mapping[BundleName, str] = field(default_factory=dict)
    cordoned: str = ""
    """Who took the cluster out of all rollouts, and why; "" as a rule."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Roster:
    """What all `ClusterView`s say at a glance, for all rollouts together, so that a tick looks at whom it may concern
    and not at everybody. `seen` are (last_seen, cluster), the longest silent first; who is never silent may be left
    out. `cordoned` names who is, `suspended` where any bundle is."""

    seen: tuple[tuple[float, ClusterName], ...]
    cordoned: tuple[ClusterName, ...] = ()
    suspended: tuple[ClusterName, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Reported:
    """A report of one cluster arrived, and `view` holds it already."""

    cluster: ClusterName


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """Time passed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """A cluster is no longer part of the fleet, or of the bundles' targets."""

    cluster: ClusterName


Verdict = Literal["good", "bad", "error"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What a gate's check found; it was asked at `asked_at`, and an answer to an older question may come later."""

    gate: str
    verdict: Verdict
    text: str
    asked_at: float


Verb = Literal[
    "pause", "resume", "abort", "rollback", "skip", "approve", "reject", "skip-wave", "promote", "retry", "emergency"
]


VERBS: tuple[Verb, ...] = get_args(Verb)


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A person's word, with a reason; `cluster` is whom `skip` leaves out, `gate` what is approved or rejected ("": the
    one that waits)."""

    verb: Verb
    actor: str
    reason: str
    cluster: str = ""
    gate: str = ""


Event = Reported | Tick | Left | Evidence | Command


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """Put `subtrees` (bundle → subtree, ABSENT removes) into the cluster's slice, as its next commit."""

    cluster: ClusterName
    rollout: RolloutId
    wave: str
    subtrees: Mapping[BundleName, Oid]
    back: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class MarkGood:
    """The cluster finished its soak: these subtrees are its last good."""

    cluster: ClusterName
    subtrees: Mapping[BundleName, Oid]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """After a rollback: the bundle stays where it is until its own sources change or a person releases it."""

    bundle: BundleName
    rollout: RolloutId
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep:
    """What a person wants a bundle on hold to be meanwhile; on clusters that `subtrees` does not name it stays as it is
    (empty: everywhere). `revision` is the one whose work the subtrees are. `at_once`: past the policy's waves, gates
    and windows."""

    subtrees: Mapping[ClusterName, Oid] = field(default_factory=dict)
    revision: Oid = ABSENT
    at_once: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """What the last completed revision of a bundle is on clusters that joined since: `subtrees`, or `refused`, why it
    is nothing there. `rollout`, which has that `number`, brought that `revision` ("", 0 and "" when none ever
    completed); it was rendered for `clusters` and with the rights of `tenants` as they were, and says nothing of
    others."""

    rollout: RolloutId = NO_ROLLOUT
    number: int = 0
    revision: Oid = ABSENT
    subtrees: Mapping[ClusterName, Oid] = field(default_factory=dict)
    refused: Mapping[ClusterName, str] = field(default_factory=dict)
    clusters: Mapping[ClusterName, Cluster] = field(default_factory=dict)
    tenants: tuple[Tenant, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """Something a person may want to know; becomes an event of the API and a span event."""

    kind: str
    text: str
    cluster: str = ""
    bundle: str = ""
    rollout: str = ""
    wave: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class WakeAt:
    """Time alone may change the rollout at `at`: give it a tick then."""

    at: float


Effect = Move | MarkGood | Hold | Notice | WakeAt
