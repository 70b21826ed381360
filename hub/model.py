"""The hub's values: what a fleet repo says, what is to be rendered, what a rollout is.

Nothing here decides anything. Made by `fleet` (from YAML) and `rollouts`, read by everything after them. `now` and all
other times are Unix seconds of the hub's wall clock. Longer than other modules, because it only names things.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, get_args

from hub.noteworthy import Receiver
from proto.ids import BundleName, ClusterName, Oid, RolloutId
from proto.messages import BundleReport
from proto.slices import BundlePolicy

# --- what the fleet repo says -------------------------------------------------------------------------------------


_NO_NAME = BundleName("")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something wrong in the fleet repo: `where` is `file` or `file:line`; an error keeps `about` from changing."""

    where: str
    message: str
    remedy: str = ""
    severity: Literal["error", "warning"] = "error"
    about: str = ""
    """`bundle shop`, `cluster eu-1`, … or "" for the whole repo."""

    def __str__(self) -> str:
        text = f"{self.where}: {self.severity}: {self.message}"
        return f"{text} ({self.remedy})" if self.remedy else text


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirement:
    """One `matchExpressions` entry of a Kubernetes label selector."""

    key: str
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    values: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Selector:
    """A Kubernetes label selector; an empty one matches everything. `targets.matches` evaluates it."""

    match_labels: Mapping[str, str] = field(default_factory=dict)
    match_expressions: tuple[Requirement, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """When a week allows moves, or denies them: `spans` are (start, end) in minutes of the local week of `zone`, from
    Monday 00:00 on, the end not in them; one that begins later than it ends goes over Sunday. `text` is for people."""

    deny: bool
    spans: tuple[tuple[int, int], ...]
    zone: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Freeze:
    """From `start_s` to `end_s` (Unix seconds) no move starts on the clusters that `select` matches."""

    name: str
    start_s: float
    end_s: float
    reason: str = ""
    select: Selector = Selector()


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """`variables` are JSON scalars (string, number, boolean); `kubernetes` is a version such as "1.36" or "". Moves
    start as its `windows` say, while fewer than `max_changes` rollouts (0: the fleet's word) are in flight on it."""

    name: ClusterName
    labels: Mapping[str, str]
    kubernetes: str = ""
    variables: Mapping[str, Any] = field(default_factory=dict)
    decommission: Literal["", "prune", "detach"] = ""
    windows: tuple[Window, ...] = ()
    max_changes: int = 0
    where: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class HelmOptions:
    """`values_files` are paths relative to the bundle's folder, applied in order, then `values`."""

    values: Mapping[str, Any] = field(default_factory=dict)
    values_files: tuple[str, ...] = ()
    release: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patch:
    """A change to the rendered objects that `target` selects: `patch` itself (a part of an object, a list of JSON 6902
    operations, or YAML text with one of them), or the file at `path`, relative to the bundle's folder."""

    patch: Any = None
    path: str = ""
    target: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, bool] = field(default_factory=dict)
    where: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """Every variant whose `when` matches applies, in order. `kustomize` takes the place of the bundle's."""

    when: Selector
    kustomize: str | None = None
    helm: HelmOptions | None = None
    patches: tuple[Patch, ...] = ()
    variables: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rights:
    """Which objects a tenant's bundles may have: patterns of `Kind.group` and of namespaces; None does not restrict."""

    tenant: str
    allow: tuple[str, ...] | None = None
    deny: tuple[str, ...] = ()
    namespaces: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """Who may do what with the bundles of a folder. `rollouts` None is every policy; `service_account` is a name, in a
    bundle's namespace, or `namespace/name`; `secrets` "" is the fleet's word; `sources` are the addresses below which
    its bundles may fetch, None is every one."""

    name: str
    folder: str
    rights: Rights
    clusters: Selector = Selector()
    rollouts: tuple[str, ...] | None = None
    service_account: str = ""
    secrets: Literal["refuse", "warn", "allow", ""] = ""
    sources: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GitSource:
    """A folder of another Git repository: one of `branch`, `tag` (a name, or a range such as "~1.4") and `commit`."""

    url: str
    branch: str = ""
    tag: str = ""
    commit: str = ""
    path: str = ""
    credentials: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class HelmSource:
    """A chart of a Helm repository (the URL above its `index.yaml`); `version` is one, or a range such as "^1.2"."""

    repository: str
    chart: str
    version: str
    credentials: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class OciSource:
    """An artifact, or a chart, of an OCI registry: `url` is `oci://host/repository`; one of `tag` (a name, or a range
    such as "~1.4") and `digest` (`sha256:…`); `path` is a folder in it."""

    url: str
    tag: str = ""
    digest: str = ""
    path: str = ""
    credentials: str = ""


