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
from hub.external.fetch import Access, Source
from hub.journal import EventRow, Journal, PinRow
from hub.model import Bundle, OwnChart, Pin
from hub.render import limits
from hub.repo import addresses, sources
from hub.repo.mounts import Mount
from proto.errors import FlotillaError, Permanent, Transient
from proto.ids import BundleName, Oid

log = logging.getLogger("flotilla.hub")

LOOK_EVERY_S = 5.0
RETRY_S = 30.0
MOST_RETRY_S = 1800.0
PATIENCE_S = 30.0
"""How long a commit waits for a source; after that its other bundles go on, and the fetch does, without it."""
FETCHES = 4
"""At once."""
ALL = "*"
"""Instead of a bundle's name: every one."""
_GOES_ON = "it goes on being tried; what runs keeps running"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A bundle with a source from outside; `folder` is the tree id of its own files, `allowed` as in `fetch.Access`."""

    bundle: BundleName
    folder: Oid
    source: Source
    tenant: str = ""
    allowed: tuple[str, ...] | None = None
    interval_s: float = 0.0

    @property
    def text(self) -> str:
        """The source as the journal has it."""
        return json.dumps({"kind": type(self.source).__name__, **asdict(self.source)}, sort_keys=True)

    @property
    def whole(self) -> bool:
        """Whether what is pinned takes the place of the bundle's whole folder."""
        return isinstance(self.source, OwnChart)


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
        self._fleet: tuple[Path, Oid] | None = None
        self._rows: dict[BundleName, PinRow] | None = None
        self._troubles: dict[BundleName, _Trouble] = {}
        self._looked_s: dict[BundleName, float] = {}
        self._answers: dict[tuple[str, str], Pin] = {}
        """By source and tenant, with what only a change is asked for; a hub that starts again asks for all."""
        self._refresh: set[str] = set()
        self._under_way: frozenset[Wanted] = frozenset()
        """What `look` fetches at the moment."""
        self._busy = anyio.Lock()
        self._limiter = anyio.CapacityLimiter(FETCHES)

    def refresh(self, bundles: Collection[str]) -> None:
        """Resolve these anew the next time (`ALL`: all)."""
        self._refresh.update(bundles)

    async def resolve(
        self,
        wanted: Sequence[Wanted],
        *,
        fleet: tuple[Path, Oid],
        kept: Collection[str] = (),
        lost: bool = False,
    ) -> Resolved:
        """The pins of all `wanted` by a commit in the mirror, `fleet`, resolving what has to be. Pins of other bundles
        go, but for those of `kept`, which cannot be read at the moment; `lost` keeps all. Raises what the journal
        raises."""
        async with self._busy:
            self._wanted, self._fleet = tuple(wanted), fleet
            names = {one.bundle for one in wanted}
            rows = await self._stored()
            gone = [name for name in rows if name not in names and name not in kept and not lost]
            self._troubles = {name: trouble for name, trouble in self._troubles.items() if name in names}
            asked = {(one.text, one.tenant) for one in wanted}
            self._answers = {source: pin for source, pin in self._answers.items() if source in asked}
            due = self._due()
            found = await self._ask_all(due, patience_s=PATIENCE_S)
            await self._journal_all(found, gone=gone)
            for one in due:
                if one not in found:
                    cause = f"was not fetched within {PATIENCE_S:g} s"
                    self._failed(one, Transient(f"source {addresses.of(one.source)}", cause, _GOES_ON), None)
            # Here and not in `look`: nobody renders from an older pin now. What is being fetched has no row yet.
            if not self._under_way:
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
            except Exception:
                log.exception("sources are not looked at, for a reason we did not expect")

    async def look(self) -> bool:
        """Resolve what is due without a new commit; whether that changed anything that `resolve` says."""
        if not (due := self._due()):
            return False
        self._under_way = frozenset(due)
        try:
            found = await self._ask_all(due, patience_s=None)  # for as long as it takes: nobody waits
            async with self._busy:
                before = self._told()
                await self._journal_all({one: pin for one, pin in found.items() if one in self._wanted})
                return self._told() != before
        finally:
            self._under_way = frozenset()

    async def mount(self, bundle: BundleName, pin: Pin) -> Mount:
        """Where the tree of a bundle's pin is; fetched again by its digest when the store lost it.

        Raises Transient, or Permanent when it is not to be had any more."""
        return await self._mount(next(one for one in self._wanted if one.bundle == bundle), pin)

    async def as_of(self, wanted: Wanted, made_s: float) -> tuple[Pin, Mount] | None:
        """What a bundle was pinned to when a rollout of it was made (`made_s`, Unix seconds), and where that is; None
        when it was pinned anew since. Raises as `mount`."""
        row = (await self._stored()).get(wanted.bundle)
        if row is None or (row.folder, row.source) != (wanted.folder, wanted.text) or row.time_s > made_s:
            return None
        return row.pin, await self._mount(wanted, row.pin)

    async def _mount(self, wanted: Wanted, pin: Pin) -> Mount:
        if not await anyio.to_thread.run_sync(store.has, self._folder, pin.tree):
            await worker.run(
                _restore,
                *(wanted.source, pin, self._folder, self._access(wanted), self._fleet),
                what=f"source of {wanted.bundle}",
                limiter=self._limiter,
            )
        return store.mount(self._folder, pin.tree, whole=wanted.whole)

    async def _stored(self) -> dict[BundleName, PinRow]:
        if self._rows is None:
            self._rows = await anyio.to_thread.run_sync(self._journal.pins)
        return self._rows

    def _pinned(self, one: Wanted) -> PinRow | None:
        row = (self._rows or {}).get(one.bundle)
        return row if row is not None and (row.folder, row.source) == (one.folder, one.text) else None

    def _due(self) -> list[Wanted]:
        """What is to be resolved now, but for what `look` is at; what was asked for is asked for no more."""
        busy = [one for one in self._wanted if one in self._under_way]
        free = [one for one in self._wanted if one not in self._under_way]
        refresh, self._refresh = self._refresh, {one.bundle for one in busy if self._refresh & {one.bundle, ALL}}
        return [one for one in free if refresh & {one.bundle, ALL} or self._is_due(one)]

    def _is_due(self, one: Wanted) -> bool:
        """The clock may have been set back: nobody looked later than now, or waits for more than the longest wait."""
        now = self._clock()
        trouble = self._troubles.get(one.bundle)
        if trouble is not None and trouble.wanted == one:
            return not 0 < trouble.next_s - now <= 2 * MOST_RETRY_S
        row = self._pinned(one)
        if row is None:
            return True
        return bool(one.interval_s) and not 0 <= now - self._looked_s.get(one.bundle, row.time_s) < one.interval_s

    async def _ask_all(self, due: Sequence[Wanted], *, patience_s: float | None) -> dict[Wanted, Pin | FlotillaError]:
        """What these are now, or why nobody knows, each source asked for once; without what takes longer."""
        asked: dict[tuple[str, str], list[Wanted]] = {}
        for one in due:
            asked.setdefault((one.text, one.tenant), []).append(one)
        found: dict[Wanted, Pin | FlotillaError] = {}

        async def ask(group: list[Wanted]) -> None:
            pin = await self._ask(group[0])
            found.update((one, pin) for one in group)

        with anyio.move_on_after(patience_s):
            async with anyio.create_task_group() as tasks:
                for group in asked.values():
                    tasks.start_soon(ask, group, name=f"source of {group[0].bundle}")
        return found

    async def _journal_all(
        self, found: Mapping[Wanted, Pin | FlotillaError], *, gone: Collection[BundleName] = ()
    ) -> None:
        """Journal what sources are now."""
        now, before = self._clock(), await self._stored()
        rows: list[PinRow] = []
        events: list[EventRow] = []
        for one, pin in found.items():
            row = before.get(one.bundle)
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

    async def _ask(self, one: Wanted) -> Pin | FlotillaError:
        """What the source is now, or why nobody knows."""
        row = (await self._stored()).get(one.bundle)
        known = row.pin if row is not None and row.source == one.text else None
        last = self._answers.get((one.text, one.tenant))
        try:
            pin = await worker.run(
                _fetch,
                *(one.source, self._folder, self._access(one), last if last == known else known, self._fleet),
                what=f"source of {one.bundle}",
                limiter=self._limiter,
            )
        except FlotillaError as error:
            return error
        self._answers[one.text, one.tenant] = pin
        return pin

    def _access(self, one: Wanted) -> Access:
        return Access(secrets=self._secrets, tenant=one.tenant, allowed=one.allowed)

    def _failed(self, one: Wanted, error: FlotillaError, now: float | None) -> None:
        """`now` None: it is tried again at once."""
        before = self._troubles.get(one.bundle)
        attempts = before.attempts + 1 if before is not None and before.wanted == one else 1
        wait_s = min(RETRY_S * 2 ** min(attempts - 1, 10), MOST_RETRY_S) * random.uniform(0.8, 1.2)
        next_s = 0.0 if now is None else now + wait_s
        self._troubles[one.bundle] = _Trouble(wanted=one, error=error, attempts=attempts, next_s=next_s)

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


