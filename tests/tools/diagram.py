"""The state diagrams of `docs/rollouts.md`, from the engine's tables. `python -m tests.tools.diagram` writes them."""

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from hub.rollout.transitions import MEMBER, PHASE
from hub.state import MemberPhase, Phase

PAGE = Path(__file__).parents[2] / "docs" / "rollouts.md"
S = TypeVar("S", bound=StrEnum)


def diagram(table: Mapping[S, frozenset[S]], first: S) -> str:
    """Pure: a Mermaid state diagram of a table of transitions; who is done for good leads to the end."""
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {_name(first)}"]
    phases = type(first)  # in their order, which sets have none of
    for phase in phases:
        lines += [f"    {_name(phase)} --> {_name(other)}" for other in phases if other in table[phase]]
        if not table[phase]:
            lines.append(f"    {_name(phase)} --> [*]")
    return "\n".join([*lines, "```"])


def _name(phase: StrEnum) -> str:
    return phase.value.replace("-", "_")


DIAGRAMS = {"rollout": diagram(PHASE, Phase.RUNNING), "cluster": diagram(MEMBER, MemberPhase.PENDING)}


def generated(page: str) -> str:
    """Pure: the page with each diagram, between its two marks, made anew."""
    for name, text in DIAGRAMS.items():
        begin, end = f"<!-- {name}: made by tests/tools/diagram.py -->", f"<!-- end of {name} -->"
        before, found, rest = page.partition(begin)
        _, ended, after = rest.partition(end)
        if not found or not ended:
            raise ValueError(f"the page has no place for the diagram {name}")
        page = f"{before}{begin}\n{text}\n{end}{after}"
    return page


if __name__ == "__main__":
    PAGE.write_text(generated(PAGE.read_text()))
