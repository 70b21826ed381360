"""Breaks each rule of rollouts in turn, and shows which test says so: `make mutations`.

A mutation is a small replacement in one file of the hub, made in a copy of the package that is imported in its place.
The tests of the unit that it breaks run first, then the machine, then seeds of the simulation, until one fails. A
mutation that no test notices, or whose text is not there any more, is an error. Rules are those of
`hub/rollout/rollouts.py`.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
STAGES = (
    (
        "tests/unit/test_rollouts.py",
        "tests/unit/test_gates.py",
        "tests/unit/test_rollout_commands.py",
        "tests/unit/test_held.py",
        "tests/unit/test_windows.py",
        "tests/unit/test_waves.py",
        "tests/unit/test_joiners.py",
        "tests/unit/test_resolve.py",
        "tests/unit/test_rounds.py",
    ),
    ("tests/property/test_rollouts_machine.py",),
    ("tests/property/test_rollouts_sim.py",),
)
SEEDS = 100
TIME_LIMIT_S = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutation:
    """Rule `rule` is broken by putting `new` in the place of `old` in `path`."""

    rule: int
    name: str
    path: str
    old: str
    new: str

    def broken(self) -> str:
        """The file's text with it. Raises ValueError when its place is not there, or there more than once."""
        text = (ROOT / self.path).read_text()
        if text.count(self.old) != 1:
            raise ValueError(f"mutation {self.name!r}: its text is {text.count(self.old)} times in {self.path}")
        return text.replace(self.old, self.new)


def _m(rule: int, name: str, path: str, old: str, new: str) -> Mutation:
    return Mutation(rule=rule, name=name, path=f"hub/{path}", old=old, new=new)


