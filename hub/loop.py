"""The hub's one loop: inputs in, one decision a turn, stored, then published.

A turn takes what arrived (reports, a new desired state, commands, the clock), asks the pure rules (`waves`, `rollouts`)
what to do, composes the slices, and then, in the design's order: (1) objects into the store, (2) one transaction, (3)
refs, wake-ups, notices. Memory changes only after (2); a turn that fails before it changed nothing and is tried again
with the next tick. Steps never call each other; this module alone knows the order, and is longer than others for it.

| what fails                                         | what stops                                                    |
|----------------------------------------------------|---------------------------------------------------------------|
| the disk, the journal                              | deciding, until it works again; who told something is told so |
| one input, in a way nobody expected                | that input alone                                              |
| one rollout's rules, or its slice does not compose | that rollout alone                                            |
| planning                                           | new rollouts; those under way go on                           |
| publishing                                         | nothing: it is done again with the next turn                  |

    sync ──Synced──▶ ┐
    agents ─Reported▶ ├─ turn ──▶ store ──▶ journal ──▶ refs · wake-ups · spans
    people ─Commanded▶┘
"""

import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TypeVar

import anyio
import anyio.to_thread
import msgspec
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from hub import directives, notices, outcome, record
from hub.agents.live import Live
from hub.desired import Desired
from hub.inputs import Direct, FromAgent, FromGate, Happened, Input, PutOnHold, Release, ToRollout
from hub.journal import Decision, DirectiveKey, DirectiveRow, EventRow, HoldRow, Journal, SliceRow
from hub.model import Fleet, RolloutPolicy
from hub.noteworthy import Receiver
from hub.outcome import Clash, Outcome
from hub.rollout import held, keeping, rollouts, waves
from hub.rollout.held import Around
from hub.slices import compose
from hub.slices.gitstore import GitStore
from hub.state import (
    ABSENT,
    FINAL,
    Command,
    Event,
    Hold,
    Left,
    Move,
    Phase,
    Reported,
    State,
    Tick,
    WakeAt,
)
from hub.tracing import Tracing
from proto.errors import FlotillaError, InvalidInput, Permanent, Refused
from proto.ids import BundleName, ClusterName, Oid, RolloutId
from proto.messages import Directives, GitObject, WakeUp

log = logging.getLogger("flotilla.hub")

TICK_S = 1.0
JUMP_S = 30.0
"""Between two turns: the process did not run for so long, or the clock was set. What seems silence then is ours."""
MOST_GATHERED_S = 0.5
"""How long an input waits at most for others to share its turn."""
INPUTS_KEPT = 1000
"""A full queue makes agents wait for their acknowledgement, which slows them down to what the hub can take."""

LOOK_S = 60.0
"""Each rollout is looked at so often, though nothing says that time alone can change it: a belt beside the braces."""
WAITING_S = 5.0
"""How often a bundle that waits for another rollout asks whether it may begin."""

_decode_policies = msgspec.json.Decoder(type=dict[BundleName, RolloutPolicy]).decode
_decode_receivers = msgspec.json.Decoder(type=tuple[Receiver, ...]).decode

T = TypeVar("T")


