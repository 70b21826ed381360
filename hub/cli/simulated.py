"""What `flotilla simulate` prints: the rollouts on a line of time, the waves of a typical one, figures, what was waited
for, and two policies side by side.
"""

import shutil
from datetime import UTC, datetime

import click

from hub.cli import asking, telling
from hub.cli.schedule import lasting
from hub.simulate import figures, picture
from hub.simulate.figures import Figures
from hub.simulate.ledger import Entry
from hub.simulate.world import Record

MOST_LINES = 20
"""Of rollouts that are drawn, but for --all."""
_MOST_WAITS = 10


def draw(record: Record, *, seed: int, everything: bool) -> None:
    setting, made = record.setting, figures.figures(record)
    width = shutil.get_terminal_size().columns
    begins = datetime.fromtimestamp(setting.start_s, UTC)
    title = (
        f"{setting.policy}: {telling.counted(made.clusters, 'clusters')}, "
        f"{setting.days:g} day{'' if setting.days == 1 else 's'} from {begins:%a %Y-%m-%d}, seed {seed}"
    )
    click.secho(title, bold=True)
    drawn = record.entries if everything else record.entries[:MOST_LINES]
    if drawn:
        _print_lines(picture.overview(drawn, start=setting.start_s, end=setting.end_s, width=width))
        if len(drawn) < len(record.entries):
            click.echo(f"… and {len(record.entries) - len(drawn)} more (--all)")
        _print_legend(record.entries)
        typical = _typical(record.entries)
        click.echo(f"\nThe waves of {typical.rollout}, {lasting(_lasted(typical))}:")
        _print_lines(picture.waves(typical, width=width))
    click.echo()
    _print_figures(made, everything=everything)


def _typical(entries: list[Entry]) -> Entry:
    """The one of median length, of those that were completed if there are any."""
    ended = [entry for entry in entries if 100 in entry.reached or entry.phase.value == "completed"] or entries
    return sorted(ended, key=_lasted)[(len(ended) - 1) // 2]


def _lasted(entry: Entry) -> float:
    return sum(part.end - part.start for part in entry.parts)


def _print_lines(lines: list[picture.Line]) -> None:
    for line in lines:
        cells = "".join(click.style(text, fg=colour) if colour else text for text, colour in line.cells)
        click.echo(f"{line.label}  {cells}  {line.note}".rstrip() if line.note else f"{line.label}  {cells}".rstrip())


def _print_legend(entries: list[Entry]) -> None:
    told = [f"{click.style(mark, fg=colour)} {what}" for mark, colour, what in picture.legend(entries)]
    click.echo("  ".join(told))


def _print_figures(made: Figures, *, everything: bool) -> None:
    for what, value in _told(made).items():
        click.echo(f"{what:<26}{value}")
    waits = made.waits if everything else made.waits[:_MOST_WAITS]
    if waits:
        click.echo()
        asking.print_table(
            ("WAITED FOR", "WAVE", "SHARE", "IN ALL", "MEDIAN", "P95", "ROLLOUTS"),
            [
                (
                    wait.kind,
                    wait.wave or "-",
                    f"{wait.share:.1%}",
                    *map(lasting, (wait.times.total_s, wait.times.median_s, wait.times.p95_s)),
                    wait.times.many,
                )
                for wait in waits
            ],
            empty="",
        )
        if len(waits) < len(made.waits):
            click.echo(f"… and {len(made.waits) - len(waits)} more (--all)")
    if (worst := made.costliest) is not None:
        click.secho(f"\n{_cost(worst)}", bold=True)
    click.echo()


def _cost(worst: figures.Wait) -> str:
    return (
        f"{worst.name} costs most: {worst.share:.0%} of the time of all rollouts, {lasting(worst.times.total_s)} in all"
    )


def _told(made: Figures) -> dict[str, str]:
    """Each figure and its words, in the order in which they are printed."""
    phases = ", ".join(f"{many} {phase}" for phase, many in made.phases.items()) or "none"
    if not made.commits:
        return {"commits": "0: give it more --days or --commits-per-hour", "decisions": str(made.decisions)}
    told = {
        "commits": f"{made.commits}, {made.bad} bad, {made.overtaken} overtaken by newer ones",
        "rollouts": f"{made.rollouts}: {phases}; {made.queued} queued, {made.paused} paused",
    }
    for share, each in made.reached.items():
        told[f"to {share} % of clusters"] = (
            f"median {lasting(each.median_s)}, p95 {lasting(each.p95_s)} ({telling.counted(each.many, 'rollouts')})"
            if each.many
            else "never"
        )
    if made.exposed:
        ordered = sorted(made.exposed)
        told["exposed to a bad commit"] = (
            f"median {figures.rank(ordered, 50)}, p95 {figures.rank(ordered, 95)}, most {ordered[-1]} of "
            f"{telling.counted(made.clusters, 'clusters')}"
        )
        back = f"{made.stopped.many} turned back after {lasting(made.stopped.median_s)} (median)"
        told["bad commits"] = f"{back if made.stopped.many else 'none turned back'}, {made.missed} completed everywhere"
    told["decisions"] = str(made.decisions)
    return told


def side_by_side(first: Record, second: Record) -> None:
    one, other = (figures.figures(record) for record in (first, second))
    told, against = _told(one), _told(other)
    rows = [(what, told.get(what, "-"), against.get(what, "-")) for what in dict.fromkeys((*told, *against))]
    rows.append(("costs most", _short_cost(one), _short_cost(other)))
    asking.print_table(("", first.setting.policy, second.setting.policy), rows, empty="")


def _short_cost(made: Figures) -> str:
    return f"{made.costliest.name}, {made.costliest.share:.0%}" if made.costliest else "nothing"
