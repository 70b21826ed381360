"""What must hold, told from what the hub heard and did and from what agents really run: not from the engine's checks.

`Track` is what one rollout did as its effects tell it, read in the order in which they were made. Each `_may…` and
`_must…` is a rule that is asserted at a move forward; what a person waved through (an emergency, a wave that was
skipped, a pause that was ended) is taken as that.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hub.model import Gate
from hub.repo import targets
from hub.rollout import gates, rollouts
from hub.state import ABSENT, Evidence, Hold, MarkGood, MemberPhase, Move, Notice, Phase, Rollout, State, Wave
from proto.ids import BundleName, ClusterName, Oid, RolloutId
from proto.messages import Health
from tests.sim.agents import Letter, Slice
from tests.sim.fleets import BUNDLES, SHOP, TILL, closed
from tests.sim.hub import HEARTBEAT_S, Turn

if TYPE_CHECKING:
    from tests.sim.world import World

APART_S = 2 * HEARTBEAT_S


@dataclass(slots=True, kw_only=True)
class Track:
    """One rollout. `offline` was called so at any time; `forgiven` are waves that a person skipped or promoted."""

    rollout: Rollout
    moved: dict[ClusterName, int] = field(default_factory=dict)
    """With the seq of the move."""
    back: set[ClusterName] = field(default_factory=set)
    returning: set[ClusterName] = field(default_factory=set)
    flying: set[ClusterName] = field(default_factory=set)
    beyond: set[ClusterName] = field(default_factory=set)
    proven: set[ClusterName] = field(default_factory=set)
    failed: set[ClusterName] = field(default_factory=set)
    sick: set[ClusterName] = field(default_factory=set)
    left: set[ClusterName] = field(default_factory=set)
    offline: set[ClusterName] = field(default_factory=set)
    soak: dict[ClusterName, tuple[float, float]] = field(default_factory=dict)
    """Since when its reports prove on end, and the last of them."""
    began: dict[str, float] = field(default_factory=dict)
    """Since when each gate waits."""
    proof_at: dict[int, float] = field(default_factory=dict)
    answers: dict[str, list[Evidence]] = field(default_factory=lambda: defaultdict(list))
    votes: dict[str, dict[str, float]] = field(default_factory=lambda: defaultdict(dict))
    passed: set[tuple[str, str]] = field(default_factory=set)
    """The sides of waves whose gates were found open."""
    forgiven: set[str] = field(default_factory=set)
    lenient: bool = False
    """A person let it go on after failures."""
    emergency: bool = False
    stopped: str = ""
    """Why nothing may move forward: paused, going back, over."""
    completed: bool = False

    def index(self, cluster: ClusterName) -> int:
        return next(i for i, wave in enumerate(self.rollout.waves) if cluster in wave.clusters)


class Watch:
    def __init__(self, world: "World") -> None:
        self.world = world
        self.tracks: dict[RolloutId, Track] = {}
        self.heard: dict[ClusterName, tuple[float, Letter]] = {}
        self.good: dict[tuple[ClusterName, BundleName], Oid] = {}
        self.completed: dict[BundleName, tuple[int, Oid]] = {}
        """The newest rollout of each bundle that completed, but for bootstraps: its number, and its revision."""
        self.on_hold: dict[BundleName, tuple[Oid, ...]] = {}
        """With the commits that each bundle was taken back from."""

    @property
    def now(self) -> float:
        return self.world.now

    def turn(self, turn: Turn) -> None:
        """One turn of the hub that was stored."""
        begun = turn.made.states.keys() - self.tracks.keys()
        self.tracks |= {name: Track(rollout=turn.made.states[name].rollout) for name in sorted(begun)}
        for letter in {letter.cluster: letter for letter in turn.letters}.values():
            self._hear(letter)
        for rollout, evidence in turn.evidence:
            if rollout in self.tracks:
                self.tracks[rollout].answers[evidence.gate].append(evidence)
        promoted = {said.rollout for said in turn.made.obeyed if said.command.verb in ("promote", "emergency")}
        for said in turn.made.obeyed:
            name, command = said.rollout, said.command
            self.world.seen[command.verb] += 1
            if command.verb == "emergency":
                self.tracks[name].emergency = True
            elif command.verb in ("resume", "retry"):
                self.tracks[name].lenient = True
            elif command.verb == "approve":
                for wave in self.tracks[name].rollout.waves:
                    self.tracks[name].votes[f"{wave.name}/word"][command.actor] = self.now
        self.on_hold = dict(self.world.hub.stored.commits)
        for name, effect in turn.made.effects:
            track, state = self.tracks[name], turn.made.states[name]
            match effect:
                case Move(back=True):
                    self._go_back(track, effect)
                case Move():
                    self._move(track, effect, state, turn)
                case MarkGood(cluster=cluster, subtrees=subtrees):
                    self.good.update({(cluster, bundle): subtree for bundle, subtree in subtrees.items()})
                    if cluster in track.flying or cluster in track.failed:
                        self._prove(track, cluster, promoted=name in promoted)
                case Notice():
                    self._note(track, effect)
                case Hold(bundle=bundle):
                    self.on_hold[bundle] = track.rollout.commits
        for name in begun:
            self._goes_back_to_last_good(self.tracks[name].rollout)
        for name, state in turn.made.states.items():
            self._look(self.tracks[name], state, turn)

    # --- what the hub heard ---

    def _hear(self, letter: Letter) -> None:
        self.heard[letter.cluster] = (self.now, letter)
        for track in self.tracks.values():
            seq = track.moved.get(letter.cluster, 0)
            if not seq:
                continue
            after = track.rollout.targets[letter.cluster].after
            words = [letter.words.get(bundle) for bundle in after]
            proves = letter.seq >= seq and all(
                word is not None and word.subtree == after[bundle] and word.converged and word.health is Health.CURRENT
                for bundle, word in zip(after, words, strict=True)
            )
            since, last = track.soak.get(letter.cluster, (self.now, self.now))
            if not proves or any(word and word.suspended for word in words):
                track.soak.pop(letter.cluster, None)
            else:
                track.soak[letter.cluster] = (self.now if self.now - last > APART_S else since, self.now)

    def _sick(self, cluster: ClusterName, bundles: Iterable[BundleName] = ()) -> bool:
        """Did it last say that one of its bundles (of these, if any are given) is not Current?"""
        if cluster not in self.heard:
            return False
        words = self.heard[cluster][1].words.items()
        wanted = set(bundles)
        return any(word.health is not Health.CURRENT for name, word in words if not wanted or name in wanted)

    def _is_wanted(self, rollout: Rollout, cluster: ClusterName) -> bool:
        """Is what the rollout brings to the cluster still what the fleet repo says?"""
        wanted = self.world.hub.desired.subtrees
        after = rollout.targets[cluster].after
        return all(wanted[bundle].get(cluster, ABSENT) == subtree for bundle, subtree in after.items())

    # --- effects ---

    def _goes_back_to_last_good(self, rollout: Rollout) -> None:
        """Also what proved itself in the very turn in which the rollout began counts."""
        for cluster, target in rollout.targets.items():
            for bundle, subtree in target.before.items():
                good = self.good.get((cluster, bundle), subtree)
                assert subtree == good, f"{rollout.id} would take {cluster} back to {subtree}, not to {good}"

    def _prove(self, track: Track, cluster: ClusterName, *, promoted: bool) -> None:
        self.world.seen["proven"] += 1
        name, target = track.rollout.id, track.rollout.targets[cluster]
        self._not_suspended(track, cluster, "proven")
        assert set(target.after.items()) <= self.world.agents[cluster].was_current, f"{cluster} never was Current"
        if not promoted and not track.emergency:
            assert cluster in track.soak, f"{name} called {cluster} proven, and it said nothing of that kind"
            soaked_s = self.now - track.soak[cluster][0]
            wanted_s = track.rollout.waves[track.index(cluster)].soak_s
            assert soaked_s >= wanted_s, f"{cluster} soaked for {soaked_s} s in {name}, not {wanted_s}"
        track.flying.discard(cluster)
        track.failed.discard(cluster)
        track.proven.add(cluster)
        track.proof_at[track.index(cluster)] = self.now

    def _note(self, track: Track, notice: Notice) -> None:
        cluster, name = ClusterName(notice.cluster), track.rollout.id
        match notice.kind:
            case "cluster-failed":
                self.world.seen["failed"] += 1
                self._not_suspended(track, cluster, "failed")
                track.flying.discard(cluster)
                track.failed.add(cluster)
            case "cluster-left" | "cluster-skipped":
                for those in (track.flying, track.failed, track.returning):
                    those.discard(cluster)
                track.left.add(cluster)
            case "cluster-offline":
                track.offline.add(cluster)
            case "cluster-suspended":
                self.world.seen["suspended"] += 1
                track.soak.pop(cluster, None)
            case "cluster-reverted" | "cluster-revert-failed":
                track.returning.discard(cluster)
            case "wave-skipped" | "promoted":
                track.forgiven.add(notice.wave)
                wave = next(wave for wave in track.rollout.waves if wave.name == notice.wave)
                if notice.kind == "wave-skipped":
                    track.flying -= set(wave.clusters)
                    track.left |= set(wave.clusters) - track.proven - track.failed
                track.stopped = ""
            case "paused":
                track.stopped = "paused"
            case "resumed" | "retried" | "emergency":
                track.stopped = ""
            case "rolling-back" | "aborted" | "replaced":
                self.world.seen[notice.kind] += 1
                track.stopped = notice.kind
                stay = track.flying if notice.kind == "replaced" else ()
                track.flying = {cluster for cluster in stay if self._is_wanted(track.rollout, cluster)}
            case "rollout-completed":
                track.completed = True
                if not track.rollout.base:
                    for bundle in track.rollout.bundles:
                        this = track.rollout.number, track.rollout.revision
                        self.completed[bundle] = max(self.completed.get(bundle, this), this)
            case "gate-waits":
                key = notice.text.split(" waits at gate ")[1].split(":")[0]
                track.began[key] = self.now
                self._waves_before_are_done(track, key)
                track.votes[key] = {actor: at for actor, at in track.votes[key].items() if at == self.now}
            case "gate-failed" if track.rollout.action == "continue":
                track.forgiven.add(notice.wave)
            case "wave-opened":
                index = next(i for i, wave in enumerate(track.rollout.waves) if wave.name == notice.wave)
                self._gates_are_open(track, index)
            case kind if kind == "rolled-back":
                self.world.seen[kind] += 1
            case _:
                assert name == notice.rollout

    def _go_back(self, track: Track, move: Move) -> None:
        cluster = move.cluster
        assert cluster in track.moved, f"{move.rollout} took {cluster} back from where it never was"
        assert cluster not in track.back, f"{move.rollout} took {cluster} back twice"
        assert move.subtrees == track.rollout.targets[cluster].before
        track.back.add(cluster)
        track.returning.add(cluster)

    def _move(self, track: Track, move: Move, state: State, turn: Turn) -> None:
        cluster, name = move.cluster, move.rollout
        index = track.index(cluster)
        assert cluster not in track.moved, f"{name} moved {cluster} twice"
        assert not track.stopped, f"{name} moved {cluster} while it was {track.stopped}"
        assert move.subtrees == track.rollout.targets[cluster].after
        assert cluster not in self.world.cordoned, f"{name} moved {cluster}, which is cordoned"
        self.world.seen["moved"] += 1
        if track.rollout.base:
            self._may_be_bootstrapped(track, cluster, turn)
        if not track.emergency:
            self._not_suspended(track, cluster, "moved")
            self._may_start_now(track, index, cluster)
            self._may_be_one_more(track, index, cluster)
            self._may_be_unavailable(track, index, cluster)
            self._may_change(cluster)
            self._may_go_before_its_dependency(track, cluster, turn)
            for earlier in range(index):
                self._must_be_done(track, earlier, cluster)
            if not track.lenient and not track.completed:
                self._must_have_budget(track, cluster)
        track.moved[cluster] = turn.made.view[cluster].next_seq
        track.flying.add(cluster)

    # --- rules of a move forward ---

    def _may_be_bootstrapped(self, track: Track, cluster: ClusterName, turn: Turn) -> None:
        """Who joined gets what completed last, where there was nothing, and is in no other rollout of the bundle."""
        (bundle,) = track.rollout.bundles
        _, revision = self.completed[bundle]
        before = self.world.hub.stored.slices.get(cluster, Slice()).bundles
        assert track.rollout.targets[cluster].after == {bundle: self.world.subtree(bundle, revision)}
        assert bundle not in before, f"{track.rollout.id} moved {cluster}, which had {before[bundle]}"
        others = [
            name
            for name, state in turn.made.states.items()
            if name != track.rollout.id and bundle in state.rollout.bundles and rollouts.alive(state)
            if (member := state.members.get(cluster)) is not None and member.phase is not MemberPhase.LEFT
        ]
        assert not others, f"{cluster} is in {others}, and {track.rollout.id} moved it"
        self.world.seen["bootstrapped"] += 1

    def _may_start_now(self, track: Track, index: int, cluster: ClusterName) -> None:
        found = self.world.hub.desired.fleet.clusters.get(cluster)
        shut = [*track.rollout.windows, *track.rollout.waves[index].windows, *(found.windows if found else ())]
        assert not [window.text for window in shut if closed(window, self.now)], f"{cluster} moved outside its windows"
        for freeze in self.world.hub.desired.fleet.freezes:
            inside = freeze.start_s <= self.now < freeze.end_s
            touched = targets.matches(freeze.select, found.labels if found else {})
            assert not (inside and touched), f"{cluster} moved inside a freeze"

    def _may_be_one_more(self, track: Track, index: int, cluster: ClusterName) -> None:
        wave = track.rollout.waves[index]
        target = track.rollout.targets[cluster]
        flying = track.flying.intersection(wave.clusters) - track.beyond
        if track.rollout.fixes == "jump" and self._sick(cluster, target.after):
            track.beyond.add(cluster)
            self.world.seen["jumped"] += 1
            return
        assert len(flying) < wave.max_concurrent, f"{len(flying)} of {track.rollout.id} in flight in wave {wave.name}"

    def _in_flight(self, cluster: ClusterName) -> int:
        return sum(cluster in track.flying or cluster in track.returning for track in self.tracks.values())

    def _may_be_unavailable(self, track: Track, index: int, cluster: ClusterName) -> None:
        wave = track.rollout.waves[index]
        if wave.max_unavailable is None:
            return
        silent = {c for c in wave.clusters if self.now - self.heard.get(c, (0.0,))[0] > track.rollout.offline_after_s}
        gone = {c for c in wave.clusters if c in silent or self._sick(c) or self._in_flight(c)} - track.left
        if cluster not in gone:
            count = len(gone) - min(len(silent & gone), wave.offline_budget)
            assert count < wave.max_unavailable, f"{cluster} moved while {gone} were unavailable"

    def _may_change(self, cluster: ClusterName) -> None:
        fleet = self.world.hub.desired.fleet
        found = fleet.clusters.get(cluster)
        limit = (found.max_changes if found else 0) or fleet.max_changes
        if found and limit:
            assert self._in_flight(cluster) < limit, f"more than {limit} changes at once on {cluster}"

    def _may_go_before_its_dependency(self, track: Track, cluster: ClusterName, turn: Turn) -> None:
        """One commit brought shop's subtree and one of till: till's, or a newer one, has to be proven there, unless its
        rollout was given up, or was replaced while it had moved the cluster."""
        after = track.rollout.targets[cluster].after.get(SHOP)
        if not after or cluster not in self.world.fleet.clusters:
            return
        on_hold = track.rollout.revision in self.on_hold.get(TILL, ())
        assert not on_hold, f"{track.rollout.id} moved {cluster} while {TILL} of the same commit is on hold"
        number = self.world.commits[after]
        brought = [s for s, n in self.world.commits.items() if n == number and s.startswith(f"{TILL}@")]
        if brought and cluster in self.world.spared.get(brought[0], ()):
            return
        if not brought or _version(self.good.get((cluster, TILL), ABSENT)) >= _version(brought[0]):
            return
        for other in self.tracks.values():
            subtrees = {c: target.after.get(TILL) for c, target in other.rollout.targets.items()}
            if not any(subtree and _version(subtree) >= _version(brought[0]) for subtree in subtrees.values()):
                continue
            over = other.completed or (other.stopped == "replaced" and cluster in other.moved) or cluster in other.left
            if other.stopped in ("rolling-back", "aborted") or (over and subtrees.get(cluster)):
                return
        assert TILL in turn.after.holds, f"{track.rollout.id} moved {cluster} to {after} before {brought[0]} was there"

    def _must_be_done(self, track: Track, index: int, cluster: ClusterName) -> None:
        """A cluster of a later wave is moved: this wave must really be done, by what its agents really did."""
        name, wave = track.rollout.id, track.rollout.waves[index]
        if wave.name in track.forgiven:
            return
        stay = [c for c in wave.clusters if c not in track.left]
        unmoved = [c for c in stay if c not in track.moved]
        assert set(unmoved) <= track.offline, f"{name} went on to {cluster} without {unmoved}"
        flying = track.flying.intersection(stay) - track.offline
        assert not flying, f"{name} went on to {cluster} while {flying} were in flight"
        taken = len(track.failed.intersection(stay)) if track.lenient or track.rollout.action == "continue" else 0
        good = track.proven.intersection(wave.clusters)
        assert len(good) >= min(wave.min_proof, len(stay) - taken), f"{name} went on to {cluster} without proof"
        if track.rollout.action != "continue" and not track.lenient and stay:
            kinds = {self.world.kinds[s] for c in stay for s in track.rollout.targets[c].after.values() if s}
            # Where a commit brought clusters different things, one that fails may be within the budget.
            assert not kinds or "good" in kinds, f"{name} went beyond wave {wave.name} to {cluster} with {kinds}"

    def _must_have_budget(self, track: Track, cluster: ClusterName) -> None:
        if track.rollout.action == "continue":
            return
        forgiven = {c for wave in track.rollout.waves if wave.name in track.forgiven for c in wave.clusters}
        failed = track.failed - track.sick - forgiven
        total = track.rollout.failure_total
        assert total is None or len(failed) <= total, f"{cluster} moved after {len(failed)} failures of {total}"
        for wave in track.rollout.waves:
            many = len(failed.intersection(wave.clusters))
            assert many <= wave.failure_budget, f"{cluster} moved after {many} failures in wave {wave.name}"

    def _not_suspended(self, track: Track, cluster: ClusterName, what: str) -> None:
        told = self.world.suspended.get(cluster, {}).keys() & track.rollout.targets[cluster].after.keys()
        assert not told, f"{cluster} was {what} in {track.rollout.id} while {told} was suspended there"

    # --- gates ---

    def _waves_before_are_done(self, track: Track, key: str) -> None:
        """The rollout asks for what stands before a wave: the gates after the one before it were open."""
        for index, wave in enumerate(track.rollout.waves[1:], 1):
            if any(gate.when == "before" and gates.key(wave, gate) == key for gate in wave.gates):
                self._gates_open(track, track.rollout.waves[index - 1], "after")

    def _gates_are_open(self, track: Track, index: int) -> None:
        if index:
            self._gates_open(track, track.rollout.waves[index - 1], "after")
        self._gates_open(track, track.rollout.waves[index], "before")

    def _gates_open(self, track: Track, wave: Wave, side: str) -> None:
        """Once, when the rollout goes past them."""
        if track.emergency or (wave.name, side) in track.passed:
            return
        track.passed.add((wave.name, side))
        for gate in wave.gates:
            if gate.when == side and wave.name not in track.forgiven:
                self._gate_is_open(track, wave, gate)
                self.world.seen[f"gate {gate.name}"] += 1

    def _gate_is_open(self, track: Track, wave: Wave, gate: Gate) -> None:
        key = gates.key(wave, gate)
        assert key in track.began, f"nobody ever waited at {key}"
        began = track.began[key]
        if gate.when == "after":
            proof_at = track.proof_at.get(track.rollout.waves.index(wave), 0.0)
            assert began >= proof_at, f"{key} began before the last proof"
        if gate.approval is not None:
            agreed = {
                actor
                for actor, at in track.votes[key].items()
                if (not gate.approval.by or actor in gate.approval.by)
                and (not gate.approval.expires_s or self.now - at <= gate.approval.expires_s)
            }
            assert len(agreed) >= gate.approval.approvers, f"{key} opened with the word of {agreed}"
            return
        told = sorted((e for e in track.answers[key] if began <= e.asked_at <= self.now), key=lambda e: e.asked_at)
        interval_s = gates.interval_s(gate)
        assert told, f"{key} opened without an answer"
        assert told[-1].verdict == "good", f"{key} opened, and the last answer is {told[-1].verdict}"
        assert self.now - told[-1].asked_at <= 2 * interval_s, f"{key} opened on an old answer"
        since = told[-1].asked_at
        for answer in reversed(told):
            if answer.verdict != "good" or since - answer.asked_at > 2 * interval_s:
                break
            since = answer.asked_at
        check = gate.metric or gate.http
        assert told[-1].asked_at - since >= (check.for_s if check else 0.0), f"{key} opened too early"

    # --- every state ---

    def _look(self, track: Track, state: State, turn: Turn) -> None:
        track.sick |= {c for c, m in state.members.items() if m.sick_before and not m.last_current_at}
        track.left |= {c for c, m in state.members.items() if m.skipped}
        if turn.made.planned and state.phase in (Phase.RUNNING, Phase.PAUSED):
            for cluster, member in state.members.items():
                known = cluster in self.world.hub.desired.fleet.clusters
                assert known or member.phase is MemberPhase.LEFT, f"{cluster} is gone and {member.phase}"
        if state.phase is Phase.COMPLETED and any(m.phase is MemberPhase.OFFLINE for m in state.members.values()):
            self.world.seen["completed without the offline"] += 1
        if state.phase is not Phase.ROLLED_BACK:
            return
        for cluster, member in state.members.items():
            if cluster in track.left:
                continue
            wanted = {MemberPhase.REVERTED} if cluster in track.moved else {MemberPhase.PENDING, MemberPhase.OFFLINE}
            assert member.phase in wanted, f"{cluster} is {member.phase} after the rollback of {track.rollout.id}"
            if cluster in track.moved:
                runs, before = self.world.agents[cluster].runs, track.rollout.targets[cluster].before
                there = {bundle: runs.get(bundle, ABSENT) for bundle in before}
                assert there == before, f"{cluster} runs {there} after the rollback to {before}"
        assert set(BUNDLES) >= set(track.rollout.bundles)


def _version(subtree: Oid) -> int:
    return int(subtree.partition("@")[2] or 0)
