"""Suspend, sync and pause: what people ask of the agent beside Git, from the hub and by annotations in the cluster.

    asked by                                                      means
    flotilla.dev/suspend: "true", or a reason                     nothing of the bundle is written
    kustomize.toolkit.fluxcd.io/reconcile: disabled               the same
    flotilla.dev/sync: anything that it was not before            one full pass over the bundle
    reconcile.fluxcd.io/requestedAt: the same                     the same
    Directives.suspended, .sync, .paused_until of the hub         the same; drift is told and not reverted

The annotations are on the bundle's AppliedBundle. Which sync was acted on is kept in its status (`lastSync`), and for
those of the hub in the state folder with the newest `Directives`: so both hold over restarts, and without the hub. A
sync of a suspended bundle waits until it is resumed. A file that cannot be read is as none, and told. Next: `loop`.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from proto.messages import Directives

FILE: Final = "directives.json"
SUSPEND: Final = "flotilla.dev/suspend"
SYNC: Final = "flotilla.dev/sync"
FLUX_RECONCILE: Final = "kustomize.toolkit.fluxcd.io/reconcile"
FLUX_REQUESTED: Final = "reconcile.fluxcd.io/requestedAt"
EVERY: Final = "*"
MAX_TEXT: Final = 200
"""Characters of an annotation's value that are shown to people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What the annotations of one AppliedBundle ask: `suspended` says why ("": not), `sync` is another value than the
    last time when a full pass is asked for."""

    suspended: str = ""
    sync: str = ""


def asked(annotations: Mapping[str, str]) -> Asked:
    """Pure: what these annotations ask."""
    suspended = ""
    wish = annotations.get(SUSPEND, "").strip()
    if wish and wish.lower() != "false":
        suspended = f"by its annotation {SUSPEND}" + (f": {wish[:MAX_TEXT]}" if wish.lower() != "true" else "")
    elif annotations.get(FLUX_RECONCILE, "").strip().lower() == "disabled":
        suspended = f"by its annotation {FLUX_RECONCILE}: disabled"
    syncs = [value for name in (SYNC, FLUX_REQUESTED) if (value := annotations.get(name, "").strip()[:MAX_TEXT])]
    return Asked(suspended=suspended, sync=" ".join(syncs))


class _Kept(msgspec.Struct, frozen=True, kw_only=True):
    """The file: the newest directives, and by bundle the numbers that its last full pass was asked for by."""

    directives: Directives
    synced: dict[str, tuple[int, int]] = {}


_decode = msgspec.json.Decoder(type=_Kept).decode


class DirectiveStore:
    """The hub's newest directives, kept in `folder`. `problem` says why that is not so, "" when it is."""

    def __init__(self, folder: Path) -> None:
        self.problem = ""
        self._path = folder / FILE
        self._kept = _Kept(directives=Directives())
        try:
            self._kept = _decode(self._path.read_bytes())
        except FileNotFoundError:
            pass
        except (OSError, msgspec.DecodeError) as error:
            self.problem = f"{FILE} cannot be read, what the hub suspended is not known until it says so again: {error}"

    @property
    def current(self) -> Directives:
        return self._kept.directives

    def take(self, directives: Directives) -> None:
        """The hub says what is asked now."""
        known = self._kept.synced if EVERY in directives.sync else self._kept.synced.keys() & directives.sync.keys()
        self._keep(_Kept(directives=directives, synced={name: self._kept.synced[name] for name in known}))

    def due(self, bundles: Iterable[str]) -> frozenset[str]:
        """Of these bundles, those of which a full pass is asked for that was not begun."""
        return frozenset(name for name in bundles if self._asked(name) not in (_NEVER, self._kept.synced.get(name)))

    def begun(self, bundles: Iterable[str]) -> None:
        """Full passes over these bundles have begun."""
        synced = {**self._kept.synced, **{name: self._asked(name) for name in bundles}}
        self._keep(_Kept(directives=self.current, synced=synced))

    def _asked(self, bundle: str) -> tuple[int, int]:
        sync = self.current.sync
        return sync.get(bundle, 0), sync.get(EVERY, 0)

    def _keep(self, kept: _Kept) -> None:
        """In memory, and on disk as far as possible: written whole, so that a crash leaves the old file."""
        if kept == self._kept and not self.problem:
            return
        self._kept = kept
        temporary = self._path.with_suffix(".new")
        try:
            with temporary.open("wb") as file:
                file.write(msgspec.json.encode(kept))
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self._path)
            self.problem = ""
        except OSError as error:
            self.problem = f"{FILE} cannot be written, what the hub asked holds only until a restart: {error}"


_NEVER: Final = (0, 0)