MUTATIONS = (
    _m(1, "a wave opens while clusters are in flight", "rollout/transitions.py",
       "for phase in (M.MOVING, M.SOAKING, M.PENDING) if", "for phase in (M.PENDING,) if"),
    _m(1, "a wave needs no proof", "rollout/transitions.py",
       "return min(wave.min_proof, len(wave.clusters) -", "return min(0, len(wave.clusters) -"),
    _m(1, "any number may be offline", "rollout/transitions.py",
       "if tally.phases.get(M.OFFLINE, 0) > wave.offline_budget:", "if False:"),
    _m(2, "shares of a small wave leave nobody to move", "rollout/resolve.py",
       "max_concurrent=max(1, share(wave.max_concurrent, size)),", "max_concurrent=share(wave.max_concurrent, size),"),
    _m(2, "one more in flight", "rollout/reports.py",
       "return turn.rollout.waves[index].max_concurrent - transitions",
       "return turn.rollout.waves[index].max_concurrent + 1 - transitions"),
    _m(2, "maxUnavailable is not looked at", "rollout/forward.py",
       "if wave.max_unavailable is None or turn.emergency:", "if True:"),
    _m(2, "who is in flight elsewhere needs no room", "rollout/forward.py",
       "costs = spare < math.inf and not _unwell(", "costs = spare < math.inf and not _unavailable("),
    _m(2, "any cluster passes the limit", "rollout/forward.py",
       'return turn.rollout.fixes == "jump" and sick(', "return True or sick("),
    _m(2, "no fix jumps the queue", "rollout/queue.py",
       'older.rollout.fixes == "jump" and not wanted', 'older.rollout.fixes == ""'),
    _m(2, "a fix takes the place of moves that are still wanted", "rollout/queue.py",
       'older.rollout.fixes == "jump" and not wanted', 'older.rollout.fixes == "jump"'),
    _m(3, "other subtrees prove", "rollout/proof.py",
       "        if named != subtree:\n            proven = False\n", "        if False:\n            proven = False\n"),
    _m(3, "an older slice proves", "rollout/proof.py", "if view.seq < seq:", "if view.seq < seq - 1:"),
    _m(3, "a soak ends early", "rollout/reports.py",
       "elif now >= member.soak_from + soak_s and", "elif now >= member.soak_from + soak_s / 2 and"),
    _m(3, "gaps in a soak do not count", "rollout/reports.py",
       "elif now - member.last_current_at > HEARTBEATS_APART * turn.heartbeat_s:", "elif False:"),
    _m(4, "no deadline", "rollout/forward.py",
       "if turn.now - since <= deadline_s:", "if True:"),
    _m(4, "Failed is no failure", "rollout/reports.py",
       "elif verdict is Verdict.BAD and turn.settled", "elif False and turn.settled"),
    _m(5, "who was sick before fails like any other", "rollout/transitions.py",
       "return member.sick_before and not member.last_current_at", "return False"),
    _m(6, "budgets are rounded up", "rollout/resolve.py",
       "return size * amount.value // 100 if", "return -(-size * amount.value // 100) if"),
    _m(6, "the budget is one more", "rollout/reports.py",
       "return failed <= wave.failure_budget and", "return failed <= wave.failure_budget + 1 and"),
    _m(6, "no total", "rollout/reports.py", "if total is not None and sum(", "if total is None and sum("),
    _m(6, "minProof out of reach is no reason", "rollout/reports.py",
       "and present - failed >= min(wave.min_proof, present)", ""),
    _m(7, "who failed never proves", "rollout/reports.py",
       "if member.resets >= MAX_RESETS or room(", "if True or room("),
    _m(7, "who failed proves without room", "rollout/reports.py",
       "room(turn, member.wave) < 1:", "room(turn, member.wave) < -9:"),
    _m(8, "nobody is offline", "rollout/presence.py", "elif turn.silent(cluster):", "elif False:"),
    _m(8, "who is in flight as its rollout is replaced is forgotten", "rollout/rollouts.py",
       "over = [cluster for cluster in flying if cluster in left]", "over = flying"),
    _m(8, "nobody comes back", "rollout/presence.py",
       "if turn.members[cluster].phase is M.OFFLINE and turn.heard(cluster) and not seen.cordoned:", "if False:"),
    _m(9, "a rollback goes forward through the waves", "rollout/rollback.py",
       "for wave in reversed(turn.rollout.waves)", "for wave in turn.rollout.waves"),
    _m(9, "a rollback knows no limit", "rollout/rollback.py",
       "for cluster in _order(turn)[:room]:", "for cluster in _order(turn):"),
    _m(9, "the failed are last to go back", "rollout/rollback.py",
       "phase is not M.FAILED)", "phase is M.FAILED)"),
    _m(9, "who does not come back is forgotten", "rollout/rollback.py",
       "turn.now - since <= deadline_s:", "True:"),
    _m(9, "rollbacks are decided last", "rollout/rounds.py",
       "s.phase is not Phase.ROLLING_BACK", "s.phase is Phase.ROLLING_BACK"),
    _m(9, "what proved itself a moment ago is not gone back to", "rollout/results.py",
       "for mark in marks for bundle", "for mark in () for bundle"),
    _m(10, "a rollback holds nothing", "rollout/rollback.py",
       "        turn.effects.append(Hold(", "        str(Hold("),
    _m(10, "planning forgets holds", "rollout/waves.py",
       "for b in group.bundles if b in holds.keys() - released - kept.keys()]", "for b in ()]"),
    _m(11, "a hub that just started calls clusters offline", "rollout/turn.py",
       "return self.now >= self.settle_until", "return True"),
    _m(11, "deadlines run out while the hub is down", "rollout/forward.py",
       "member.resumed_at, turn.settle_until)", "member.resumed_at)"),
    _m(12, "a leaver still counts", "rollout/rollouts.py",
       "case Left(cluster=cluster):\n            _left(turn, cluster)", "case Left():\n            pass"),
    _m(12, "a wave that lost everybody is done", "rollout/commands.py",
       "if _lost_everybody(turn, wave, index):", "if False:"),
    _m(12, "nobody is bootstrapped", "rollout/joiners.py",
       "        elif state is None:\n            ready[pair]", "        elif False:\n            ready[pair]"),
    _m(12, "who joins gets what was found out for something older", "rollout/joiners.py",
       'base.rollout == last.get(bundle, "") and answers(', "answers("),
    _m(12, "who joins gets what was made for another Cluster file", "rollout/joiners.py",
       "return base.clusters.get(cluster) == fleet.clusters[cluster] and", "return cluster in base.clusters and"),
    _m(12, "a bootstrap is begun twice", "rollout/joiners.py",
       "if pair in begins or (state and not (state.rollout.base and state.members[cluster].phase in UNMOVED)):",
       "if pair in begins:"),
    _m(12, "a bootstrap comes past a person's hold", "rollout/joiners.py",
       "if keep is not None and not keep.revision:", "if False:"),
    _m(12, "a bootstrap takes what belongs to another bundle", "rollout/joiners.py",
       "if other != bundle and mine & theirs]:", "if other != bundle and False]:"),
    _m(12, "a bootstrap goes without its dependencies", "rollout/joiners.py",
       "        if not more:\n            return sorted(late.items())", "        return []"),
    _m(12, "a bootstrap goes before a dependency of the same commit", "rollout/joiners.py",
       "if other.number < base.number or beside:", "if False:"),
    _m(12, "a bootstrap does not wait for its dependency there", "rollout/held.py",
       "if rollout.base or queue.goes_first(other, rollout):", "if queue.goes_first(other, rollout):"),
    _m(12, "ordinary rollouts take who is being bootstrapped", "rollout/joiners.py",
       "if member.phase in IN_FLIGHT and any(wants", "if False and any(wants"),
    _m(12, "who was not moved stays in an outdated bootstrap", "rollout/joiners.py",
       "return (phase in UNMOVED and pair not in stay) or", "return"),
    _m(12, "a bootstrap soaks and asks at gates", "rollout/joiners.py",
       "soak_s=0.0, min_proof=0, offline_budget=size, failure_budget=size, gates=())", "min_proof=0)"),
    _m(12, "a bootstrap that fails acts as its policy says", "rollout/joiners.py",
       'action="continue",', "action=policy.failure.action,"),
    _m(12, "an ordinary rollout waits for bootstraps", "rollout/waves.py",
       "for s in ordinary if s.phase not in FINAL", "for s in active if s.phase not in FINAL"),
    _m(12, "a bootstrap counts as what completed last", "rollout/results.py",
       "if state.phase is Phase.COMPLETED and not state.rollout.base:", "if state.phase is Phase.COMPLETED:"),
    _m(12, "a bootstrap can be ended", "rollout/commands.py",
       "if turn.rollout.base and command.verb in _ENDS:", "if False:"),
    _m(12, "who leaves makes room for who leaves next", "rollout/rollouts.py",
       "if not isinstance(event, Reported | Evidence | Left):", "if not isinstance(event, Reported | Evidence):"),
    _m(13, "suspended clusters are moved", "rollout/turn.py", "        if not told:\n", "        if True:\n"),
    _m(13, "clocks of the suspended run", "rollout/forward.py",
       "            if member.suspended:\n", "            if False:\n"),
    _m(14, "freezes of the whole fleet bind nobody", "rollout/forward.py",
       "    if turn.frozen:\n", "    if False:\n"),
    _m(14, "windows are always open", "repo/windows.py",
       "    why = _why(ordered, now)\n    if why is None:\n", "    why = None\n    if why is None:\n"),
    _m(14, "windows are read in UTC", "repo/windows.py",
       "local = datetime.fromtimestamp(now, ZoneInfo(window.zone))", "local = datetime.fromtimestamp(now, UTC)"),
    _m(14, "who is held is moved", "rollout/forward.py",
       'held = "" if turn.emergency else turn.held(cluster)', 'held = ""'),
    _m(14, "cordons bind nobody", "rollout/forward.py", "    if seen.cordoned:\n", "    if False:\n"),
    _m(14, "dependencies block nobody", "rollout/held.py",
       "return self._blocked(cluster, rollout) if rollout.depends_on else", 'return "" if rollout.depends_on else'),
    _m(14, "one change more at a time", "rollout/held.py",
       "(flying := self._flying(cluster)) >= limit:", "(flying := self._flying(cluster)) > limit:"),
    _m(14, "moves of this turn do not count", "rollout/held.py",
       "self._moved[cluster] += 1", "pass"),
    _m(14, "a hold of this turn does not count", "rollout/held.py",
       "self.on_hold = {**self.on_hold, bundle: given_up.commits}", "pass"),
    _m(14, "dependents do not wait with what waits", "rollout/waves.py",
       "    waiting |= queue.behind([rollout for rollout, _ in found], late)\n", ""),
    _m(14, "bundles of one commit wait for each other", "rollout/exchange.py",
       "                if bundle in reached[other]:", "                if False:"),
    _m(14, "what replaced a dependency goes not first", "rollout/queue.py",
       "other.revision in rollout.commits", "other.revision == rollout.revision"),
    _m(14, "dependents do not wait for the fix of what was on hold", "rollout/queue.py",
       "if state.rollout.revision in given_up or any(", "if any("),
    _m(15, "gates before a wave are open", "rollout/forward.py",
       'if _stays_shut(turn, "before"):', 'if _stays_shut(turn, "nowhere"):'),
    _m(15, "gates after a wave are open", "rollout/forward.py",
       'if _stays_shut(turn, "after"):', 'if _stays_shut(turn, "nowhere"):'),
    _m(15, "a wave opens in a freeze on what its gates find then", "rollout/forward.py",
       "if asked and turn.count(turn.wave, M.PENDING) and (", "if False and ("),
    _m(15, "evidence from before the gate's turn counts", "rollout/gates.py",
       "not max(found.since, found.last_at) <= evidence.asked_at <= turn.now", "not evidence.asked_at <= turn.now"),
    _m(15, "evidence from the future counts", "rollout/gates.py",
       "<= evidence.asked_at <= turn.now", "<= evidence.asked_at"),
    _m(15, "an answer overtaken by a newer one counts", "rollout/gates.py",
       "erring=False, true_since=0.0, last_at=evidence.asked_at, text=text)",
       "erring=False, true_since=0.0, text=text)"),
    _m(15, "old evidence counts", "rollout/gates.py",
       "if not found.true_since or now - found.last_at > _APART * interval_s(gate):", "if not found.true_since:"),
    _m(15, "good for no time is enough", "rollout/gates.py",
       "return found.last_at - found.true_since >= (", "return 0.0 <= ("),
    _m(15, "evidence from before the last proof counts", "rollout/reports.py",
       '        gates.forget(turn, turn.wave_of(cluster), "after")\n', "        pass\n"),
    _m(15, "one person is enough", "rollout/gates.py",
       ">= gate.approval.approvers", ">= 1"),
    _m(15, "anybody may approve", "rollout/gates.py",
       "if gate.approval.by and command.actor not in gate.approval.by:", "if False:"),
    _m(15, "words never grow old", "rollout/gates.py",
       "if now - vote.at <= expires_s]", "if True]"),
    _m(16, "gates wait for ever", "rollout/gates.py",
       "if turn.now > fails_at(gate, found):", "if False:"),
    _m(16, "a gate that cannot be asked runs out of time", "rollout/gates.py",
       "erring=True, time_from=at, true_since", "true_since"),
    _m(16, "a gate's time runs while the hub does not", "rollout/gates.py",
       "if not turn.settled and found.time_from != turn.settle_until:", "if False:"),
    _m(16, "a gate's time runs while the rollout is paused", "rollout/gates.py",
       "None if found.failed else replace(found, time_from=turn.now)", "None if found.failed else found"),
    _m(16, "a word against it is none", "rollout/gates.py",
       "replace(turn.gates[name], votes=(), failed=True, text=text)",
       "replace(turn.gates[name], votes=(), text=text)"),
    _m(17, "promote opens nothing", "rollout/commands.py",
       "opened = gates.waive(turn, wave, side, by)", "opened = False"),
    _m(17, "skip-wave leaves everybody in", "rollout/commands.py",
       "        if _is_open(turn.members[cluster]):\n            turn.put(cluster, M.LEFT",
       "        if False:\n            turn.put(cluster, M.LEFT"),
    _m(17, "retry does not begin anew", "rollout/commands.py",
       "turn.put(cluster, M.MOVING, moved_at=turn.now, soak_from=0.0",
       "turn.put(cluster, M.MOVING, soak_from=0.0"),
    _m(17, "a command needs no reason", "rollout/commands.py", "if not command.reason:", "if False:"),
    _m(18, "an emergency waits for waves", "rollout/forward.py",
       "return len(turn.rollout.waves) if turn.emergency else turn.wave + 1", "return turn.wave + 1"),
    _m(18, "an emergency waits for freezes", "rollout/forward.py",
       '    if turn.emergency:\n        return ""\n    if turn.frozen', "    if turn.frozen"),
    _m(18, "an emergency goes back by itself", "rollout/reports.py",
       "    if turn.emergency:\n        return\n    if turn.rollout.action", "    if turn.rollout.action"),
)  # fmt: skip


