"""The messages of the stream between an agent and the hub, in the order in which they are first sent.

    agent → hub   Hello
    hub → agent   Challenge        or Denied
    agent → hub   Answer
    hub → agent   Welcome          or Denied
    then, each in its own time:
    agent → hub   Report           at least once a heartbeat
    agent → hub   DriftDetail      the answer to a DriftQuery
    hub → agent   ReportAck, ReportRequest, WakeUp, Token, Directives, DriftQuery

Times are RFC 3339 strings in UTC. A field that is added later has a default, so that both sides can be of
different builds; a change that cannot be read so raises `wire.SCHEMA_VERSION`.
"""

from collections.abc import Iterable
from enum import StrEnum

import msgspec


class Health(StrEnum):
    """kstatus's six words."""

    CURRENT = "Current"
    IN_PROGRESS = "InProgress"
    FAILED = "Failed"
    TERMINATING = "Terminating"
    NOT_FOUND = "NotFound"
    UNKNOWN = "Unknown"


_WORST_FIRST = (
    Health.FAILED,
    Health.TERMINATING,
    Health.NOT_FOUND,
    Health.IN_PROGRESS,
    Health.UNKNOWN,
    Health.CURRENT,
)


def worst(words: Iterable[Health]) -> Health:
    """Pure: the word that describes a group; a group of nothing is Current."""
    found = set(words)
    return next((word for word in _WORST_FIRST if word in found), Health.CURRENT)


class Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """Root of what the stream carries. `type` on the wire is the class's tag."""


class Hello(Message, frozen=True, kw_only=True, tag="hello"):
    """`public_key` and `nonce` are unpadded URL-safe base64 of 32 bytes each; `join_id` names the join token of a
    first contact and is empty afterwards; `boot_id` is new at each start of the agent."""

    cluster: str
    public_key: str
    nonce: str
    boot_id: str
    agent_version: str
    join_id: str = ""
    understands: tuple[str, ...] = ()


class Challenge(Message, frozen=True, kw_only=True, tag="challenge"):
    """The hub proves itself first: `signature` is over `identity.hub_transcript`."""

    hub_public_key: str
    nonce: str
    signature: str


class Answer(Message, frozen=True, kw_only=True, tag="answer"):
    """`signature` is over `identity.agent_transcript`; `join_mac` proves the join token of a first contact."""

    signature: str
    join_mac: str = ""


class Welcome(Message, frozen=True, kw_only=True, tag="welcome"):
    """`token` opens Git for `token_ttl_s` seconds from now; `seq` and `commit` are where this cluster's slice is (0 and
    "" before its first)."""

    token: str
    token_ttl_s: float
    heartbeat_s: float
    seq: int
    commit: str


class Denied(Message, frozen=True, kw_only=True, tag="denied"):
    """Why the hub ends the session; with `retry_after_s` the agent may come back, without it a person has to act."""

    cause: str
    remedy: str = ""
    retry_after_s: float | None = None


class Token(Message, frozen=True, kw_only=True, tag="token"):
    """A fresh token, sent before the last one ends."""

    token: str
    token_ttl_s: float


class GitObject(msgspec.Struct, frozen=True, kw_only=True):
    """One Git object: `kind` is blob, tree or commit; the receiver computes the id from the data, never trusts one."""

    kind: str
    data: bytes


class WakeUp(Message, frozen=True, kw_only=True, tag="wakeup"):
    """The slice moved. `objects` are all that `commit` has and `parent` has not, or empty when they are too large:
    then the agent fetches."""

    seq: int
    commit: str
    parent: str = ""
    objects: tuple[GitObject, ...] = ()


class ObjectProblem(msgspec.Struct, frozen=True, kw_only=True):
    """An object that is not Current or could not be applied. `object` is `Kind/namespace/name`."""

    object: str
    health: Health
    reason: str
    message: str = ""


