"""`flotilla plan`: what would roll out when the fleet repo goes from one revision to another, and what is risky in it.

What may go wrong comes first. The exit code is 0 whatever the plan says. `forecast` makes it.
"""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from hub.cli import asking, diffing, forecast, offline, revisions, telling
from hub.cli.forecast import FATES, Plan


@click.command(
    epilog="""\b
Examples:
  flotilla plan                                  # what would my changes since the last commit roll out?
  flotilla plan main                             # ... since main
  flotilla plan HEAD~1..HEAD --format json
  flotilla plan origin/main...HEAD --format markdown > comment.md""",
)
@click.argument("revisions_", metavar="[REV | REV..REV]", default="HEAD")
@click.option("--format", "form", type=click.Choice(["text", "markdown", "json"]), default="text", show_default=True)
@offline.fleet_option
def plan(root: Path, revisions_: str, form: str) -> None:
    """Show which clusters would change, in which waves, and what is risky about it.

    One revision is where the plan starts, and the working tree is where it goes. It is made as if every cluster ran the
    first revision and no rollout was under way. What cannot be planned is told; the rest is planned.
    """
    comparison = revisions.compared(root, revisions_)
    made = forecast.planned(comparison)
    if form == "json":
        click.echo(json.dumps(_as_json(made), indent=2))
    elif form == "markdown":
        click.echo(_markdown(made))
    else:
        _print(made)
        for finding in made.findings:
            click.echo(telling.shown(finding), err=True)


commands: tuple[click.Command, ...] = (plan,)


def _print(made: Plan) -> None:
    click.secho(made.title, bold=True)
    if made.dangers:
        asking.print_table(("RISK", "OBJECT", "BUNDLE", "WAVES", "CLUSTERS", "WHY"), _danger_rows(made), empty="")
        click.echo()
    if made.rollouts:
        columns = ("ROLLOUT", "POLICY", "WAVE", "CLUSTERS", *(fate.upper() for fate in FATES), "WHO")
        asking.print_table(columns, _wave_rows(made), empty="")
        click.echo()
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


def _as_json(made: Plan) -> dict[str, Any]:
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
                        "soakSeconds": wave.wave.soak_s,
                        "objects": {
                            name: {_json_word(fate): counts.get(fate, 0) for fate in FATES}
                            for name, counts in wave.counts.items()
                        },
                    }
                    for wave in one.waves
                ],
            }
            for one in made.rollouts
        ],
        "waiting": dict(made.waiting),
        "findings": [dataclasses.asdict(finding) for finding in made.findings],
    }


def _json_word(fate: str) -> str:
    return {"let go": "letGo"}.get(fate, fate)


def _markdown(made: Plan) -> str:
    parts = [f"### Flotilla plan: {diffing.escaped(made.title)}", ""]
    tables = [
        (("risk", "object", "bundle", "waves", "clusters", "why"), _danger_rows(made)),
        (("rollout", "policy", "wave", "clusters", *FATES, "who"), _wave_rows(made)),
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
    notes = [*_notes(made), *(str(finding) for finding in made.findings[: diffing.MAX_ROWS])]
    parts += [f"- {diffing.escaped(note)}" for note in notes]
    return "\n".join(parts)
