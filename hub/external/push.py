"""Pushes slices to a Git host, and never over anything that somebody else put there.

The host is asked for its refs first (`heads`); `publish` decides by them which refs move (`Update`), and `push` moves
them only from where they were seen: the old place is compared again in the connection that pushes, and by the host
itself. So a checkpoint, which has no parent and therefore is a forced push, cannot cover up a stranger's commit either.
Both block: for a worker process. Next: `publish`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pygit2

from hub.repo import remote
from hub.repo.remote import Remote
from proto.errors import FlotillaError, Permanent, Refused, Transient
from proto.ids import Oid

_NOWHERE = "0" * 40
_READ, _WRITE = "git-upload-pack", "git-receive-pack"


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """`ref` of the host is to go from `old` (None: it is not there) to `new`."""

    ref: str
    old: Oid | None
    new: Oid


def heads(path: Path, there: Remote, prefix: str) -> dict[str, Oid]:
    """The host's refs below `prefix`. `path` is any repository of ours. Raises Transient, Permanent, Refused."""
    remote.set_up()
    remote.ask(there, service=_READ)
    try:
        with remote.trusting(there.ssh):
            anonymous = _open(path).remotes.create_anonymous(there.url)
            found = anonymous.list_heads(callbacks=remote.Callbacks(there), proxy=True)
    except (pygit2.GitError, OSError, KeyError, ValueError) as error:
        raise remote.failed(error, there) from error
    return {str(head.name): Oid(str(head.oid)) for head in found if str(head.name).startswith(prefix)}


def push(path: Path, there: Remote, updates: Sequence[Update]) -> dict[str, str]:
    """Move refs of the host to commits of the repository at `path`; gives what the host refused: ref → its reason.

    Raises Transient when a ref is not at its `old` any more, or the host cannot be written to now; Refused, Permanent.
    """
    remote.set_up()
    remote.ask(there, service=_WRITE)
    callbacks = _Callbacks(there, updates)
    try:
        with remote.trusting(there.ssh):
            anonymous = _open(path).remotes.create_anonymous(there.url)
            anonymous.push([f"+{update.new}:{update.ref}" for update in updates], callbacks=callbacks, proxy=True)
    except FlotillaError:
        raise
    except (pygit2.GitError, OSError, KeyError, ValueError) as error:
        raise _failed(error, there) from error
    return callbacks.refused


def _open(path: Path) -> pygit2.Repository:
    return pygit2.Repository(str(path), pygit2.enums.RepositoryOpenFlag.BARE)


class _Callbacks(remote.Callbacks):
    def __init__(self, there: Remote, updates: Sequence[Update]) -> None:
        super().__init__(there)
        self.refused: dict[str, str] = {}
        self._thing = there.thing
        self._expected = {update.ref: update.old or _NOWHERE for update in updates}

    def push_negotiation(self, updates: list[pygit2.remotes.PushUpdate]) -> None:
        for update in updates:
            if str(update.src) != self._expected[update.dst_refname]:
                raise Transient(
                    self._thing, f"its {update.dst_refname} moved while we looked: somebody else pushed to it"
                )

    def push_update_reference(self, refname: str, message: str | None) -> None:
        if message is not None:
            self.refused[refname] = message[:200] if message.isprintable() else "refused, in words that cannot be shown"


def _failed(error: Exception, there: Remote) -> FlotillaError:
    """As `remote.failed`, in the words of a push."""
    found, text = remote.failed(error, there), str(error)
    if isinstance(found, Refused):
        return Refused(there.thing, f"does not let us push: {text}", there.credentials)
    if isinstance(found, Permanent):
        return found
    return Transient(there.thing, f"cannot be pushed to: {text}", "check that it can be reached and has room")
