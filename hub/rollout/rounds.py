"""One round of all rollouts: who meets what, in which order, and what begins. Pure.

The hub's loop, `flotilla simulate` and the tests' fleet with faults all take their turns by these steps, each in its
own world. A round works on copies; what is left to the next one is `after`, taken once the round is stored.

| step                   | what it does                                                                              |
|------------------------|-------------------------------------------------------------------------------------------|
| made                   | what stops everybody: a freeze, or so many clusters that vanish that a commit, or our own |
|                        | network, may be the cause. Rollouts that run then are paused once; a person who lets them |
|                        | go on knows better                                                                        |
| `end`, `keep`          | a person keeps a bundle somewhere: its rollouts end before anything moves                 |
| `decide`               | each rollout that lives meets what concerns it: rollbacks first, then the oldest; then    |
|                        | people's words, in their order                                                            |
| `plan_is_due`, `begin` | what `waves` planned: who left, what is replaced, what begins with its first step         |
| `hold_up`              | a rollout that raises, or whose moves give no slice, takes no step in this round; all     |
|                        | others do                                                                                 |

Next: `rollouts` decides about each; what calls `after` stores it.
"""

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import InitVar, dataclass, field, replace
from functools import partial
from typing import TypeVar

from hub.journal import HoldRow
from hub.model import Fleet
from hub.rollout import held, keeping, results, rollouts, waves
from hub.rollout.held import Around
from hub.rollout.joiners import Joining
from hub.state import (
    FINAL,
    ClusterView,
    Command,
    Effect,
    Event,
    Evidence,
    Hold,
    Left,
    Notice,
    Phase,
    Reported,
    Roster,
    State,
    Tick,
    WakeAt,
)
from proto.errors import FlotillaError, InvalidInput, Permanent
from proto.ids import BundleName, ClusterName, Oid, RolloutId

WAITING_S = 5.0
"""How often a bundle that waits for another rollout asks whether it may begin."""
AT_ONCE = 0.0
"""As a time to plan or to look: with the next round, whatever the clock says then."""
NOT_READ = "the fleet repo was not read yet"