class BundleReport(msgspec.Struct, frozen=True, kw_only=True):
    """What one bundle is in the cluster now.

    `subtree` is the Git tree that the agent last took up for it ("" for absent: everything of it is gone);
    `converged` says that every object of that subtree was applied and hooks and prune have finished;
    `health` is the worst of its objects, at the generations that we applied. `counts` maps health words to numbers.
    `suspended` says who keeps the agent from writing this bundle, and why; "" when nobody does.
    """

    subtree: str
    health: Health
    converged: bool
    counts: dict[str, int] = {}
    problems: tuple[ObjectProblem, ...] = ()
    since: str = ""
    suspended: str = ""


class DriftReport(msgspec.Struct, frozen=True, kw_only=True):
    """One drift. `id` is unique per cluster, so that a report told twice counts once.

    `what`: changed, deleted, relabelled or added. `fields` are paths like `.spec.replicas`, none when
    they cannot be known.
    `manager`, `operation` and `time` are what the server kept of who did it; `manager` is "unknown (removal)" when the
    change left no trace. `action`: reverted, reported, paused (reverted when the pause ends), ignored or failed (then
    `error` says why). `first_seen` is when the agent met this very drift first, `observed` when last. `contested`: the
    same manager has undone our revert again and again, so reverts come ever slower.
    """

    id: str
    bundle: str
    object: str
    what: str
    fields: tuple[str, ...] = ()
    manager: str = ""
    operation: str = ""
    time: str = ""
    observed: str = ""
    action: str = "reverted"
    error: str = ""
    revert_ms: float = 0.0
    first_seen: str = ""
    contested: bool = False


class Directives(Message, frozen=True, kw_only=True, tag="directives"):
    """What people at the hub ask of an agent beside Git; always all of it: the newest replaces those before.

    `suspended` maps a bundle to who suspended it and why; `paused_until` (RFC 3339, "" for none) is until when drift is
    told and not reverted in this cluster; `sync` maps a bundle (`*`: every bundle) to a number: one that the agent has
    not acted on yet asks for a full pass now.
    """

    suspended: dict[str, str] = {}
    paused_until: str = ""
    paused_why: str = ""
    sync: dict[str, int] = {}


class DriftQuery(Message, frozen=True, kw_only=True, tag="drift-query"):
    """Somebody wants to see the values of one drift, by its report's id; `query` comes back with the answer."""

    query: str
    id: str


class FieldValue(msgspec.Struct, frozen=True, kw_only=True):
    """One field of a drift: JSON texts of what Git wants and what was there, shortened, "" for absent. `redacted`: the
    values are sensitive and were left out."""

    path: str
    wanted: str = ""
    live: str = ""
    redacted: bool = False


class DriftDetail(Message, frozen=True, kw_only=True, tag="drift-detail"):
    """`problem` says in a sentence why there are no values: too long ago, or never looked at."""

    query: str
    id: str
    values: tuple[FieldValue, ...] = ()
    problem: str = ""


class Report(Message, frozen=True, kw_only=True, tag="report"):
    """A delta: bundles and drift since the report numbered `number - 1` of this boot; `full` lists all bundles.

    `seq` and `commit` are the slice that the agent has taken up. An empty delta is the heartbeat. `cut` counts what
    size limits left out, by field.
    """

    number: int
    boot_id: str
    seq: int
    commit: str
    full: bool = False
    bundles: dict[str, BundleReport] = {}
    removed: tuple[str, ...] = ()
    drift: tuple[DriftReport, ...] = ()
    problems: tuple[str, ...] = ()
    kubernetes_version: str = ""
    agent_version: str = ""
    cut: dict[str, int] = {}


class ReportAck(Message, frozen=True, kw_only=True, tag="report-ack"):
    """Everything up to `number` is safe at the hub; the agent may drop it from its spool."""

    number: int


class ReportRequest(Message, frozen=True, kw_only=True, tag="report-request"):
    """The hub has no base for deltas (a gap, a restart): the next report must be full."""

    reason: str = ""


AnyMessage = (
    Hello
    | Challenge
    | Answer
    | Welcome
    | Denied
    | Token
    | WakeUp
    | Report
    | ReportAck
    | ReportRequest
    | Directives
    | DriftQuery
    | DriftDetail
)
