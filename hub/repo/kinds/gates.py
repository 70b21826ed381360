"""Gates and windows of a rollout policy, and freezes of the fleet. Pure. Next: `policies`, `fleets`, `clusters`.

Each gate has exactly one check; its name, by which people approve it, is the check's unless it says another.
"""

import math
import re
from dataclasses import replace
from datetime import datetime
from typing import Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from hub.model import Approval, BundleDone, Freeze, Gate, HttpCheck, MetricCheck, Selector, Window
from hub.repo import windows
from hub.repo.schema import Section
from proto.ids import BundleName

FIELDS = ("gates", "windows", "after")
"""Of a policy and of its waves."""
_WHEN: tuple[Literal["before", "after"], ...] = ("before", "after")
_ADDRESS = re.compile(r"https?://[^/@\s?#]+([/?]\S*)?")
_LEAST_INTERVAL_S = 5.0
_CHECKS = ("approval", "metric", "http", "bundle")


def gates(section: Section) -> tuple[Gate, ...]:
    """The gates of one wave, with that of its `after`."""
    found: list[Gate] = []
    if section.has("after"):
        done = _done(section.section("after", ("bundle", "wave")), "bundle")
        found.append(Gate(name=f"after-{done.bundle}", done=done))
    for each in section.sections("gates", ("name", "when", "timeout", *_CHECKS)):
        checks = [name for name in _CHECKS if each.states(name)]
        if len(checks) != 1:
            each.problem(f"has {len(checks)} checks", remedy=f"give it one of {', '.join(_CHECKS)}")
            continue
        name = each.name(what="gate", required=False) or checks[0]
        if any(name == other.name for other in found):
            each.problem(f"{name!r} is the name of an earlier gate of the wave", "name", remedy="give it another name")
        found.append(_gate(each, name, checks[0]))
    return tuple(found)


def of_windows(section: Section) -> tuple[Window, ...]:
    found = []
    for each in section.sections("windows", ("deny", "allow")):
        ways = [way for way in ("deny", "allow") if each.has(way)]
        if len(ways) != 1:
            each.problem("is neither or both", remedy="write deny: or allow:, and then when")
            continue
        try:
            found.append(windows.parse(each.text(ways[0]), deny=ways[0] == "deny"))
        except ValueError as error:
            each.problem(str(error), ways[0])
    return tuple(found)


def freezes(spec: Section) -> tuple[Freeze, ...]:
    found = []
    for each in spec.sections("freezes", ("name", "from", "to", "zone", "reason", "clusters")):
        name = each.name(what="freeze")
        start, end = (_moment(each, field) for field in ("from", "to"))
        if start and end and end <= start:
            each.problem("is not after 'from'", "to", remedy="write when it ends")
        select = each.selector("clusters", why="which clusters are frozen") if each.states("clusters") else Selector()
        found.append(Freeze(name=name, start_s=start, end_s=end, reason=each.text("reason"), select=select))
    return tuple(found)


def _gate(section: Section, name: str, check: str) -> Gate:
    made = Gate(
        name=name,
        when=section.choice("when", _WHEN, default="before"),
        timeout_s=section.duration("timeout", default=0.0),
    )
    match check:
        case "approval":
            return replace(made, approval=_approval(section.section("approval", ("approvers", "by", "expires"))))
        case "metric":
            return _in_time(section, replace(made, metric=_metric(section)))
        case "http":
            return _in_time(section, replace(made, http=_http(section)))
        case _:
            return replace(made, done=_done(section.section("bundle", ("name", "wave")), "name"))


def _in_time(section: Section, gate: Gate) -> Gate:
    """A gate that cannot pass before it has failed would turn every commit back."""
    check = gate.metric or gate.http
    assert check is not None
    takes_s = math.ceil(check.for_s / check.interval_s) * check.interval_s
    if 0 < gate.timeout_s <= takes_s:
        message = f"is {section.text('timeout')!r}, and the check takes {takes_s:.0f} s by 'for' and 'interval'"
        section.problem(message, "timeout", remedy=f"make it longer than {takes_s:.0f} s")
    return gate


def _approval(section: Section) -> Approval:
    by = tuple(dict.fromkeys(section.texts("by")))
    approvers = section.whole("approvers", default=1, least=1)
    if by and approvers > len(by):
        section.problem(f"is {approvers}, and 'by' names {len(by)}", "approvers", remedy="name more people")
    return Approval(approvers=approvers, by=by, expires_s=section.duration("expires", default=0.0))


def _metric(section: Section) -> MetricCheck:
    own = section.section("metric", ("query", "server", "above", "below", "for", "interval"))
    above, below = own.number("above"), own.number("below")
    if not own.text("query").strip():
        own.problem("is missing", "query", remedy="write a PromQL query")
    if above is None and below is None:
        own.problem("has no limit", remedy="write above: or below:, or both")
    elif above is not None and below is not None and above >= below:
        own.problem(f"is {above:g}, and 'below' is {below:g}: nothing is between", "above", remedy="swap them")
    return MetricCheck(
        query=own.text("query"),
        server=own.text("server"),
        above=above,
        below=below,
        for_s=own.duration("for", default=0.0),
        interval_s=own.duration("interval", default=30.0, least=_LEAST_INTERVAL_S),
    )


def _http(section: Section) -> HttpCheck:
    own = section.section("http", ("url", "status", "for", "interval"))
    url = own.text("url")
    if _ADDRESS.fullmatch(url) is None:
        own.problem(f"is {url[:100]!r}", "url", remedy="write an http or https address without a password")
    return HttpCheck(
        url=url,
        status=own.wholes("status", least=100, most=599) or (200,),
        for_s=own.duration("for", default=0.0),
        interval_s=own.duration("interval", default=30.0, least=_LEAST_INTERVAL_S),
    )


def _done(section: Section, field: str) -> BundleDone:
    name = section.name(field, what="bundle")
    return BundleDone(bundle=BundleName(name), wave=section.name("wave", what="wave", required=False))


def _moment(section: Section, field: str) -> float:
    """Unix seconds of a local time in `zone`, or of one with an offset. Where the clock shows it twice, or leaves it
    out, what is frozen longer counts."""
    text, zone = section.text(field), section.text("zone", default="UTC")
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo:
            return moment.timestamp()
        either = [moment.replace(tzinfo=ZoneInfo(zone), fold=fold).timestamp() for fold in (0, 1)]
        return max(either) if field == "to" else min(either)
    except (ZoneInfoNotFoundError, OSError):
        section.problem(f"{zone[:60]!r} is not a time zone", "zone", remedy="write such as Europe/Berlin")
    except (ValueError, OverflowError):
        remedy = "write such as 2026-12-20T18:00"
        section.problem(f"is {text[:60]!r}" if text else "is missing", field, remedy=remedy)
    return 0.0