External = GitSource | HelmSource | OciSource
"""A source outside the fleet repo. `credentials` names what the hub's settings hold; they are never in Git."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnChart:
    """A chart in a bundle's own `folder`, which has the tree id `files`, at `path` in it, that lacks charts which it
    depends on (`external.own`); its Chart.yaml says where those are, and can name no credentials."""

    folder: str
    files: Oid
    path: str = ""
    credentials: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pin:
    """What an external source was resolved to: `revision` for people (a version, a tag, a commit), `digest` what it is
    by content (a commit id, or `sha256:…`), `tree` its files as a Git tree in the hub's store of sources."""

    revision: str
    digest: str
    tree: Oid


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """`folder` is the bundle's folder in the fleet repo; `source` a path inside it ("" is the folder itself); what
    `external` names is in it as `mounts` says, and is looked at again after `interval_s` (0: when the bundle changes).
    `pin_first_render`: what a chart rendered first stays until its inputs change."""

    name: BundleName
    folder: str
    targets: Selector
    source: str = ""
    external: External | None = None
    interval_s: float = 0.0
    namespace: str = ""
    variants: tuple[Variant, ...] = ()
    kustomize: str | None = None
    """A Kustomize folder to build in place of the source, or over it when that is a chart."""
    helm: HelmOptions | None = None
    patches: tuple[Patch, ...] = ()
    variables: Mapping[str, Any] = field(default_factory=dict)
    depends_on: tuple[BundleName, ...] = ()
    rollout: str = ""
    policy: BundlePolicy
    pin_first_render: bool = False
    tenant: Tenant | None = None
    mentions: frozenset[str] = frozenset({"*"})
    """The names of variables that files in the folder mention (`references.mentioned`)."""
    renamed_from: BundleName = _NO_NAME
    where: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Amount:
    """A count or a share: `value` is a number of clusters, or a percentage 0..100 when `percent`."""

    value: int
    percent: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    """So many different people have to agree, of `by` if it names any; a word older than `expires_s` (0: never) no
    longer counts when the gate is still shut."""

    approvers: int = 1
    by: tuple[str, ...] = ()
    expires_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricCheck:
    """A PromQL query of which every sample has to be within `above` and `below` (exclusive), for `for_s` on end. No
    sample is no success. `server` names a Prometheus of the hub's settings."""

    query: str
    server: str = ""
    above: float | None = None
    below: float | None = None
    for_s: float = 0.0
    interval_s: float = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpCheck:
    """A GET of `url` that has to answer with one of `status`, for `for_s` on end."""

    url: str
    status: tuple[int, ...] = (200,)
    for_s: float = 0.0
    interval_s: float = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleDone:
    """Another bundle's rollout has finished, or has finished `wave`."""

    bundle: BundleName
    wave: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """What has to be so before a wave opens, or after it before the next one does. Exactly one of the checks is set.
    Not passed within `timeout_s` (0: never) of what could be asked it has failed."""

    name: str
    when: Literal["before", "after"] = "before"
    timeout_s: float = 0.0
    approval: Approval | None = None
    metric: MetricCheck | None = None
    http: HttpCheck | None = None
    done: BundleDone | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WavePolicy:
    """One wave as the policy says it. Its clusters are those of `clusters` and those that `select` matches (an empty
    list and None: all that are left), of these no more than `share` of what is left, in the order of the label
    `order_by`, then by name. `offline_budget` None takes the rollout's rule, `max_unavailable` None is no limit."""

    name: str
    select: Selector | None = None
    clusters: tuple[str, ...] = ()
    share: Amount | None = None
    order_by: str = ""
    max_concurrent: Amount = Amount(value=100, percent=True)
    soak_s: float = 0.0
    allow_empty: bool = False
    min_proof: Amount = Amount(value=50, percent=True)
    offline_budget: Amount | None = None
    max_unavailable: Amount | None = None
    gates: tuple[Gate, ...] = ()
    windows: tuple[Window, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FailurePolicy:
    """`budget` is of each wave, `total` of the whole rollout (None: no other limit)."""

    budget: Amount = Amount(value=0)
    total: Amount | None = None
    deadline_s: float = 600.0
    action: Literal["rollback", "pause", "continue"] = "rollback"


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutPolicy:
    """`offline_budget` None is the default rule: 0 in the first wave, 10 % after it. `fixes` says whether a newer
    commit may replace a rollout that has failures, and pass `maxConcurrent` on clusters where the bundle is sick.
    `removal_approval`: a removal from more than so many of the fleet's clusters needs a person's word."""

    name: str
    waves: tuple[WavePolicy, ...] = ()
    failure: FailurePolicy = FailurePolicy()
    offline_after_s: float = 300.0
    offline_budget: Amount | None = None
    supersede: Literal["queue", "replace"] = "queue"
    fixes: Literal["wait", "jump"] = "wait"
    windows: tuple[Window, ...] = ()
    removal_approval: Amount = Amount(value=10, percent=True)
    where: str = ""


DEFAULT_POLICY = RolloutPolicy(name="default")
"""One wave, `rest`, with everything at once: what a bundle without `rollout:` gets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checks:
    """What is said of rendered objects: of Secrets with plain data, and of what does not fit its kind's schema."""

    secrets: Literal["refuse", "warn", "allow"] = "warn"
    validation: Literal["off", "warn", "error"] = "warn"


@dataclass(frozen=True, slots=True, kw_only=True)
class Publish:
    """A Git repository that mirrors the slices; `${cluster}` in `url` stands for a cluster's name, where each has a
    repository of its own. `credentials` names those of the hub that may push, "" for none."""

    url: str
    credentials: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """A whole fleet repo at one revision. What could not be read is in `findings` and missing from the maps, except
    that `broken` names every bundle and cluster that exists but is not valid: those keep what they run."""

    clusters: Mapping[ClusterName, Cluster] = field(default_factory=dict)
    bundles: Mapping[BundleName, Bundle] = field(default_factory=dict)
    policies: Mapping[str, RolloutPolicy] = field(default_factory=dict)
    variables: Mapping[str, Any] = field(default_factory=dict)
    checks: Checks = Checks()
    tenants: tuple[Tenant, ...] = ()
    require_tenant: bool = False
    signers: tuple[str, ...] = ()
    freezes: tuple[Freeze, ...] = ()
    max_changes: int = 0
    """Rollouts in flight on one cluster at a time; 0 is no limit."""
    publish: Publish | None = None
    notify: tuple[Receiver, ...] = ()
    findings: tuple[Finding, ...] = ()
    broken_bundles: frozenset[str] = frozenset()
    broken_clusters: frozenset[str] = frozenset()
    renamed: Mapping[BundleName, BundleName] = field(default_factory=dict)
    """The old name of a bundle → its new one, valid or not: the old one goes only with the new one."""
    lost_bundles: bool = False
    """Something that may hold bundles cannot be read at all: each that is missing keeps what it runs."""
    lost_clusters: bool = False
    """Something in `clusters/` is broken, so that it may be of another name: nobody is known to have left."""


# --- what is to be rendered ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderRequest:
    """One bundle with one distinct set of inputs, for all `clusters` that share it.

    `inputs` holds all that the result depends on beside the bundle's folder, as a JSON value: source path, namespace,
    kustomize path, helm options, variables, Kubernetes version where Helm needs it, and the agent's policy. `key` is a
    hash of it, of the folder's Git tree id and of the renderer's version: equal keys give equal subtrees.
    """

    bundle: Bundle
    clusters: tuple[ClusterName, ...]
    folder_tree: Oid
    inputs: Mapping[str, Any]
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Notes:
    """What a render said beside its files. `warnings`: policy (a field of `Checks`, "" for what is always told) →
    texts, whatever the policy says at the moment. `defines`: kind (`Thing.example.org`) → blob id of its definition;
    `uses`: the custom kinds that it has objects of and no definition."""

    warnings: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    defines: Mapping[str, Oid] = field(default_factory=dict)
    uses: tuple[str, ...] = ()

    def told(self, words: Mapping[str, str]) -> tuple[str, ...]:
        """Pure: the warnings that the policies `words` let through."""
        silent = {what for what, word in words.items() if word in ("allow", "off")}
        return tuple(text for what, texts in self.warnings.items() if what not in silent for text in texts)


# --- rollouts -----------------------------------------------------------------------------------------------------

ABSENT = Oid("")
"""The subtree of a bundle that is not (or no longer) on a cluster."""


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
    """Commits whose rollouts it replaced: what waits for those waits for it."""
    elsewhere: Mapping[BundleName, Mapping[ClusterName, Oid]] = field(default_factory=dict)
    """What its bundles were wanted as on clusters that had nothing to change: a hold needs it (`waves.refused`)."""


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
    """How one gate stands. Evidence from before `since`, or older than `last_at`, does not count; `true_since` is
    since when it was good on end (0: it is not); `text` is the last word for people."""

    since: float
    true_since: float = 0.0
    last_at: float = 0.0
    votes: tuple[Vote, ...] = ()
    waived: bool = False
    failed: bool = False
    text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """How many members of a wave are in which phase; `excused` of the failed count against nothing, `beyond` of those
    in flight count against no limit; before the place `first` in the wave nobody is pending."""

    phases: Mapping[MemberPhase, int]
    excused: int = 0
    beyond: int = 0
    first: int = 0


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
