"""`flotilla health`: the health of live objects in files, in the agent's own words, without hub, cluster or network.

What cannot be read is told with its file and line on standard error, stops nothing else, and makes the exit code 2.
"""

import json
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from hub.cli.asking import print_table
from hub.model import Finding
from hub.repo import kinds, salvage
from hub.repo.schema import Section
from hub.repo.yaml_reader import Document
from proto import health_checks
from proto.health import health as health_of
from proto.messages import Health
from proto.objects import key_of
from proto.slices import HealthCheck

STDIN = "-"
GOOD, BAD_HEALTH, BAD_INPUT = 0, 1, 2


@click.command(
    epilog="""\b
Exit code: 0 when every object is Current, 1 when one is not, 2 when something cannot be read.

\b
Examples:
  kubectl get deployments,jobs -A -o yaml | flotilla health -
  flotilla health live.yaml
  flotilla health certificates.json --bundle bundles/shop/bundle.yaml
  flotilla health live.yaml --output json"""
)
@click.argument("files", metavar="FILE...", nargs=-1, required=True)
@click.option(
    "--bundle",
    "bundle_file",
    metavar="FILE",
    help="A bundle.yaml, whose healthChecks judge as in a cluster.",
)
@click.option("--output", "-o", type=click.Choice(["text", "json"]), default="text", help="How to print it.")
def health(files: tuple[str, ...], bundle_file: str | None, output: str) -> None:
    """How healthy the live objects in these files are, and why.

    The files are what `kubectl get -o yaml` or `-o json` writes: objects or Lists of them, with their status; `-` is
    standard input. The words are kstatus's: Current, InProgress, Failed, Terminating, Unknown.
    """
    problems: list[str] = []
    checks = _checks(bundle_file, problems) if bundle_file else ()
    rows = []
    for name in files:
        for where, obj in _objects(name, problems):
            try:
                rows.append(_row(where, obj, checks))
            except (KeyError, TypeError, AttributeError):
                problems.append(f"{where}: is not a Kubernetes object (it has apiVersion, kind and metadata.name)")
    if output == "json":
        click.echo(json.dumps({"objects": rows, "problems": problems}, indent=2))
    else:
        _print(rows)
    for problem in problems:
        click.echo(f"{click.style('error:', fg='red', bold=True)} {problem}", err=True)
    if problems:
        sys.exit(BAD_INPUT)
    sys.exit(GOOD if all(row["health"] == Health.CURRENT for row in rows) else BAD_HEALTH)


commands: tuple[click.Command, ...] = (health,)


def _row(where: str, obj: Mapping[str, Any], checks: Sequence[HealthCheck]) -> dict[str, str]:
    api_version, kind = str(obj["apiVersion"]), str(obj["kind"])
    check = health_checks.check_for(checks, api_version, kind)
    word, reason, message = health_of(obj, now_s=time.time(), check=check)
    return {
        "object": str(key_of(obj)),
        "apiVersion": api_version,
        "health": str(word),
        "reason": reason,
        "message": message,
        "where": where,
    }


def _print(rows: Sequence[Mapping[str, str]]) -> None:
    table = [[row["object"], row["health"], row["reason"], " ".join(row["message"].split())] for row in rows]
    print_table(("OBJECT", "HEALTH", "REASON", "WHY"), table, empty="no objects")
    if rows:
        counts = Counter(row["health"] for row in rows)
        click.echo("\n" + ", ".join(f"{counts[word]} {word}" for word in Health if counts[word]))


def _objects(name: str, problems: list[str]) -> Iterator[tuple[str, Any]]:
    """Each object of a file, those of Lists one by one, with its place."""
    for document in _documents(name, problems):
        value = document.value
        items = value.get("items") if isinstance(value, Mapping) else None
        if not isinstance(items, list) or not str(value.get("kind", "")).endswith("List"):
            yield f"{document.where}:{document.line}", value
            continue
        # The items of a typed list, such as a PodList, do not say what they are.
        of: dict[str, Any] = {"apiVersion": value.get("apiVersion"), "kind": str(value["kind"]).removesuffix("List")}
        for index, item in enumerate(items):
            typed = {**of, **item} if isinstance(item, Mapping) and of["kind"] else item
            yield f"{document.where}:{document.lines.at('items', index)}", typed


def _documents(name: str, problems: list[str]) -> Sequence[Document]:
    shown = "standard input" if name == STDIN else name
    try:
        data = sys.stdin.buffer.read() if name == STDIN else Path(name).read_bytes()
    except OSError as error:
        problems.append(f"{shown}: cannot be read: {error.strerror}")
        return ()
    found, broken = salvage.read(data, where=shown)
    problems += [str(lost.error) for lost in broken]
    if not found and not broken:
        problems.append(f"{shown}: is empty")
    return found


def _checks(name: str, problems: list[str]) -> Sequence[HealthCheck]:
    """The health checks of the Bundle in a file."""
    for document in _documents(name, problems):
        value = document.value if isinstance(document.value, Mapping) else {}
        spec = value.get("spec")
        if value.get("kind") == "Bundle" and isinstance(spec, Mapping):
            findings: list[Finding] = []
            section = Section(document, findings, value=spec, path=("spec",), fields=spec.keys())
            found = kinds.health_checks(section)
            problems += [str(finding) for finding in findings]
            return () if findings else found
    problems.append(f"{name}: has no Bundle (kind: Bundle, with a spec)")
    return ()
