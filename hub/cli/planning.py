"""`flotilla plan`: what would roll out when the fleet repo goes from one revision to another, and what is risky in it.

What may go wrong comes first. The exit code is 1 when something is wrong with the revision that it goes to.
`forecast` makes it.
"""

import dataclasses
import json
import math
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from hub.cli import asking, diffing, forecast, offline, revisions, schedule, telling
from hub.cli.forecast import FATES, Plan
from hub.rollout import gates
from proto.ids import RolloutId

Ahead = Mapping[RolloutId, tuple[schedule.Prospect, ...]]
"""What the waves of each rollout will wait for."""
_SCHEDULE = ("ROLLOUT", "WAVE", "EARLIEST", "HOW", "WAITS FOR")


@click.command(
    epilog="""\b
Examples:
  flotilla plan                                  # what would my changes since the last commit roll out?
  flotilla plan main                             # ... since main
  flotilla plan HEAD~1..HEAD -o json
  flotilla plan --verbose --at 2026-12-24T18:00  # ... with every cluster, if it were made in the freeze?
  flotilla plan origin/main...HEAD -o markdown > comment.md""",
)
@click.argument("revisions_", metavar="[REV | REV..REV]", default="HEAD")
@offline.form_option("text", "markdown", "json")
@click.option("--at", "moment", default="", metavar="TIME", help="When it would be made, in UTC; now without it.")
@click.option("--verbose", is_flag=True, help="Name every cluster of every wave.")
@offline.fleet_option
def plan(root: Path, revisions_: str, form: str, moment: str, verbose: bool) -> None:
    """Show what would roll out, in which waves, and what is risky.

    One revision is where the plan starts, and the working tree is where it goes. It is made as if every cluster ran the
    first revision and no rollout was under way. What cannot be planned is told, the rest is planned; the exit code is 1
    when something is wrong with the revision where it goes. When a wave can begin at the earliest is told by soaks,
    checks, windows and freezes alone: as if clusters were done, and people agreed, at once.
    """
    at = telling.moment(moment, "--at") if moment else time.time()
    comparison = revisions.compared(root, revisions_)
    made = forecast.planned(comparison)
    fleet = comparison.after.fleet
    ahead = {one.rollout.id: schedule.prospects(one.rollout, fleet, at=at) for one in made.rollouts}
    if form == "json":
        click.echo(json.dumps(_as_json(made, ahead), indent=2))
    elif form == "markdown":
        click.echo(_markdown(made, ahead))
    else:
        _print(made, ahead, verbose=verbose)
        for finding in made.findings:
            click.echo(telling.shown(finding), err=True)
    if not made.sound:
        sys.exit(1)


commands: tuple[click.Command, ...] = (plan,)


def _print(made: Plan, ahead: Ahead, *, verbose: bool) -> None:
    click.secho(made.title, bold=True)
    if made.dangers:
        asking.print_table(("RISK", "OBJECT", "BUNDLE", "WAVES", "CLUSTERS", "WHY"), _danger_rows(made), empty="")
        click.echo()
    if made.rollouts:
        columns = ("ROLLOUT", "POLICY", "WAVE", "CLUSTERS", *(fate.upper() for fate in FATES), "WHO")
        asking.print_table(columns, _wave_rows(made), empty="")
        click.echo()
        asking.print_table(_SCHEDULE, _schedule_rows(made, ahead), empty="")
        click.echo()
    for one in made.rollouts if verbose else ():
        for wave in one.rollout.waves:
            click.echo(f"{' and '.join(one.rollout.bundles)}, wave {wave.name}: {', '.join(wave.clusters) or 'nobody'}")
    for line in _notes(made):
        click.echo(line)


def _danger_rows(made: Plan) -> list[tuple[object, ...]]:
    return [(d.risk.kind, d.key, d.bundle, ", ".join(d.waves), len(d.clusters), d.risk.why) for d in made.dangers]


def _wave_rows(made: Plan) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = []
    for one in made.rollouts:
        for number, planned_wave in enumerate(one.waves, 1):
            wave = planned_wave.wave
            who = ", ".join(wave.clusters[:5]) + (
                f", … {len(wave.clusters) - 5} more" if len(wave.clusters) > 5 else ""
            )
            for name, counts in planned_wave.counts.items():
                numbers = [counts.get(fate, 0) for fate in FATES]
                rows.append((name, one.policy, f"{number} {wave.name}", len(wave.clusters), *numbers, who))
    return rows