class Loop:
    """All that the hub knows, and the turns that change it. Read by the API, changed only here."""

    def __init__(
        self,
        *,
        journal: Journal,
        store: GitStore,
        wake: Callable[[ClusterName, WakeUp], None],
        direct: Callable[[ClusterName, Directives], None],
        hears: Callable[[ClusterName], bool] = lambda _: True,
        tracing: Tracing,
        heartbeat_s: float,
        sign: Callable[[bytes], bytes] = bytes,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.journal = journal
        self.store = store
        self.live = Live()
        self.desired: Desired | None = None
        self.slices: dict[ClusterName, SliceRow] = {}
        self.states: dict[RolloutId, State] = {}
        self.holds: dict[BundleName, HoldRow] = {}
        self.problem = ""
        """Why turns fail at the moment, or ""."""
        self.changed = anyio.Event()
        """Set and replaced after each turn that changed something: what a live view waits for."""
        self.turning = anyio.Lock()
        """Held by each turn. Who holds it knows that nothing is between the store and the journal."""
        self.directives: dict[DirectiveKey, DirectiveRow] = {}
        self._wake = wake
        self._direct = direct
        self._hears = hears
        """Is the agent connected? Who is not need not be carried anything."""
        self._tracing = tracing
        self._heartbeat_s = heartbeat_s
        self._sign = sign
        self._clock = clock
        self._turned_at = clock()
        self._settle_until = self._turned_at + 2 * heartbeat_s
        self._plan_at = math.inf
        """When to look for rollouts that may begin, if nothing says so before."""
        self._tails: dict[RolloutId, record.Tail] = {}
        self._stuck: dict[RolloutId, str] = {}
        """Why a rollout takes no step, as it was told last."""
        self._wakes: dict[RolloutId, float] = {}
        """When time alone may change a rollout; one that is missing is looked at in the next turn."""
        self._revisions: dict[RolloutId, Oid] = {}
        self._frozen = ""
        """Why nothing might start in the whole fleet in the last turn."""
        self._vanished = False
        """Did so many clusters fall silent lately that rollouts were paused for it?"""
        self._unpublished: set[ClusterName] = set()
        self._policies = _decode_policies(journal.meta("policies", "{}"))
        """Each bundle's policy as it was last planned: one that is gone from the fleet repo is removed with it."""
        self._send: MemoryObjectSendStream[Input]
        self._receive: MemoryObjectReceiveStream[Input]
        self._send, self._receive = anyio.create_memory_object_stream[Input](INPUTS_KEPT)
        self._git = anyio.CapacityLimiter(1)
        """libgit2 repositories are not for two threads at once."""
        self.receivers = _decode_receivers(journal.meta("receivers", "[]"))
        """Whom the fleet repo wants told."""
        self._load()

    # --- for the rest of the hub ----------------------------------------------------------------------------------

    async def tell(self, what: object) -> None:
        """Hand something to the loop and wait until it is stored. Raises what kept it from being stored."""
        item = Input(what=what)
        await self._send.send(item)
        await item.done.wait()
        if item.error is not None:
            raise item.error

    def note(self, event: EventRow) -> None:
        """Put something on the event list when there is room; never waits."""
        try:
            self._send.send_nowait(Input(what=Happened(event=event)))
        except anyio.WouldBlock:
            log.warning("event list is behind, left out: %s", event.text)

    def close(self) -> None:
        """After `run` has ended: nothing can be told any more."""
        self._send.close()
        self._receive.close()

    async def publish_all(self) -> None:
        """Make every ref what the journal says; the first thing after a start. Raises Permanent when a ref is ahead:
        then the journal was restored from a backup, and moving on would lose what agents have been told already."""
        for cluster in await self._in_git(self.store.clusters):
            if cluster not in self.slices:
                raise Permanent(
                    f"cluster {cluster}",
                    "has slices that the journal does not know: the journal is older than they are",
                    "restore journal.db and slices.git from one moment, or run 'flotilla hub recover'",
                )
        refused = await self._in_git(partial(self.store.set_refs, self._tips(self.slices)))
        for error in refused.values():
            raise error

    def composition(self) -> dict[ClusterName, dict[BundleName, Oid]]:
        """Each cluster's decided composition."""
        return {
            cluster: {BundleName(name): Oid(entry.subtree) for name, entry in row.manifest.bundles.items()}
            for cluster, row in self.slices.items()
        }

    # --- the loop -------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Turn for ever. The longer a turn took, the more the next one gathers: many cost little more than one."""
        took_s = 0.0
        while True:
            batch: list[Input] = []
            with anyio.move_on_after(TICK_S):
                batch.append(await self._receive.receive())
            if batch:
                await anyio.sleep(min(took_s, MOST_GATHERED_S))
            while len(batch) < INPUTS_KEPT:
                try:
                    batch.append(self._receive.receive_nowait())
                except anyio.WouldBlock:
                    break
            began_s = anyio.current_time()
            await self._guarded(batch)
            took_s = anyio.current_time() - began_s

    async def _guarded(self, batch: Sequence[Input]) -> None:
        """A turn that ends whatever happens in it; `done` of each input is set."""
        try:
            async with self.turning:
                self.problem = await self.turn(batch)
        except Exception as caught:
            if len(batch) > 1 and not isinstance(caught, FlotillaError):
                for item in batch:  # one of them is to blame, and must not take the others with it
                    await self._guarded([item])
                return
            error = _ours(caught)
            if str(error) != self.problem:
                log.error("nothing was decided: %s", error, exc_info=None if error is caught else caught)
            self.problem = str(error)
            for item in batch:
                item.error = item.error or error
        finally:
            for item in batch:
                item.done.set()

    async def turn(self, batch: Sequence[Input]) -> str:
        """One turn: everything that `batch` and the clock bring about, stored and published.

        A command that does not fit sets its own `error`; what keeps the whole turn from being stored is raised.
        Returns what kept new rollouts from being planned, or "".
        """
        turn = Outcome(now=self._clock(), states=dict(self.states), desired=self.desired, on_hold=self.holds)
        self._look_at_the_clock(turn.now)
        for item in batch:
            self._take(turn, item)
        self._heed_directives(turn)
        self._heed_the_fleet(turn)
        await self._put_on_hold(turn)
        self._decide(turn)
        turn.plan_at = self._plan_at
        freed = any(rollouts.frees(self.states[id_], state) for id_, state in turn.states.items())
        news = turn.released or turn.kept or turn.desired is not self.desired
        plan = turn.now >= self._plan_at or freed or bool(news)
        if plan and turn.desired is not None:
            self._start(turn, turn.desired)
        turn.receivers = self.receivers
        if turn.desired is not None and turn.desired is not self.desired:
            turn.receivers = notices.receivers(turn.desired.fleet, self.receivers)
        composed = await self._compose(turn)
        decision = outcome.decision(
            turn,
            composed,
            states=self.states,
            slices=self.slices,
            tails=self._tails,
            meta=self._remembered(turn),
        )
        if composed:
            objects = [item for made in composed.values() for item in made.objects]
            await self._in_git(lambda: self.store.write(objects))
        if decision:
            await self._commit(decision)
        self._keep(turn, decision)
        try:
            await self._publish(decision)
        except Exception:  # what is stored is stored, and who told it is told so
            log.exception("not everything is published")
        return turn.problem

    async def _commit(self, decision: Decision) -> None:
        try:
            await anyio.to_thread.run_sync(self.journal.commit, decision, abandon_on_cancel=False)
        except Refused:
            # A disk may store what it said it did not; what the journal says is true.
            self._load()
            raise

    def _load(self) -> None:
        """Take everything from the journal; refs that may be behind it are looked at again."""
        before, self.slices = self.slices, self.journal.slices()
        self._unpublished |= {name for name, row in self.slices.items() if name in before and before[name] != row}
        stored = self.journal.rollouts(alive=True, limit=100_000)
        self.states = {row.id: record.restored(row) for row in stored}
        self._tails = {row.id: record.tail(row) for row in stored}
        self.holds = self.journal.holds()
        self.directives = self.journal.directives()

    def _look_at_the_clock(self, now: float) -> None:
        """While the hub did not run, or when the clock was set, nobody could be heard: agents get time to be."""
        if now < self._turned_at or now - self._turned_at > JUMP_S:
            log.warning("the clock went from %.0f to %.0f: waiting for agents to be heard", self._turned_at, now)
            self._settle_until = now + 2 * self._heartbeat_s
            self._wakes.clear()
            self.live.not_after(now)
        self._turned_at = now

    def _take(self, turn: Outcome, item: Input) -> None:
        """One input: what it changes at once, and which events it means to rollouts."""
        now = turn.now
        match item.what:
            case FromAgent(cluster=cluster, report=report):
                self.live.report(cluster, report, now)
                turn.seen.append(Reported(cluster=cluster))
                turn.events += outcome.drifted(cluster, report, now)
            case Desired() as desired:
                turn.events += outcome.found(self.desired, desired, now)
                turn.desired = desired
            case ToRollout(rollout=rollout, command=Command(verb="retry")) if left := self._left_on_hold(rollout):
                for bundle in left:
                    turn.release(outcome.retried(item.what, bundle), now)
            case ToRollout():
                turn.commands.append((item, item.what))
            case PutOnHold() as hold:
                turn.holds.append((item, hold))
            case FromGate(rollout=rollout, evidence=evidence):
                turn.evidence.append((rollout, evidence))
            case Release() as release:
                turn.release(release, now)
            case Direct(rows=rows, event=event):
                turn.directives.update(rows)
                turn.events.append(event)
            case Happened(event=event):
                turn.events.append(event)
            case _:
                raise TypeError(f"the loop does not know {type(item.what).__name__}")

    def _left_on_hold(self, rollout: RolloutId) -> list[BundleName]:
        """The bundles that a rollout put on hold when it ended."""
        if rollout in self.states:
            return []
        return [bundle for bundle, hold in self.holds.items() if hold.rollout == rollout and hold.keep is None]

    def _directed(self, turn: Outcome) -> dict[DirectiveKey, DirectiveRow]:
        """The directives as they are with this turn."""
        return {key: row for key, row in {**self.directives, **turn.directives}.items() if row is not None}

    def _heed_directives(self, turn: Outcome) -> None:
        """Let those end that mean nothing any more; the others say what is suspended."""
        if turn.desired is not None:
            gone = directives.ended(self._directed(turn), fleet=turn.desired.fleet, slices=self.slices, now=turn.now)
            for key, why in gone.items():
                turn.directives[key] = None
                turn.events.append(EventRow(time_s=turn.now, kind="directive-ended", cluster=key[1], text=why))
        turn.suspended = directives.suspended(self._directed(turn))
        turn.cordoned = directives.cordoned(self._directed(turn))

    def _heed_the_fleet(self, turn: Outcome) -> None:
        """What stops everybody: a freeze, or so many clusters that vanish that a commit, or our own network, may be the
        cause. Rollouts that run then are paused once; a person who lets them go on knows better."""
        if turn.desired is None:
            turn.frozen = "the fleet repo was not read yet"
            return
        seen = (live.last_seen for live in self.live.clusters.values())
        gone = held.vanished(seen, turn.now, heartbeat_s=self._heartbeat_s) if turn.now >= self._settle_until else ""
        if gone and not self._vanished:
            pause = Command(verb="pause", actor="flotilla", reason=gone)
            running = [id_ for id_, state in turn.states.items() if state.phase is Phase.RUNNING]
            turn.commands += [(Input(what=None), ToRollout(rollout=id_, command=pause)) for id_ in running]
        self._vanished = bool(gone)
        turn.frozen = held.frozen(turn.desired.fleet, turn.now) or gone

    async def _put_on_hold(self, turn: Outcome) -> None:
        """What people want to keep somewhere, before anything moves in this turn."""
        for item, asked in turn.holds:
            try:
                missing = await self._in_git(partial(self._missing, frozenset(asked.keep.subtrees.values())))
                if missing:
                    cause = f"what revision {asked.keep.revision:.12} made of it is no longer stored"
                    raise InvalidInput(f"bundle {asked.bundle}", cause, "commit its files as they were then")
                for older in keeping.to_end(asked.bundle, turn.states.values(), abort=asked.abort):
                    self._meet(turn, older, Command(verb="abort", actor=asked.actor, reason=asked.reason))
            except InvalidInput as error:
                item.error = error
                continue
            turn.keep(asked, running=self.composition())
            turn.around = None

    def _missing(self, subtrees: Iterable[Oid]) -> list[Oid]:
        return [oid for oid in subtrees if oid != ABSENT and not self.store.has(oid)]

    def _decide(self, turn: Outcome) -> None:
        """Each living rollout meets each event that concerns it: rollbacks first, then the oldest."""
        order = sorted(turn.states.values(), key=lambda s: (s.phase is not Phase.ROLLING_BACK, s.rollout.number))
        told = {event.cluster: event for event in turn.seen}
        for state in order:
            events: list[Event] = [event for name, event in told.items() if rollouts.concerns(state, name)]
            events += [evidence for rollout, evidence in turn.evidence if rollout == state.rollout.id]
            if turn.directives or turn.frozen != self._frozen or turn.now >= self._wakes.get(state.rollout.id, 0.0):
                events.append(Tick())
            if not events:
                continue
            try:
                self._meet(turn, state.rollout.id, *events)
            except Exception as error:
                self._hold_up(turn, state.rollout.id, error)
        for item, asked in turn.commands:
            try:
                self._meet(turn, asked.rollout, asked.command)
            except InvalidInput as error:
                item.error = error
            except Exception as error:
                self._hold_up(turn, asked.rollout, error)

    def _hold_up(self, turn: Outcome, rollout: RolloutId, error: Exception) -> None:
        """A rollout takes no step in this turn; it is told once why, and tried again in the next."""
        told = _ours(error)
        turn.undo(rollout, self.states.get(rollout), told)
        text = f"rollout {rollout} waits: {told}"
        if self._stuck.get(rollout) != text:
            self._stuck[rollout] = text
            log.warning("%s", text, exc_info=None if told is error else error)
            turn.events.append(EventRow(time_s=turn.now, kind="clash", rollout=rollout, text=text))

    def _meet(self, turn: Outcome, rollout: RolloutId, *events: Event) -> None:
        state = turn.states.get(rollout)
        if state is None or not rollouts.alive(state):
            if any(isinstance(event, Command) for event in events):
                left = self._left_on_hold(rollout)
                remedy = f"retry it, or 'flotilla release {left[0]}'" if left else "see 'flotilla rollouts'"
                raise InvalidInput(f"rollout {rollout}", "is not under way", remedy)
            return
        if turn.views is None or turn.around is None:
            turn.around = Around(
                fleet=turn.desired.fleet if turn.desired else Fleet(),
                now=turn.now,
                states=tuple(turn.states.values()),
                on_hold=self._on_hold(turn),
            )
            turn.views = self.live.views(self._next_seq, turn.suspended, cordoned=turn.cordoned)
        around = turn.around
        turn.states[rollout], effects = rollouts.decide(
            state,
            events,
            turn.views,
            turn.now,
            heartbeat_s=self._heartbeat_s,
            settle_until=self._settle_until,
            frozen=turn.frozen,
            held=partial(around.why, state.rollout),
            busy=around.busy,
            everybody=partial(turn.views.roster, turn.states.values()),
        )
        around.decided(effects)
        turn.told.setdefault(rollout, []).extend(events)
        turn.effects.setdefault(rollout, []).extend(effect for effect in effects if not isinstance(effect, WakeAt))
        ticked = any(isinstance(event, Tick) for event in events)
        since = turn.now + LOOK_S if ticked else turn.wakes.get(rollout, self._wakes.get(rollout, 0.0))
        turn.wakes[rollout] = min([since, *(effect.at for effect in effects if isinstance(effect, WakeAt))])

    def _on_hold(self, turn: Outcome) -> dict[BundleName, Oid]:
        """Each bundle on hold, as of this turn too, with the commit that it was taken back from."""
        return {
            **{bundle: self._revision(hold.rollout) for bundle, hold in self.holds.items()},
            **{hold.bundle: turn.states[hold.rollout].rollout.revision for hold in turn.all_of(Hold)},
        }

    def _revision(self, rollout: RolloutId) -> Oid:
        """The commit that a rollout brought, which is over as a rule."""
        if rollout not in self._revisions:
            row = self.journal.rollout(rollout)
            self._revisions[rollout] = record.restored(row).rollout.revision if row else Oid("")
        return self._revisions[rollout]

    def _next_seq(self, cluster: ClusterName) -> int:
        row = self.slices.get(cluster)
        return row.seq + 1 if row else 1

    def _start(self, turn: Outcome, desired: Desired) -> None:
        """Make the rollouts that the desired state asks for and that may begin now; each takes its first step."""
        holds = {**self.holds, **{hold.bundle: hold for hold in outcome.hold_rows(turn)}}
        holds = {name: hold for name, hold in holds.items() if name not in turn.released}
        try:
            planned = waves.plan_rollouts(
                fleet=desired.fleet,
                desired=desired.subtrees,
                failed=desired.failed,
                current=self._decided(turn),
                last_good=self.journal.last_good(),
                completed=self.journal.completed(),
                holds={name: hold.refused for name, hold in holds.items()},
                keeps={name: hold.keep for name, hold in holds.items() if hold.keep is not None},
                active=[state for state in turn.states.values() if rollouts.alive(state)],
                keys=self.store.keys,
                remembered=self._policies,
                revision=desired.commit,
                author=desired.author,
                subject=desired.subject,
                number=self.journal.next_number(),
                now=turn.now,
            )
        except Exception as error:
            told = _ours(error)
            turn.problem, turn.plan_at = f"no new rollout can be planned: {told}", turn.now + WAITING_S
            if turn.problem != self.problem:
                log.error("%s", turn.problem, exc_info=None if told is error else error)
            return
        for rollout, cluster in planned.left:
            self._meet(turn, rollout, Left(cluster=cluster))
        for older, newer in planned.replaced.items():
            state = turn.states[older]
            if state.phase not in FINAL:
                turn.states[older], effects = rollouts.supersede(state, turn.now, by=newer)
                turn.effects.setdefault(older, []).extend(effects)
        turn.states |= {made.id: rollouts.start(made, turn.now) for made in planned.rollouts}
        turn.around = None  # those that depend on each other have to know of each other
        for made in planned.rollouts:
            try:
                self._meet(turn, made.id, Tick())
            except Exception as error:
                self._hold_up(turn, made.id, error)
        turn.released |= planned.released
        turn.events += [outcome.noticed(notice, turn.now) for notice in planned.notices]
        turn.plan_at = turn.now + WAITING_S if planned.waiting else math.inf
        turn.policies = {**self._policies, **_policies(desired.fleet)}

    def _decided(self, turn: Outcome) -> dict[ClusterName, dict[BundleName, Oid]]:
        """Each cluster's composition, with what this turn moves already."""
        current = self.composition()
        for move in turn.all_of(Move):
            running = current.setdefault(move.cluster, {})
            running.update(move.subtrees)
            for bundle in [bundle for bundle, subtree in running.items() if subtree == ABSENT]:
                del running[bundle]
        return current

    # --- from a decision to what is stored ------------------------------------------------------------------------

    async def _compose(self, turn: Outcome) -> dict[ClusterName, compose.Composed]:
        """The next slice commit of each cluster that moves. A rollout whose move clashes takes no step this turn."""
        work = partial(
            outcome.compositions,
            turn,
            self.slices,
            keys=self.store.keys,
            revision_of=self.journal.revision_of,
            sign=self._sign,
        )
        while True:
            try:
                return await self._in_git(work)
            except Clash as clash:
                self._hold_up(turn, clash.rollout, clash.why)

    def _remembered(self, turn: Outcome) -> dict[str, str]:
        meta: dict[str, str] = {}
        if turn.desired is not None and turn.desired is not self.desired:
            meta["tip"] = turn.desired.commit
        if turn.policies is not None and turn.policies != self._policies:
            meta["policies"] = msgspec.json.encode(turn.policies).decode()
        if turn.receivers != self.receivers:
            meta["receivers"] = msgspec.json.encode(turn.receivers).decode()
        return meta

    # --- after it is stored ---------------------------------------------------------------------------------------

    def _keep(self, turn: Outcome, decision: Decision) -> None:
        """Memory after a turn that is stored."""
        before, self.states = (
            self.states,
            {id_: s for id_, s in turn.states.items() if s is self.states.get(id_) or rollouts.alive(s)},
        )
        self._stuck = {id_: text for id_, text in self._stuck.items() if id_ in turn.undone}
        self._wakes = {id_: at for id_, at in {**self._wakes, **turn.wakes}.items() if id_ in self.states}
        for id_ in turn.undone:
            self._wakes.pop(id_, None)
        written = {row.id: record.after(self._tails.get(row.id, record.Tail()), row) for row in decision.rollouts}
        self._tails = {id_: tail for id_, tail in {**self._tails, **written}.items() if id_ in self.states}
        self.desired = turn.desired
        self._policies = turn.policies if turn.policies is not None else self._policies
        self._plan_at = 0.0 if turn.plan_again else turn.plan_at
        self.receivers = turn.receivers
        for bundle in decision.released:
            self.holds.pop(bundle, None)
        self.holds.update({hold.bundle: hold for hold in decision.holds})
        self.directives = self._directed(turn)
        self._frozen = turn.frozen
        for move in decision.moves:
            self.slices[move.cluster] = SliceRow(
                cluster=move.cluster, seq=move.seq, commit=move.new, time_s=move.time_s, manifest=move.manifest
            )
        self._unpublished |= {move.cluster for move in decision.moves}
        rendered_s = turn.desired.rendered_s if turn.desired else {}
        for id_, state in turn.states.items():
            try:
                self._tracing.observe(before.get(id_), state, turn.now, rendered_s=rendered_s)
            except Exception:  # spans may be lost, decisions not
                log.exception("no spans of rollout %s", id_)

    async def _publish(self, decision: Decision) -> None:
        """Copies of what is stored already: each can be made again, so none may fail the turn."""
        for event in decision.events:
            log.info("%s: %s", event.kind, event.text)
        for cluster in sorted({cluster for _, cluster, _ in decision.directives}):
            self._direct(cluster, directives.message(self.directives, cluster))
        moved = {move.cluster: move for move in decision.moves}
        unpublished = sorted(self._unpublished)
        refused = await self._copied(self._tips(unpublished)) if unpublished else {}
        for cluster in unpublished:
            row, move = self.slices[cluster], moved.get(cluster)
            parent = move.old if move else None
            objects: tuple[GitObject, ...] = ()
            try:
                if cluster in refused:
                    raise refused[cluster]
                self._unpublished.discard(cluster)
                if move and self._hears(cluster):
                    objects = await self._in_git(partial(self.store.new_objects, row.commit, parent))
            except FlotillaError as error:
                level = logging.ERROR if move else logging.DEBUG
                log.log(level, "slice of %s is decided, and not published yet: %s", cluster, error)
            if move or cluster not in self._unpublished:
                self._wake(cluster, WakeUp(seq=row.seq, commit=row.commit, parent=parent or "", objects=objects))
        if decision:
            changed, self.changed = self.changed, anyio.Event()
            changed.set()

    def _tips(self, clusters: Iterable[ClusterName]) -> dict[str, Oid]:
        return {cluster: self.slices[cluster].commit for cluster in clusters}

    async def _copied(self, tips: Mapping[str, Oid]) -> Mapping[str, FlotillaError]:
        """Copy slice pointers to refs; gives why some are not copied."""
        try:
            return await self._in_git(partial(self.store.set_refs, tips))
        except FlotillaError as error:  # the disk
            return dict.fromkeys(tips, error)

    async def _in_git(self, work: Callable[[], T]) -> T:
        return await anyio.to_thread.run_sync(work, limiter=self._git)


def _ours(error: Exception) -> FlotillaError:
    """An error that nobody expected, as one that can be told."""
    if isinstance(error, FlotillaError):
        return error
    return Permanent("hub", f"failed in a way we did not expect: {type(error).__name__}", "report this as a bug")


def _policies(fleet: Fleet) -> dict[BundleName, RolloutPolicy]:
    found = {name: waves.policy_of(fleet, name) for name in fleet.bundles}
    return {name: policy for name, policy in found.items() if policy is not None}