def killed_by(mutation: Mutation) -> str:
    """The first test that fails with it; "" when none does."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for package in ("hub", "proto", "agent", "tests"):
            shutil.copytree(ROOT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__", "contract"))
        for name in ("pyproject.toml", "docs"):
            (copy / name).symlink_to(ROOT / name)
        (copy / mutation.path).write_text(mutation.broken())
        for tests in STAGES:
            if found := _fails(copy, tests):
                return found
    return ""


def _fails(copy: Path, tests: Sequence[str]) -> str:
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--tb=no", "-rfE", *tests]
    environment = {
        **os.environ,
        "PYTHONPATH": str(copy),
        "FLOTILLA_SIM_SEEDS": str(SEEDS - 1),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    try:
        done = subprocess.run(
            command, cwd=copy, env=environment, capture_output=True, text=True, timeout=TIME_LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return f"{tests[0]} does not end"
    if done.returncode == 0:
        return ""
    told = [line.split(" - ")[0] for line in done.stdout.splitlines() if line.startswith(("FAILED ", "ERROR "))]
    if not told:
        raise RuntimeError(f"pytest could not run: {done.stdout[-1000:]}{done.stderr[-1000:]}")
    return told[0].removeprefix("FAILED ").removeprefix("ERROR ")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rule", type=int, default=0, help="only those of this rule")
    options = parser.parse_args()
    chosen = [mutation for mutation in MUTATIONS if options.rule in (0, mutation.rule)]
    for mutation in chosen:
        mutation.broken()
    survived = 0
    print("| rule | broken so that | noticed by |\n|---|---|---|", flush=True)
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        for mutation, found in zip(chosen, pool.map(killed_by, chosen), strict=True):
            survived += not found
            print(f"| {mutation.rule} | {mutation.name} | {found or '**nothing**'} |", flush=True)
    print(f"\n{len(chosen) - survived} of {len(chosen)} noticed")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
