"""RolloutPolicy: waves, budgets, and what a failure does. Pure. Next: `fleet`."""

from typing import Literal

from hub.model import Amount, FailurePolicy, RolloutPolicy, WavePolicy
from hub.repo.kinds.common import METADATA
from hub.repo.schema import Section

REST = "rest"
"""The wave of the clusters that no wave selects."""
_ACTIONS: tuple[Literal["rollback", "pause", "continue"], ...] = ("rollback", "pause", "continue")
_SUPERSEDE: tuple[Literal["queue", "replace"], ...] = ("queue", "replace")


def policy(root: Section, where: str) -> RolloutPolicy:
    name = root.section("metadata", METADATA).name(what="rollout policy")
    spec = root.section("spec", ("waves", "failure", "offline", "supersede"), not_yet=("windows", "freezes", "gates"))
    failure = spec.section("failure", ("budget", "deadline", "action"))
    offline = spec.section("offline", ("after", "budget"))
    return RolloutPolicy(
        name=name,
        waves=_waves(spec),
        failure=FailurePolicy(
            budget=failure.amount("budget", default=Amount(value=0)),
            deadline_s=failure.duration("deadline", default=600.0, least=1.0),
            action=failure.choice("action", _ACTIONS, default="rollback"),
        ),
        offline_after_s=offline.duration("after", default=300.0, least=1.0),
        offline_budget=offline.amount("budget", default=Amount(value=0)) if offline.has("budget") else None,
        supersede=spec.choice("supersede", _SUPERSEDE, default="queue"),
        where=where,
    )


def _waves(spec: Section) -> tuple[WavePolicy, ...]:
    fields = ("name", "select", "maxConcurrent", "soak", "allowEmpty", "minProof", "offlineBudget")
    found: list[WavePolicy] = []
    for section in spec.sections("waves", fields, not_yet=("gates", "windows")):
        name = section.name(what="wave")
        if name == REST:
            section.problem(
                f"{REST!r} is the wave of the clusters that no wave selects", "name", remedy="give it another name"
            )
        elif name and any(wave.name == name for wave in found):
            section.problem(f"{name!r} is the name of an earlier wave", "name", remedy="give it another name")
        found.append(
            WavePolicy(
                name=name,
                select=section.selector("select", why="which clusters are in the wave"),
                max_concurrent=section.amount("maxConcurrent", default=Amount(value=100, percent=True), least=1),
                soak_s=section.duration("soak", default=0.0),
                allow_empty=section.flag("allowEmpty", default=False),
                min_proof=section.amount("minProof", default=Amount(value=50, percent=True), least=1),
                offline_budget=(
                    section.amount("offlineBudget", default=Amount(value=0)) if section.has("offlineBudget") else None
                ),
            )
        )
    return tuple(found)
