"""The hub's values: what a fleet repo says.

Nothing here decides anything. Made by `repo` (from YAML), read by everything after it. What is to be rendered of it
stands in `renders`, what a rollout is in `state`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from hub.noteworthy import Receiver
from proto.ids import BundleName, ClusterName, Oid
from proto.slices import BundlePolicy

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
    depends on (`external.own`); its Chart.yaml says where those are, the bundle with which `credentials`."""

    folder: str
    files: Oid
    path: str = ""
    credentials: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pin:
    """What an external source was resolved to: `revision` for people (a version, a tag, a commit), `digest` what it is
    by content (a commit id, or `sha256:…`), `tree` its files as a Git tree in the hub's store of sources. `unless` is
    the header with which its server is asked only for what changed since; it is not kept."""

    revision: str
    digest: str
    tree: Oid
    unless: str = field(default="", compare=False, repr=False)


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
    chart_credentials: str = ""
    """The name of the credentials with which a chart of its own folder gets the charts that it depends on."""
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
    lost_freezes: bool = False
    """What fleet.yaml says is not known: anything may be frozen."""
