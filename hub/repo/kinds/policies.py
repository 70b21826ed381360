"""RolloutPolicy: waves, their limits, budgets, and what a failure does; gates are in `gates`. Pure. Next: `fleet`."""

from dataclasses import replace
from typing import Literal

from hub.model import Amount, FailurePolicy, RolloutPolicy, WavePolicy
from hub.repo.kinds import gates
from hub.repo.kinds.common import METADATA
from hub.repo.schema import Section

REST = "rest"
"""The wave of the clusters that no wave selects."""
_ACTIONS: tuple[Literal["rollback", "pause", "continue"], ...] = ("rollback", "pause", "continue")
_FIXES: tuple[Literal["wait", "jump"], ...] = ("wait", "jump")
_SUPERSEDE: tuple[Literal["queue", "replace"], ...] = ("queue", "replace")


def policy(root: Section, where: str) -> RolloutPolicy:
    name = root.section("metadata", METADATA).name(what="rollout policy")
    fields = ("waves", "failure", "offline", "supersede", "fixes", "removalApproval", *gates.FIELDS)
    spec = root.section("spec", fields, not_yet=("freezes",))
    failure = spec.section("failure", ("budget", "total", "deadline", "action"))
    offline = spec.section("offline", ("after", "budget"))
    first, waves = gates.gates(spec), _waves(spec)
    if first and not waves:
        spec.problem("stand before no wave", "gates", remedy="give the policy a wave")
    elif clash := {gate.name for gate in first} & {gate.name for wave in waves[:1] for gate in wave.gates}:
        spec.problem(f"{min(clash)!r} is the name of a gate of the first wave too", "gates", remedy="rename one")
    elif first:
        waves = (replace(waves[0], gates=(*first, *waves[0].gates)), *waves[1:])
    return RolloutPolicy(
        name=name,
        waves=waves,
        failure=FailurePolicy(
            budget=failure.amount("budget", default=Amount(value=0)),
            total=failure.amount("total", default=Amount(value=0)) if failure.has("total") else None,
            deadline_s=failure.duration("deadline", default=600.0, least=1.0),
            action=failure.choice("action", _ACTIONS, default="rollback"),
        ),
        offline_after_s=offline.duration("after", default=300.0, least=1.0),
        offline_budget=offline.amount("budget", default=Amount(value=0)) if offline.has("budget") else None,
        supersede=spec.choice("supersede", _SUPERSEDE, default="queue"),
        fixes=spec.choice("fixes", _FIXES, default="wait"),
        windows=gates.of_windows(spec),
        removal_approval=spec.amount("removalApproval", default=Amount(value=10, percent=True)),
        where=where,
    )


def _waves(spec: Section) -> tuple[WavePolicy, ...]:
    which = ("select", "clusters", "share")
    how = ("orderBy", "maxConcurrent", "maxUnavailable", "soak", "allowEmpty", "minProof", "offlineBudget")
    found: list[WavePolicy] = []
    for section in spec.sections("waves", ("name", *which, *how, *gates.FIELDS)):
        name = section.name(what="wave")
        if name == REST:
            section.problem(
                f"{REST!r} is the wave of the clusters that no wave selects", "name", remedy="give it another name"
            )
        elif name and any(wave.name == name for wave in found):
            section.problem(f"{name!r} is the name of an earlier wave", "name", remedy="give it another name")
        named = section.names("clusters", what="cluster")
        if not any(section.states(field) for field in ("select", "clusters", "share")):
            section.problem(
                "is missing", "select", remedy="say which clusters are in the wave: select, clusters or share"
            )
        found.append(
            WavePolicy(
                name=name,
                select=(
                    section.selector("select", why="which clusters are in the wave")
                    if section.states("select")
                    else None
                ),
                clusters=named,
                share=_amount(section, "share", least=1),
                order_by=section.text("orderBy"),
                max_concurrent=section.amount("maxConcurrent", default=Amount(value=100, percent=True), least=1),
                max_unavailable=_amount(section, "maxUnavailable", least=1),
                soak_s=section.duration("soak", default=0.0),
                allow_empty=section.flag("allowEmpty", default=False),
                min_proof=section.amount("minProof", default=Amount(value=50, percent=True), least=1),
                offline_budget=_amount(section, "offlineBudget"),
                gates=gates.gates(section),
                windows=gates.of_windows(section),
            )
        )
    return tuple(found)


def _amount(section: Section, name: str, *, least: int = 0) -> Amount | None:
    return section.amount(name, default=Amount(value=least), least=least) if section.has(name) else None
