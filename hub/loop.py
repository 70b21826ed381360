"""The hub's one loop: inputs in, one decision a turn, stored, then published.

A turn takes what arrived (reports, a new desired state, commands, the clock), lets the pure rules decide (`rounds`, and
`waves` for what may begin), composes the slices, and then, in the design's order: (1) objects into the store, (2) one
transaction, (3) refs, wake-ups, notices. Memory changes only after (2); a turn that fails before it changed nothing and
is tried again with the next tick. Steps never call each other; this module alone knows the order.

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
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial

import anyio
import anyio.to_thread

from hub import directives, outcome, record
from hub.agents.live import Live
from hub.copies import Copies, InGit
from hub.desired import Desired
from hub.inputs import FromAgent, Happened, Input
from hub.journal import Decision, DirectiveKey, DirectiveRow, EventRow, HoldRow, Journal, SliceRow
from hub.news import News
from hub.outcome import Clash
from hub.rollout import results, rounds, waves
from hub.rollout.rounds import Memory, Round
from hub.slices.compose import Composed
from hub.slices.gitstore import GitStore
from hub.state import ABSENT, Base, MarkGood, Move, State
from hub.tracing import Tracing
from proto.errors import FlotillaError, InvalidInput, Refused
from proto.ids import BundleName, ClusterName, Oid, RolloutId
from proto.messages import Directives, WakeUp

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
        self.holds: dict[BundleName, HoldRow] = {}
        self.problem = ""
        """Why turns fail at the moment, or ""."""
        self.changed = anyio.Event()
        """Set and replaced after each turn that changed something: what a live view waits for."""
        self.turning = anyio.Lock()
        """Held by each turn. Who holds it knows that nothing is between the store and the journal."""
        self.directives: Mapping[DirectiveKey, DirectiveRow] = {}
        self._in_git = InGit()
        self._copies = Copies(store, self._in_git, wake=wake, direct=direct, hears=hears)
        self._tracing = tracing
        self._heartbeat_s = heartbeat_s
        self._sign = sign
        self._clock = clock
        self._turned_at = clock()
        self._settle_until = self._turned_at + 2 * heartbeat_s
        self.memory = Memory()
        self._tails: dict[RolloutId, record.Tail] = {}
        self._commits: dict[RolloutId, tuple[Oid, ...]] = {}
        self.bases: Mapping[BundleName, Base] = {}
        """What last completed of bundles, for clusters that joined (`joining`)."""
        self._policies: outcome.Policies = outcome.decode_policies(journal.meta("policies", "{}"))
        """Each bundle's policy as it was last planned: one that is gone from the fleet repo is removed with it."""
        self._send, self._receive = anyio.create_memory_object_stream[Input](INPUTS_KEPT)
        self.receivers = outcome.decode_receivers(journal.meta("receivers", "[]"))
        """Whom the fleet repo wants told."""
        self._load()

    @property
    def states(self) -> Mapping[RolloutId, State]:
        """The rollouts that live."""
        return self.memory.states

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
        """Make every ref what the journal says; the first thing after a start. Raises Permanent when a ref is ahead."""
        await self._copies.make_all(self.slices)

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
            with suppress(anyio.WouldBlock):
                while len(batch) < INPUTS_KEPT:
                    batch.append(self._receive.receive_nowait())
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
            error = rounds.told(caught)
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
        news = self._heard(batch)
        made = self._round(news)
        await self._put_on_hold(news, made)
        made.decide(heard=news.heard, evidence=news.evidence, said=news.said, look=bool(news.directives))
        problem = self._plan(news, made)
        composed = await self._compose(made)
        for stuck in made.news:
            log.warning("%s", stuck.text, exc_info=None if isinstance(stuck.error, FlotillaError) else stuck.error)
        policies = outcome.policies(self._policies, made)
        decision = outcome.decision(
            news,
            made,
            composed,
            slices=self.slices,
            tails=self._tails,
            meta=outcome.remembered(
                news, policies, desired=self.desired, last_policies=self._policies, receivers=self.receivers
            ),
        )
        if composed:
            objects = [item for one in composed.values() for item in one.objects]
            await self._in_git(lambda: self.store.write(objects))
        if decision:
            await self._commit(decision)
        self._keep(news, made, decision, policies=policies)
        try:
            await self._publish(decision, composed)
        except Exception:  # what is stored is stored, and who told it is told so
            log.exception("not everything is published")
        return problem

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
        self._copies.owe(name for name, row in self.slices.items() if name in before and before[name] != row)
        stored = self.journal.rollouts(alive=True, limit=100_000)
        self.memory = replace(self.memory, states={row.id: record.restored(row) for row in stored})
        self._tails = {row.id: record.tail(row) for row in stored}
        self.holds = self.journal.holds()
        self.directives = self.journal.directives()

    def _look_at_the_clock(self, now: float) -> None:
        """While the hub did not run, or when the clock was set, nobody could be heard: agents get time to be."""
        if now < self._turned_at or now - self._turned_at > JUMP_S:
            log.warning("the clock went from %.0f to %.0f: waiting for agents to be heard", self._turned_at, now)
            self._settle_until = now + 2 * self._heartbeat_s
            self.memory = self.memory.at_once()
            self.live.not_after(now)
        self._turned_at = now

    # --- what a turn is told, and what it decides -----------------------------------------------------------------

    def _heard(self, batch: Sequence[Input]) -> News:
        """What arrived; what clusters say is known at once, whatever becomes of the turn."""
        now = self._clock()
        self._look_at_the_clock(now)
        news = News(now=now, desired=self.desired, directed=self.directives, receivers=self.receivers, bases=self.bases)
        for item in batch:
            if isinstance(item.what, FromAgent):
                self.live.report(item.what.cluster, item.what.report, now)
            news.take(item, states=self.states, holds=self.holds)
        news.heed_directives(self.slices)
        return news

    def _round(self, news: News) -> Round:
        suspended, cordoned = directives.suspended(news.directed), directives.cordoned(news.directed)
        views = self.live.views(self._next_seq, suspended, cordoned=cordoned)
        return Round(
            now=news.now,
            before=self.memory,
            fleet=news.desired.fleet if news.desired else None,
            view=views,
            roster=views.roster,
            holds=self.holds,
            released=news.released,
            commits_of=self._commits_of,
            heartbeat_s=self._heartbeat_s,
            settle_until=self._settle_until,
            look_s=LOOK_S,
            last_seen=[live.last_seen for live in self.live.clusters.values()],
        )

    async def _put_on_hold(self, news: News, made: Round) -> None:
        """What people want to keep somewhere, before anything moves in this turn."""
        for item, asked in news.holds:
            try:
                missing = await self._in_git(partial(self._missing, frozenset(asked.keep.subtrees.values())))
                if missing:
                    cause = f"what revision {asked.keep.revision:.12} made of it is no longer stored"
                    raise InvalidInput(f"bundle {asked.bundle}", cause, "commit its files as they were then")
                made.end(asked.bundle, abort=asked.abort, actor=asked.actor, reason=asked.reason)
            except InvalidInput as error:
                item.refuse(error)
            else:
                made.keep(news.keep(asked, running=self.composition()))

    def _missing(self, subtrees: Iterable[Oid]) -> list[Oid]:
        return [oid for oid in subtrees if oid != ABSENT and not self.store.has(oid)]

    def _commits_of(self, rollout: RolloutId) -> tuple[Oid, ...]:
        """The commits for which a rollout stood that is over."""
        if rollout not in self._commits:
            row = self.journal.rollout(rollout)
            self._commits[rollout] = record.restored(row).rollout.commits if row else ()
        return self._commits[rollout]

    def _next_seq(self, cluster: ClusterName) -> int:
        row = self.slices.get(cluster)
        return row.seq + 1 if row else 1

    def _plan(self, news: News, made: Round) -> str:
        """Let begin what the fleet repo wants and may begin now. Returns why nothing could be planned, or ""."""
        desired = news.desired
        changed = bool(news.released or made.kept or desired is not self.desired or news.bases is not self.bases)
        if desired is None or not made.plan_is_due(news=changed):
            return ""
        holds = made.on_hold()
        try:
            planned = waves.plan_rollouts(
                fleet=desired.fleet,
                desired=desired.subtrees,
                failed=desired.failed,
                current=results.running(self.composition(), made.all_of(Move)),
                last_good=results.last_good(self.journal.last_good(), made.all_of(MarkGood)),
                completed=results.completed(self.journal.completed(), made.completed()),
                holds={name: hold.refused for name, hold in holds.items()},
                keeps={name: hold.keep for name, hold in holds.items() if hold.keep is not None},
                given_up=made.given_up(),
                active=made.alive(),
                bases=news.bases,
                last=results.last_completed(self.journal.last_completed(), made.states.values()),
                keys=self.store.keys,
                remembered=self._policies,
                revision=desired.commit,
                author=desired.author,
                subject=desired.subject,
                number=self.journal.next_number(),
                now=made.now,
            )
        except Exception as error:
            told = rounds.told(error)
            problem = f"no new rollout can be planned: {told}"
            if problem != self.problem:
                log.error("%s", problem, exc_info=None if told is error else error)
            made.put_off()
            return problem
        made.begin(planned)
        return ""

    # --- from a decision to what is stored ------------------------------------------------------------------------

    async def _compose(self, made: Round) -> dict[ClusterName, Composed]:
        """The next slice commit of each cluster that moves. A rollout whose move clashes takes no step this turn."""
        work = partial(
            outcome.compositions,
            made,
            self.slices,
            keys=self.store.keys,
            revision_of=self.journal.revision_of,
            sign=self._sign,
        )
        while True:
            try:
                return await self._in_git(work)
            except Clash as clash:
                made.hold_up(clash.rollout, clash.why)

    # --- after it is stored ---------------------------------------------------------------------------------------

    def _keep(self, news: News, made: Round, decision: Decision, *, policies: outcome.Policies) -> None:
        """Memory after a turn that is stored."""
        self.memory = made.after()
        written = {row.id: record.after(self._tails.get(row.id, record.Tail()), row) for row in decision.rollouts}
        self._tails = {id_: tail for id_, tail in {**self._tails, **written}.items() if id_ in self.states}
        self.desired, self.receivers, self.directives = news.desired, news.receivers, news.directed
        self._policies = policies
        needed = self.memory.joining.bundles
        self.bases = {bundle: base for bundle, base in news.bases.items() if bundle in needed}
        for bundle in decision.released:
            self.holds.pop(bundle, None)
        self.holds.update({hold.bundle: hold for hold in decision.holds})
        for move in decision.moves:
            self.slices[move.cluster] = SliceRow(
                cluster=move.cluster, seq=move.seq, commit=move.new, time_s=move.time_s, manifest=move.manifest
            )
        self._copies.owe(move.cluster for move in decision.moves)
        rendered_s = news.desired.rendered_s if news.desired else {}
        for id_, state in made.states.items():
            try:
                self._tracing.observe(made.before.states.get(id_), state, made.now, rendered_s=rendered_s)
            except Exception:  # spans may be lost, decisions not
                log.exception("no spans of rollout %s", id_)

    async def _publish(self, decision: Decision, composed: Mapping[ClusterName, Composed]) -> None:
        for event in decision.events:
            log.info("%s: %s", event.kind, event.text)
        await self._copies.make(decision, composed, slices=self.slices, directed=self.directives)
        if decision:
            changed, self.changed = self.changed, anyio.Event()
            changed.set()
