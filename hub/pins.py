"""What each source from outside of the fleet repo is, until somebody wants it otherwise: resolved once, then pinned.

| the source of a bundle                                     | is resolved                                           |
|------------------------------------------------------------|-------------------------------------------------------|
| is pinned, and the bundle's folder and `source` are those  | never again: waves, restarts, other commits and an    |
| of the pin                                                 | unreachable registry change nothing                   |
| is new, or the bundle's own files changed                  | at once; a commit or a digest without asking anybody, |
|                                                            | once it was fetched                                   |
| has an `interval`                                          | when that is over                                     |
| was asked for (`flotilla sync --refresh`)                  | at once                                               |
| could not be resolved                                      | after `RETRY_S`, twice that, … up to `MOST_RETRY_S`   |

Equal sources are fetched once. A pin is journaled before anything is rendered from it, so equal journals render equal
bytes. What cannot be resolved keeps its pin if its bundle's files are still those of the pin; else that bundle fails,
and keeps what it runs. Next: `desired` renders from the pins.
"""

import json
import logging
import random
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import anyio
import anyio.to_thread

from hub import worker
from hub.external import fetch, store
from hub.journal import EventRow, Journal, PinRow
from hub.model import Bundle, External, Pin
from hub.repo import addresses
from hub.repo.mounts import Mount
from proto.errors import FlotillaError, Permanent
from proto.ids import BundleName, Oid

log = logging.getLogger("flotilla.hub")

