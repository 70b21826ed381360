"""The hub's database: hard state in SQLite, `synchronous=FULL` (design, decisions 8 and 9).

Owns the tables and nothing else: no rule of a rollout, no Git. The database is the truth; Git refs, wake-ups and what
people see are copies that can be made again. `commit` is the one transaction of a decision: rollout states, moves and
the clusters' slice pointers (compare-and-swap on the old commit), all or nothing, and only while this process still
holds the epoch that it took when it opened the journal.

All methods block for as long as a disk does; the loop calls `commit` in a thread, the short reads directly. Below
`Journal` is a class for each group of tables that changes for a reason of its own. Next: `loop`.
"""

from hub.journal.journal import NUMBERS, Journal
from hub.journal.rows import (
    AuditRow,
    Decision,
    DirectiveKey,
    DirectiveKind,
    DirectiveRow,
    EventRow,
    HoldRow,
    JoinRecord,
    MessageRow,
    MoveRow,
    OriginRow,
    PinRow,
    RanRow,
    RevisionRow,
    RolloutRow,
    SliceRow,
    StoredRollout,
    Waiting,
    Word,
)

__all__ = [
    "NUMBERS",
    "AuditRow",
    "Decision",
    "DirectiveKey",
    "DirectiveKind",
    "DirectiveRow",
    "EventRow",
    "HoldRow",
    "JoinRecord",
    "Journal",
    "MessageRow",
    "MoveRow",
    "OriginRow",
    "PinRow",
    "RanRow",
    "RevisionRow",
    "RolloutRow",
    "SliceRow",
    "StoredRollout",
    "Waiting",
    "Word",
]