def _schedule_rows(made: Plan, ahead: Ahead) -> list[tuple[object, ...]]:
    """When each wave can begin, how it goes, and what it waits for."""
    rows: list[tuple[object, ...]] = []
    for one in made.rollouts:
        name = " and ".join(one.rollout.bundles)
        for number, each in enumerate(ahead[one.rollout.id], 1):
            begins = schedule.lasting(each.after_s)
            earliest = {0.0: "at once", math.inf: "never"}.get(each.after_s, f"after {begins}")
            waits = "; ".join([*each.waits, *(f"then {text}" for text in each.then)]) or "-"
            rows.append((name, f"{number} {each.wave.name}", earliest, schedule.limits(each.wave), waits))
    return rows


def _notes(made: Plan) -> Iterator[str]:
    for one in made.rollouts:
        names = " and ".join(one.rollout.bundles)
        if len(one.rollout.bundles) > 1:
            yield f"{names} exchange objects and roll as one"
        yield from (f"{names}: {warning}" for warning in one.warnings)
    yield from (f"{name} waits: {why}" for name, why in sorted(made.waiting.items()))
    if made.joined:
        yield f"new in the fleet: {telling.some(made.joined)}"
    if made.left:
        yield f"no longer in the fleet: {telling.some(made.left)}; what they run stays"
    if not made.rollouts:
        yield "nothing rolls out"
        return
    yield f"{telling.counted(len(made.rollouts), 'rollouts')} on {len(made.changing)} of {made.clusters} clusters"


def _as_json(made: Plan, ahead: Ahead) -> dict[str, Any]:
    return {
        "title": made.title,
        "clusters": made.clusters,
        "changing": sorted(made.changing),
        "joined": list(made.joined),
        "left": list(made.left),
        "risks": [
            {
                "risk": d.risk.kind,
                "object": str(d.key),
                "bundle": d.bundle,
                "why": d.risk.why,
                "waves": list(d.waves),
                "clusters": list(d.clusters),
            }
            for d in made.dangers
        ],
        "rollouts": [
            {
                "bundles": list(one.rollout.bundles),
                "policy": one.policy,
                "dependsOn": list(one.rollout.depends_on),
                "warnings": list(one.warnings),
                "waves": [
                    {
                        "name": wave.wave.name,
                        "clusters": list(wave.wave.clusters),
                        "maxConcurrent": wave.wave.max_concurrent,
                        "maxUnavailable": wave.wave.max_unavailable,
                        "failureBudget": wave.wave.failure_budget,
                        "offlineBudget": wave.wave.offline_budget,
                        "minProof": wave.wave.min_proof,
                        "soakSeconds": wave.wave.soak_s,
                        "gates": [
                            {"name": gate.name, "when": gate.when, "wants": gates.wanted(gate)}
                            for gate in wave.wave.gates
                        ],
                        "windows": [
                            {("deny" if window.deny else "allow"): window.text}
                            for window in (*one.rollout.windows, *wave.wave.windows)
                        ],
                        "earliestSeconds": None if math.isinf(each.after_s) else each.after_s,
                        "waitsFor": [*each.waits, *each.then],
                        "held": each.held,
                        "objects": {
                            name: {_json_word(fate): counts.get(fate, 0) for fate in FATES}
                            for name, counts in wave.counts.items()
                        },
                    }
                    for wave, each in zip(one.waves, ahead[one.rollout.id], strict=True)
                ],
            }
            for one in made.rollouts
        ],
        "waiting": dict(made.waiting),
        "findings": [dataclasses.asdict(finding) for finding in made.findings],
    }


def _json_word(fate: str) -> str:
    return {"let go": "letGo"}.get(fate, fate)


def _markdown(made: Plan, ahead: Ahead) -> str:
    parts = [f"### Flotilla plan: {diffing.escaped(made.title)}", ""]
    tables = [
        (("risk", "object", "bundle", "waves", "clusters", "why"), _danger_rows(made)),
        (("rollout", "policy", "wave", "clusters", *FATES, "who"), _wave_rows(made)),
        (tuple(name.lower() for name in _SCHEDULE), _schedule_rows(made, ahead)),
    ]
    for columns, rows in tables:
        if rows:
            parts += [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
            parts += [
                f"| {' | '.join(diffing.escaped(str(cell)) for cell in row)} |" for row in rows[: diffing.MAX_ROWS]
            ]
            if len(rows) > diffing.MAX_ROWS:
                parts.append(f"| … and {len(rows) - diffing.MAX_ROWS} more |{' |' * (len(columns) - 1)}")
            parts.append("")
    notes = [*_notes(made), *(click.unstyle(telling.shown(finding)) for finding in made.findings[: diffing.MAX_ROWS])]
    parts += [f"- {diffing.escaped(note)}" for note in notes]
    return "\n".join(parts)
