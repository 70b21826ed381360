"""What the journal's tables hold, as values; a `Decision` is everything that one turn of the loop decided."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from hub.model import Pin
from hub.state import Keep
from proto.ids import BundleName, ClusterName, Oid, RolloutId
from proto.slices import SliceManifest


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceRow:
    """Where one cluster's slice is. `time_s` is the committer time of `commit`."""

    cluster: ClusterName
    seq: int
    commit: Oid
    time_s: int
    manifest: SliceManifest


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveRow:
    """One slice commit: `causes` are (bundle, subtree, rollout, wave) of what it changed."""

    cluster: ClusterName
    seq: int
    old: Oid | None
    new: Oid
    time_s: int
    manifest: SliceManifest
    causes: tuple[tuple[str, str, str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutRow:
    """What a turn adds to the record of a rollout (bytes of `record`): its step number `n`, from 1 on; `begins` with
    the first; `whole` when all is written anew. `alive` while `decide` may still change it. A
    `bootstrap` is none of the rollouts that brought a revision."""

    number: int
    id: RolloutId
    phase: str
    alive: bool
    n: int
    step: bytes
    begins: bytes = b""
    whole: bytes = b""
    bootstrap: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRollout:
    """The record of a rollout: what it began as, all of it (b"" if it was not written anew), and the steps since, of
    which the last is number `n`."""

    number: int
    id: RolloutId
    phase: str
    alive: bool
    begins: bytes
    whole: bytes
    steps: tuple[bytes, ...]
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RanRow:
    """What one move brought of one bundle, from `since_s` until `until_s` (Unix seconds; 0: still); `subtree` "" took
    it away. `back`: on the way back of its rollout; `work_of` is then the earlier one that had brought the same there,
    "" when nobody knows."""

    cluster: ClusterName
    seq: int
    since_s: int
    until_s: int
    bundle: BundleName
    subtree: Oid
    rollout: RolloutId
    wave: str
    back: bool
    work_of: RolloutId


@dataclass(frozen=True, slots=True, kw_only=True)
class RevisionRow:
    """One of the rollouts of a bundle: what it brought, and how it stands."""

    number: int
    rollout: RolloutId
    phase: str
    revision: Oid
    made_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    """A person's word that was carried out. `actor` is who they say they are, `role` whose token they had ("" for the
    hub itself, and for who sits at its data folder); what it was about is that of its event where nothing is named."""

    actor: str
    role: str
    verb: str
    reason: str
    clusters: tuple[str, ...] = ()
    bundles: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRow:
    """A word as it is kept for ever, with the text of its event."""

    id: int
    time_s: float
    word: Word
    rollout: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OriginRow:
    """Whose word a rollout was: who wrote its commit and what they said of it, and what people said to the rollout."""

    revision: Oid
    author: str
    subject: str
    words: tuple[AuditRow, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EventRow:
    """Something that happened. `dedup`, when not "", keeps an event told twice from being stored twice; `word`, when a
    person did it, is kept longer than the event."""

    time_s: float
    kind: str
    text: str
    cluster: str = ""
    bundle: str = ""
    rollout: str = ""
    data: Mapping[str, object] = field(default_factory=dict)
    dedup: str = ""
    id: int = 0
    word: Word | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageRow:
    """A message on its way to one receiver (`notices`): `gravity` grows with its severity, `sequence` with each message
    that is stored; `lost` is how many before it never arrived. `dedups` are those of the events it tells of."""

    receiver: str
    id: str
    gravity: int
    time_s: float
    body: bytes
    dedups: tuple[str, ...] = ()
    sequence: int = 0
    lost: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """What one receiver has not got: how many wait, the oldest since `since_s` (0: none), and how many are lost."""

    pending: int = 0
    since_s: float = 0.0
    lost: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldRow:
    """A bundle on hold; `refused` are the subtrees per cluster that must not be tried (none: it is held until a person
    releases it, whatever is committed), `keep` is where a person keeps it meanwhile. `rollout` is the one that failed,
    or whose work it is kept at, or ""."""

    bundle: BundleName
    rollout: RolloutId
    reason: str
    time_s: float
    refused: Mapping[ClusterName, Oid]
    keep: Keep | None = None


class DirectiveKind(StrEnum):
    """What a person may ask beside Git, of an agent or of all rollouts (`directives`)."""

    SUSPEND = "suspend"
    PAUSE = "pause"
    SYNC = "sync"
    CORDON = "cordon"


DirectiveKey = tuple[DirectiveKind, ClusterName, str]
"""Kind, cluster, bundle."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectiveRow:
    """One directive; `directives` says what `bundle` and `value` are for each kind. `why` is who asked, and for what
    reason."""

    kind: DirectiveKind
    cluster: ClusterName
    bundle: str
    why: str
    time_s: float
    value: float

    @property
    def key(self) -> DirectiveKey:
        return self.kind, self.cluster, self.bundle


@dataclass(frozen=True, slots=True, kw_only=True)
class PinRow:
    """What a bundle's source from outside was resolved to, while its own files were the tree `folder`; `source` is the
    source as text."""

    bundle: BundleName
    folder: Oid
    source: str
    pin: Pin
    time_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinRecord:
    """What the hub keeps of a join token; `used_by` is the public key that used it."""

    cluster: str
    mac_key: bytes
    expires_at: float
    used_at: float | None = None
    used_by: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Everything that one turn of the loop decided; stored whole or not at all."""

    rollouts: Sequence[RolloutRow] = ()
    moves: Sequence[MoveRow] = ()
    good: Sequence[tuple[ClusterName, BundleName, Oid]] = ()
    completed: Sequence[tuple[BundleName, ClusterName, Oid]] = ()
    holds: Sequence[HoldRow] = ()
    released: Sequence[BundleName] = ()
    events: Sequence[EventRow] = ()
    messages: Sequence[MessageRow] = ()
    """Of `events`: those that receivers want to be told of."""
    meta: Mapping[str, str] = field(default_factory=dict)
    directives: Mapping[DirectiveKey, DirectiveRow | None] = field(default_factory=dict)
    """What changed; None is taken back."""

    def __bool__(self) -> bool:
        rows = (self.rollouts, self.moves, self.good, self.completed, self.holds, self.released, self.events, self.meta)
        return any((*rows, self.directives))
