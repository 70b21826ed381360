"""The contract suite as a table: every behaviour, and whether it was seen on the simulated and on the real API server.

Runs the suite once on each and prints Markdown; ends with 1 when a behaviour was not seen on one of them. A test is a
behaviour, its name the sentence; the cases of a parametrised one are counted. `make behaviours` calls it.
"""

import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

SUITE = Path(__file__).parents[1] / "contract"
NOT_BEHAVIOURS = ("test_sim_",)
"""Files that compare the simulation with the real server, and say nothing of the agent."""
SERVERS = {"simulated": (), "real": ("--real",)}


@dataclass(slots=True)
class Cases:
    """The cases of one behaviour on one server."""

    passed: int = 0
    others: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        words = [str(self.passed)] if self.passed else []
        return ", ".join([*words, *sorted(set(self.others))]) or "not run"

    @property
    def seen(self) -> bool:
        return self.passed > 0 and not self.others


Seen = dict[tuple[str, str], Cases]
"""(file, behaviour) → its cases."""


def read(results: Path) -> Seen:
    """The cases of a JUnit file, as pytest writes it."""
    found: Seen = {}
    for case in ElementTree.parse(results).getroot().iter("testcase"):
        file = case.get("classname", "").rpartition(".")[2]
        name = re.sub(r"\[.*", "", case.get("name", "")).removeprefix("test_").replace("_", " ")
        cases = found.setdefault((file, name), Cases())
        outcome = next((child.tag for child in case if child.tag in ("failure", "error", "skipped")), "")
        if outcome:
            cases.others.append(outcome)
        else:
            cases.passed += 1
    return found


def table(seen: Mapping[str, Seen]) -> Iterator[str]:
    """Pure: Markdown lines; a section for each file, a row for each behaviour."""
    behaviours = sorted({behaviour for server in seen.values() for behaviour in server})
    file = ""
    for behaviour in behaviours:
        if behaviour[0] != file:
            file = behaviour[0]
            yield from ("", f"### {file}", "", f"| behaviour | {' | '.join(seen)} |", "|---" * (1 + len(seen)) + "|")
        cells = [str(server.get(behaviour, Cases())) for server in seen.values()]
        yield f"| {behaviour[1]} | {' | '.join(cells)} |"


def missing(seen: Mapping[str, Seen]) -> list[str]:
    """Pure: the behaviours that were not seen on every server, in words."""
    every = sorted({behaviour for server in seen.values() for behaviour in server})
    return [
        f"{file}: {name}: {server}: {found.get((file, name), Cases())}"
        for file, name in every
        for server, found in seen.items()
        if not found.get((file, name), Cases()).seen
    ]


def run(arguments: Sequence[str], folder: Path) -> dict[str, Seen]:
    """The suite on each server; `arguments` go to pytest."""
    files = [str(file) for file in sorted(SUITE.glob("test_*.py")) if not file.name.startswith(NOT_BEHAVIOURS)]
    seen = {}
    for server, options in SERVERS.items():
        results = folder / f"{server}.xml"
        command = [sys.executable, "-m", "pytest", "-q", f"--junitxml={results}", *options, *(arguments or files)]
        subprocess.run(command, stdout=sys.stderr, check=False)
        seen[server] = read(results)
    return seen


def main(arguments: Sequence[str]) -> int:
    with tempfile.TemporaryDirectory() as folder:
        seen = run(arguments, Path(folder))
    _print(table(seen))
    for server, found in seen.items():
        _print([f"{server}: {len(found)} behaviours, {sum(cases.passed for cases in found.values())} cases passed"])
    unseen = missing(seen)
    _print(["", *(f"not seen: {one}" for one in unseen)] if unseen else ["every behaviour was seen on both servers"])
    return 1 if unseen else 0


def _print(lines: Iterable[str]) -> None:
    for line in lines:
        print(line)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