LOOK_EVERY_S = 5.0
RETRY_S = 30.0
MOST_RETRY_S = 1800.0
ALL = "*"
"""Instead of a bundle's name: every one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A bundle with a source from outside; `folder` is the tree id of its own files."""

    bundle: BundleName
    folder: Oid
    source: External
    tenant: str = ""
    interval_s: float = 0.0

    @property
    def text(self) -> str:
        """The source as the journal has it."""
        return json.dumps({"kind": type(self.source).__name__, **asdict(self.source)}, sort_keys=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """`pins` of those that can be rendered; `failed` why others cannot; `late` what kept a pinned one from being
    looked at again."""

    pins: Mapping[BundleName, Pin]
    failed: Mapping[BundleName, FlotillaError]
    late: Mapping[BundleName, FlotillaError]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trouble:
    wanted: Wanted
    error: FlotillaError
    attempts: int
    next_s: float


class Pins:
    """Of one hub."""

    def __init__(
        self,
        journal: Journal,
        folder: Path,
        *,
        secrets: Path | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`folder` is the store of trees, `secrets` the file of credentials."""
        self._journal, self._folder, self._secrets, self._clock = journal, folder, secrets, clock
        self._wanted: tuple[Wanted, ...] = ()
        self._rows: dict[BundleName, PinRow] | None = None
        self._troubles: dict[BundleName, _Trouble] = {}
        self._looked_s: dict[BundleName, float] = {}
        self._refresh: set[str] = set()
        self._busy = anyio.Lock()

    def refresh(self, bundles: Collection[str]) -> None:
        """Resolve these anew the next time (`ALL`: all)."""
        self._refresh.update(bundles)

    async def resolve(self, wanted: Sequence[Wanted], *, kept: Collection[str] = (), lost: bool = False) -> Resolved:
        """The pins of all `wanted`, resolving what has to be. Pins of other bundles go, but for those of `kept`, which
        cannot be read at the moment; `lost` keeps all. Raises what the journal raises."""
        async with self._busy:
            self._wanted = tuple(wanted)
            names = {one.bundle for one in wanted}
            rows = await self._stored()
            gone = [name for name in rows if name not in names and name not in kept and not lost]
            self._troubles = {name: trouble for name, trouble in self._troubles.items() if name in names}
            await self._renew([one for one in wanted if self._due(one)], gone=gone)
            # Here and not in `look`: nobody renders from an older pin at the moment.
            used = {row.pin.tree for row in (await self._stored()).values()}
            await anyio.to_thread.run_sync(store.prune, self._folder, used)
            return self._resolved()

    async def run(self, changed: Callable[[], None]) -> None:
        """Look for ever, and say so when something changed."""
        while True:
            await anyio.sleep(LOOK_EVERY_S)
            try:
                if await self.look():
                    changed()
            except FlotillaError as error:  # of the journal
                log.error("sources are not looked at: %s", error)

    async def look(self) -> bool:
        """Resolve what is due without a new commit; whether that changed anything that `resolve` says."""
        async with self._busy:
            due = [one for one in self._wanted if self._due(one)]
            if not due:
                return False
            before = self._told()
            await self._renew(due)
            return self._told() != before

    async def mount(self, bundle: BundleName, pin: Pin) -> Mount:
        """Where the tree of a bundle's pin is; fetched again by its digest when the store lost it.

        Raises Transient, or Permanent when it is not to be had any more."""
        wanted = next(one for one in self._wanted if one.bundle == bundle)
        if not await anyio.to_thread.run_sync(store.has, self._folder, pin.tree):
            await worker.run(
                _restore, wanted.source, pin, self._folder, self._secrets, wanted.tenant, what=f"source of {bundle}"
            )
        return store.mount(self._folder, pin.tree)

    async def _stored(self) -> dict[BundleName, PinRow]:
        if self._rows is None:
            self._rows = await anyio.to_thread.run_sync(self._journal.pins)
        return self._rows

    def _pinned(self, one: Wanted) -> PinRow | None:
        row = (self._rows or {}).get(one.bundle)
        return row if row is not None and (row.folder, row.source) == (one.folder, one.text) else None

    def _due(self, one: Wanted) -> bool:
        now = self._clock()
        trouble = self._troubles.get(one.bundle)
        if self._refresh & {one.bundle, ALL}:
            return True
        if trouble is not None and trouble.wanted == one:
            return now >= trouble.next_s
        row = self._pinned(one)
        if row is None:
            return True
        return bool(one.interval_s) and now >= self._looked_s.get(one.bundle, row.time_s) + one.interval_s

    async def _renew(self, due: Sequence[Wanted], *, gone: Collection[BundleName] = ()) -> None:
        """Resolve these anew, once for each source, and journal what they are now."""
        asked: dict[tuple[str, str], list[Wanted]] = {}
        for one in due:
            asked.setdefault((one.text, one.tenant if one.source.credentials else ""), []).append(one)
        found: dict[BundleName, Pin | FlotillaError] = {}

        async def ask(group: list[Wanted]) -> None:
            pin = await self._ask(group[0])
            found.update((one.bundle, pin) for one in group)

        async with anyio.create_task_group() as tasks:
            for group in asked.values():
                tasks.start_soon(ask, group, name=f"source of {group[0].bundle}")
        now, before = self._clock(), await self._stored()
        rows: list[PinRow] = []
        events: list[EventRow] = []
        for one in due:
            pin, row = found[one.bundle], before.get(one.bundle)
            self._looked_s[one.bundle] = now
            if isinstance(pin, FlotillaError):
                self._failed(one, pin, now)
                continue
            self._troubles.pop(one.bundle, None)
            made = PinRow(bundle=one.bundle, folder=one.folder, source=one.text, pin=pin, time_s=now)
            if row is None or (row.folder, row.source, row.pin) != (made.folder, made.source, made.pin):
                rows.append(made)
            if row is None or row.pin != pin:
                text = f"bundle {one.bundle}: its source is {pin.revision} ({pin.digest})"
                was = {"before": row.pin.digest} if row is not None else {}
                events.append(EventRow(time_s=now, kind="source", text=text, bundle=one.bundle, data=was))
        if rows or gone:
            await anyio.to_thread.run_sync(self._journal.remember_pins, rows, gone, events)
            changed = {row.bundle: row for row in rows}
            self._rows = {name: row for name, row in {**before, **changed}.items() if name not in gone}
        self._refresh.clear()

    async def _ask(self, one: Wanted) -> Pin | FlotillaError:
        """What the source is now, or why nobody knows."""
        known = next((row.pin for row in (self._rows or {}).values() if row.source == one.text), None)
        if known is not None and addresses.fixed(one.source):
            return known
        try:
            return await worker.run(
                _fetch, one.source, self._folder, self._secrets, one.tenant, known, what=f"source of {one.bundle}"
            )
        except FlotillaError as error:
            return error

    def _failed(self, one: Wanted, error: FlotillaError, now: float) -> None:
        before = self._troubles.get(one.bundle)
        attempts = before.attempts + 1 if before is not None and before.wanted == one else 1
        wait_s = min(RETRY_S * 2 ** min(attempts - 1, 10), MOST_RETRY_S) * random.uniform(0.8, 1.2)
        self._troubles[one.bundle] = _Trouble(wanted=one, error=error, attempts=attempts, next_s=now + wait_s)

    def _resolved(self) -> Resolved:
        rows = {one.bundle: self._pinned(one) for one in self._wanted}
        troubles = {name: trouble.error for name, trouble in self._troubles.items()}
        return Resolved(
            pins={name: row.pin for name, row in rows.items() if row is not None},
            failed={
                name: troubles.get(name, Permanent(f"source of {name}", "is not resolved"))
                for name, row in rows.items()
                if row is None
            },
            late={name: error for name, error in troubles.items() if rows.get(name) is not None},
        )

    def _told(self) -> object:
        now = self._resolved()
        return now.pins, {**now.failed, **now.late}.keys(), [str(error) for error in now.failed.values()]


def _fetch(source: External, folder: Path, secrets: Path | None, tenant: str, known: Pin | None) -> Pin:
    """In a worker process."""
    return fetch.fetch(source, folder, secrets=secrets, tenant=tenant, known=known)


def _restore(source: External, pin: Pin, folder: Path, secrets: Path | None, tenant: str) -> None:
    """In a worker process."""
    fetch.restore(source, pin, folder, secrets=secrets, tenant=tenant)


def wanted(bundle: Bundle, folder: Oid) -> Wanted | None:
    """Pure: what is to be pinned for a bundle whose own files have the tree id `folder`."""
    if bundle.external is None:
        return None
    return Wanted(
        bundle=bundle.name,
        folder=folder,
        source=bundle.external,
        tenant=bundle.tenant.name if bundle.tenant else "",
        interval_s=bundle.interval_s,
    )