def _fetch(source: Source, folder: Path, access: Access, known: Pin | None, fleet: tuple[Path, Oid] | None) -> Pin:
    """In a worker process."""
    with limits.bounded():
        return fetch.fetch(source, folder, access=access, known=known, fleet=_tree(fleet))


def _tree(fleet: tuple[Path, Oid] | None) -> sources.Tree | None:
    return sources.CommitTree(*fleet) if fleet is not None else None


def _restore(source: Source, pin: Pin, folder: Path, access: Access, fleet: tuple[Path, Oid] | None) -> None:
    """In a worker process."""
    with limits.bounded():
        fetch.restore(source, pin, folder, access=access, fleet=_tree(fleet))


def wanted(bundle: Bundle, folder: Oid, *, lacks_charts: bool) -> Wanted | None:
    """Pure: what is to be pinned for a bundle whose own files have the tree id `folder`; `lacks_charts` when a chart of
    theirs does."""
    source: Source | None = bundle.external
    if source is None and lacks_charts:
        source = OwnChart(folder=bundle.folder, files=folder, path=bundle.source, credentials=bundle.chart_credentials)
    if source is None:
        return None
    return Wanted(
        bundle=bundle.name,
        folder=folder,
        source=source,
        tenant=bundle.tenant.name if bundle.tenant else "",
        allowed=bundle.tenant.sources if bundle.tenant else None,
        interval_s=bundle.interval_s,
    )