E = TypeVar("E", bound=Effect)


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What a round leaves to the next one. Times are Unix seconds."""

    states: Mapping[RolloutId, State] = field(default_factory=dict)
    """All that live."""
    wakes: Mapping[RolloutId, float] = field(default_factory=dict)
    """When time alone may change a rollout; one that is missing is looked at in the next round."""
    plan_at: float = math.inf
    """When to look for rollouts that may begin, if nothing says so before."""
    frozen: str = ""
    """Why nothing might start in the whole fleet."""
    vanished: bool = False
    """Had so many clusters fallen silent that rollouts were paused for it?"""
    stuck: Mapping[RolloutId, str] = field(default_factory=dict)
    """Why a rollout took no step."""
    joining: Joining = field(default_factory=Joining)
    """Who joined, by the last planning."""

    def at_once(self) -> "Memory":
        """As it is when nothing is known of how much time passed: all is looked at in the next round."""
        return replace(self, wakes={}, plan_at=AT_ONCE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """A command to one rollout; `role` is whose token the person had, `refuse` is told why nothing came of it."""

    rollout: RolloutId
    command: Command
    role: str = ""
    refuse: Callable[[FlotillaError], None] = lambda why: None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stuck:
    """A rollout that takes no step in this round, as people are told; `error` is what it raised."""

    rollout: RolloutId
    text: str
    error: Exception


@dataclass(slots=True, kw_only=True)
class Round:
    """What is known at `now`, and what the rules made of it so far; `before` is what the last round left.

    `fleet` is None until the fleet repo was read. `holds` and `released`: the bundles on hold before the round, and
    those that a person lets go on in it. `commits_of`: those for which a rollout stands that is over.
    `last_seen`: when each cluster was heard last. `look_s`: each rollout is looked at so often, though nothing says
    that time alone can change it. `roster` gives `view` at a glance, as far as members of these rollouts go.
    """

    now: float
    before: Memory
    fleet: Fleet | None
    view: Mapping[ClusterName, ClusterView]
    holds: Mapping[BundleName, HoldRow]
    commits_of: Callable[[RolloutId], Collection[Oid]]
    heartbeat_s: float
    settle_until: float = 0.0
    look_s: float = math.inf
    released: set[BundleName] = field(default_factory=set)
    roster: Callable[[Iterable[State]], Roster] | None = None
    last_seen: InitVar[Iterable[float]] = ()
    states: dict[RolloutId, State] = field(init=False)
    frozen: str = field(init=False, default=NOT_READ)
    plan_at: float = field(init=False)
    kept: dict[BundleName, HoldRow] = field(init=False, default_factory=dict)
    """What people keep somewhere with this round."""
    effects: list[tuple[RolloutId, Effect]] = field(init=False, default_factory=list)
    """In the order in which they were decided; WakeAt is in `wakes`."""
    told: dict[RolloutId, list[Event]] = field(init=False, default_factory=dict)
    """What each rollout met."""
    obeyed: list[Said] = field(init=False, default_factory=list)
    """The commands that were carried out."""
    wakes: dict[RolloutId, float] = field(init=False, default_factory=dict)
    decisions: int = field(init=False, default=0)
    """How often the rules were asked."""
    stuck: dict[RolloutId, str] = field(init=False, default_factory=dict)
    news: list[Stuck] = field(init=False, default_factory=list)
    """Those of `stuck` of which people were not told by an earlier round."""
    notices: list[Notice] = field(init=False, default_factory=list)
    """Of planning."""
    joining: Joining = field(init=False)
    planned: bool = field(init=False, default=False)
    _released: frozenset[BundleName] = field(init=False, default=frozenset())
    """By planning, which knows the holds of this round."""
    _vanished: bool = field(init=False)
    _pauses: list[Said] = field(init=False, default_factory=list)
    _heirs: dict[RolloutId, RolloutId] = field(init=False, default_factory=dict)
    """Older → newer, of what is replaced."""
    _around: Around | None = field(init=False, default=None)
    _known: Roster | None = field(init=False, default=None)

    def __post_init__(self, last_seen: Iterable[float]) -> None:
        self.states = dict(self.before.states)
        self.plan_at = self.before.plan_at
        self.joining = self.before.joining
        self._vanished = self.before.vanished
        if self.fleet is None:
            return
        settled = self.now >= self.settle_until
        gone = held.vanished(last_seen, self.now, heartbeat_s=self.heartbeat_s) if settled else ""
        if gone and not self._vanished:
            pause = Command(verb="pause", actor="flotilla", reason=gone)
            running = [id_ for id_, state in self.states.items() if state.phase is Phase.RUNNING]
            self._pauses = [Said(rollout=id_, command=pause) for id_ in running]
        self._vanished = bool(gone)
        self.frozen = held.frozen(self.fleet, self.now) or gone

    # --- what was decided so far ----------------------------------------------------------------------------------

    def all_of(self, kind: type[E]) -> list[E]:
        return [effect for _, effect in self.effects if isinstance(effect, kind)]

    def put_on_hold(self) -> dict[BundleName, HoldRow]:
        """The holds of this round."""
        holds = [hold for hold in self.all_of(Hold) if hold.bundle not in self._released]
        return {**results.put_on_hold(self.holds, holds, self.states, self.now), **self.kept}

    def on_hold(self) -> dict[BundleName, HoldRow]:
        """Each bundle on hold as of this round."""
        holds = {**self.holds, **self.put_on_hold()}
        return {bundle: hold for bundle, hold in holds.items() if bundle not in self.released}

    def given_up(self) -> dict[BundleName, Collection[Oid]]:
        """Each bundle on hold, and the commits that it was taken back from. Who is released in this round still counts:
        what depends on the bundle has to wait until its new rollout is there."""
        before = {bundle: self.commits_of(hold.rollout) for bundle, hold in self.holds.items()}
        return before | {hold.bundle: self.states[hold.rollout].rollout.commits for hold in self.all_of(Hold)}

    def completed(self) -> list[tuple[BundleName, ClusterName, Oid]]:
        """What the rollouts brought that were completed in this round."""
        before = self.before.states
        return [item for id_, state in self.states.items() for item in rollouts.completed(before.get(id_), state)]

    def alive(self) -> list[State]:
        return [state for state in self.states.values() if rollouts.alive(state)]

    def after(self) -> Memory:
        """What the round leaves to the next one."""
        before = self.before.states
        states = {id_: s for id_, s in self.states.items() if s is before.get(id_) or rollouts.alive(s)}
        wakes = {**self.before.wakes, **self.wakes}
        return Memory(
            states=states,
            wakes={id_: at for id_, at in wakes.items() if id_ in states and id_ not in self.stuck},
            plan_at=AT_ONCE if self.planned and self.stuck else self.plan_at,
            frozen=self.frozen,
            vanished=self._vanished,
            stuck=self.stuck,
            joining=self.joining,
        )

    # --- the steps ------------------------------------------------------------------------------------------------

    def end(self, bundle: BundleName, *, abort: bool, actor: str, reason: str) -> None:
        """End the rollouts of a bundle that a person wants to keep somewhere. Raises InvalidInput when they may not
        end, or nobody said that they should."""
        for rollout in keeping.to_end(bundle, self.states.values(), abort=abort):
            self._meet(rollout, [Command(verb="abort", actor=actor, reason=reason)])

    def keep(self, hold: HoldRow) -> None:
        """A person keeps a bundle somewhere."""
        self.kept[hold.bundle] = hold
        self.released.discard(hold.bundle)
        self._around = None

    def decide(
        self,
        *,
        heard: Iterable[ClusterName],
        evidence: Sequence[tuple[RolloutId, Evidence]],
        said: Iterable[Said],
        look: bool,
    ) -> None:
        """`heard`: whose reports came; `look`: something changed that anybody may have waited for."""
        told = [Reported(cluster=cluster) for cluster in dict.fromkeys(heard)]
        look = look or self.frozen != self.before.frozen
        for state in sorted(self.states.values(), key=lambda s: (s.phase is not Phase.ROLLING_BACK, s.rollout.number)):
            id_ = state.rollout.id
            events: list[Event] = [event for event in told if rollouts.concerns(state, event.cluster)]
            events += [found for rollout, found in evidence if rollout == id_]
            if look or self.now >= self.before.wakes.get(id_, AT_ONCE):
                events.append(Tick())
            if events:
                self._step(id_, events)
        for one in (*said, *self._pauses):
            self._obey(one)

    def plan_is_due(self, *, news: bool) -> bool:
        """May something begin now? `news`: the fleet repo changed, or a person's word about a bundle came."""
        before = self.before.states
        freed = any(rollouts.frees(before[id_], state) for id_, state in self.states.items())
        return news or freed or self.now >= self.plan_at

    def put_off(self) -> None:
        """Nothing could be planned: it is tried again in a while."""
        self.plan_at = self.now + WAITING_S

    def begin(self, planned: waves.Planned) -> None:
        """Carry out what `waves` planned, in its order."""
        before = dict(self.states)
        self.planned, self._around, self._heirs = True, None, dict(planned.replaced)
        leaving: dict[RolloutId, list[Event]] = {}
        for rollout, cluster in planned.left:
            if rollout not in planned.replaced:
                leaving.setdefault(rollout, []).append(Left(cluster=cluster))
        for rollout, events in leaving.items():
            self._step(rollout, events)
        for older, newer in planned.replaced.items():
            state = self.states[older]
            if state.phase not in FINAL:
                left = {cluster for rollout, cluster in planned.left if rollout == older}
                self.states[older], effects = rollouts.supersede(state, self.now, by=newer, left=left)
                self.effects += [(older, effect) for effect in effects]
        self.states |= {made.id: rollouts.start(made, self.now) for made in planned.rollouts}
        self._around = self._known = None  # those that depend on each other have to know of each other
        for made in planned.rollouts:
            self._step(made.id, [Tick()])
        self._released = planned.released
        self.released |= planned.released
        self.notices += planned.notices
        self.joining = planned.joining
        freed = any(rollouts.frees(before[id_], self.states[id_]) for id_ in before.keys() - planned.replaced.keys())
        self.plan_at = (
            AT_ONCE if freed else self.now + WAITING_S if planned.waiting or planned.joining.asked else math.inf
        )

    def hold_up(self, rollout: RolloutId, error: Exception) -> None:
        """The rollout takes no step in this round; people are told once why, and it is tried again in the next."""
        why = told(error)
        self._undo(rollout, why)
        text = f"rollout {rollout} waits: {why}"
        if text not in (self.stuck.get(rollout), self.before.stuck.get(rollout)):
            self.news.append(Stuck(rollout=rollout, text=text, error=error))
        self.stuck[rollout] = text

    # --- one rollout ----------------------------------------------------------------------------------------------

    def _step(self, rollout: RolloutId, events: Sequence[Event]) -> None:
        try:
            self._meet(rollout, events)
        except Exception as error:
            self.hold_up(rollout, error)

    def _obey(self, said: Said) -> None:
        try:
            self._meet(said.rollout, [said.command])
        except InvalidInput as error:
            said.refuse(error)
        except Exception as error:
            self.hold_up(said.rollout, error)
            said.refuse(told(error))
        else:
            self.obeyed.append(said)

    def _meet(self, rollout: RolloutId, events: Sequence[Event]) -> None:
        state = self.states.get(rollout)
        if state is None or not rollouts.alive(state):
            if any(isinstance(event, Command) for event in events):
                left = left_on_hold(rollout, states=self.states, holds=self.holds)
                remedy = f"retry it, or 'flotilla release {left[0]}'" if left else "see 'flotilla rollouts'"
                raise InvalidInput(f"rollout {rollout}", "is not under way", remedy)
            return
        around = self._known_around()
        self.states[rollout], effects = rollouts.decide(
            state,
            events,
            self.view,
            self.now,
            heartbeat_s=self.heartbeat_s,
            settle_until=self.settle_until,
            frozen=self.frozen,
            held=partial(around.why, state.rollout),
            busy=around.busy,
            everybody=self._everybody if self.roster else None,
        )
        around.decided(effects)
        self.decisions += 1
        self.told.setdefault(rollout, []).extend(events)
        self.effects += [(rollout, effect) for effect in effects if not isinstance(effect, WakeAt)]
        ticked = any(isinstance(event, Tick) for event in events)
        since = self.now + self.look_s if ticked else self.wakes.get(rollout, self.before.wakes.get(rollout, AT_ONCE))
        self.wakes[rollout] = min([since, *(effect.at for effect in effects if isinstance(effect, WakeAt))])

    def _known_around(self) -> Around:
        """What holds single clusters."""
        if self._around is None:
            self._around = Around(
                fleet=self.fleet or Fleet(),
                now=self.now,
                states=tuple(self.states.values()),
                on_hold=self.given_up(),
            )
        return self._around

    def _everybody(self) -> Roster:
        if self._known is None:
            assert self.roster is not None
            self._known = self.roster(self.states.values())
        return self._known

    def _undo(self, rollout: RolloutId, why: FlotillaError) -> None:
        """Take back what one rollout decided in this round, and with it the one that came in its place; who gave it a
        command is told `why`. One that began in this round begins in a later one."""
        self.effects = [(id_, effect) for id_, effect in self.effects if id_ != rollout]
        self.told.pop(rollout, None)
        for said in self.obeyed:
            if said.rollout == rollout:
                said.refuse(why)
        self.obeyed = [said for said in self.obeyed if said.rollout != rollout]
        if rollout in self.before.states:
            self.states[rollout] = self.before.states[rollout]
        else:
            self.states.pop(rollout, None)
        if heir := self._heirs.pop(rollout, None):
            self._undo(heir, why)


def left_on_hold(
    rollout: RolloutId, *, states: Mapping[RolloutId, State], holds: Mapping[BundleName, HoldRow]
) -> list[BundleName]:
    """Pure: the bundles that a rollout put on hold when it ended."""
    if rollout in states:
        return []
    return [bundle for bundle, hold in holds.items() if hold.rollout == rollout and hold.keep is None]


def told(error: Exception) -> FlotillaError:
    """Pure: an error that nobody expected, as one that can be told."""
    if isinstance(error, FlotillaError):
        return error
    return Permanent("hub", f"failed in a way we did not expect: {type(error).__name__}", "report this as a bug")
